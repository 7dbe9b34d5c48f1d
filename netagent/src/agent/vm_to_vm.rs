//! Which instances reach each other (P-12): those whose records bear the same number of an account.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::access::AccountName;
use crate::agent::Agent;
use crate::config::policy::VmToVm;
use crate::host::Host;
use crate::instance::{Instance, Interface};

impl<H: Host> Agent<H> {
    /// The number of the instance's account in the records of its interfaces; 0 where it reaches no other.
    pub(crate) fn account_number(&self, instance: &Instance) -> u32 {
        match self.config.policy.vm_to_vm {
            VmToVm::Off => 0,
            VmToVm::Account => self.registry.accounts().number(&instance.account),
        }
    }

    /// The same, of one of its interfaces: what has a relay goes nowhere past it.
    pub(crate) fn account_of(&self, instance: &Instance, interface: &Interface) -> u32 {
        match interface.relay {
            Some(_) => 0,
            None => self.account_number(instance),
        }
    }
}

/// Accounts that have instances, by a hash of their names: what an agent writes into records must mean the same to the
/// next one, which finds them in force.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    instances: BTreeMap<u32, BTreeMap<AccountName, usize>>,
}

impl Accounts {
    /// Counts an instance in.
    pub(crate) fn add(&mut self, account: &AccountName) {
        let same = self.instances.entry(hash(account)).or_default();
        *same.entry(account.clone()).or_default() += 1;
    }

    /// Counts an instance out.
    pub(crate) fn remove(&mut self, account: &AccountName) {
        let Some(same) = self.instances.get_mut(&hash(account)) else {
            return;
        };
        if let Some(count) = same.get_mut(account) {
            *count -= 1;
            if *count == 0 {
                same.remove(account);
            }
        }
    }

    /// The number of an account. One whose hash is another's too, which is one chance in four thousand million, has none:
    /// no two accounts with instances ever have the same number, whatever the order in which they came.
    fn number(&self, account: &AccountName) -> u32 {
        let number = hash(account);
        let same = self.instances.get(&number);
        let is_anothers = same.is_some_and(|same| same.keys().any(|other| other != account));
        if is_anothers { 0 } else { number }
    }
}

fn hash(account: &AccountName) -> u32 {
    let digest = Sha256::digest(account.as_str());
    let mut first = [0; 4];
    first
        .iter_mut()
        .zip(digest)
        .for_each(|(to, from)| *to = from);
    u32::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> AccountName {
        AccountName::parse(name).unwrap()
    }

    #[test]
    fn an_account_has_the_same_number_in_every_order_and_another_has_another() {
        let (acme, globex) = (account("acme"), account("globex"));
        let mut accounts = Accounts::default();
        let alone = accounts.number(&acme);
        assert_ne!(alone, 0);
        accounts.add(&globex);
        accounts.add(&acme);
        assert_eq!(accounts.number(&acme), alone);
        assert_ne!(accounts.number(&globex), alone);
    }

    #[test]
    fn accounts_of_one_hash_have_no_number_while_both_have_instances() {
        let (acme, globex) = (account("acme"), account("globex"));
        let mut accounts = Accounts::default();
        accounts.add(&acme);
        let colliding = accounts.instances.get_mut(&hash(&acme)).unwrap();
        colliding.insert(globex.clone(), 1);
        assert_eq!(accounts.number(&acme), 0);
        let colliding = accounts.instances.get_mut(&hash(&acme)).unwrap();
        colliding.remove(&globex);
        assert_eq!(accounts.number(&acme), hash(&acme));
        accounts.remove(&acme);
        assert_eq!(accounts.number(&acme), hash(&acme));
    }
}
