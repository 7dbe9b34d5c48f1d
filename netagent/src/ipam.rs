//! Which addresses, TAP names and interface indices an interface gets (I-10 to I-12).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netagent_common::vm;

use crate::config::GatewayPlace;

/// The addresses that can be given away.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Cut into one /30 for each slot.
    pub subnet: Ipv4Net,
    /// A /48, cut into one /64 for each slot; `None` where the host has no IPv6.
    pub subnet6: Option<Ipv6Net>,
    /// Which address of a /30 is the host's.
    pub gateway: GatewayPlace,
    /// Names of TAPs begin with this.
    pub tap_prefix: String,
}

/// The addresses of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotAddresses {
    /// The gateway's address with its prefix.
    pub host_v4: Ipv4Net,
    /// The guest's address with its prefix.
    pub guest_v4: Ipv4Net,
    /// The guest's IPv6 address with its prefix.
    pub guest_v6: Option<Ipv6Net>,
    /// MAC address of the guest.
    pub guest_mac: [u8; 6],
}

/// Slots and TAP names in use.
#[derive(Clone, Debug, Default)]
pub struct Reservations {
    slots: Numbers,
    tap_names: BTreeSet<String>,
    tap_numbers: Numbers,
    uses: BTreeMap<u32, u32>,
}

/// A set of numbers that knows the lowest one outside it.
#[derive(Clone, Debug, Default)]
struct Numbers {
    taken: BTreeSet<u32>,
    /// Every number below this is taken.
    full_below: u32,
}

/// Nothing is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Every slot is in use.
    #[error("Address pool {subnet} is exhausted")]
    Exhausted {
        /// The pool.
        subnet: Ipv4Net,
    },
    /// Every place in the datapath is in use.
    #[error("all {} network interfaces of this host are in use", vm::SLOTS_MAX)]
    NoSlot,
}

impl Pool {
    /// Its prefixes, one for each family.
    #[must_use]
    pub fn prefixes(&self) -> Vec<IpNet> {
        let v6 = self.subnet6.map(IpNet::V6);
        std::iter::once(IpNet::V4(self.subnet)).chain(v6).collect()
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> u32 {
        1_u32
            .checked_shl(30_u32.saturating_sub(self.subnet.prefix_len().into()))
            .unwrap_or(0)
            .min(vm::SLOTS_MAX)
    }

    /// The addresses of a slot; `slot` is less than [`Pool::slots`].
    #[must_use]
    pub fn addresses(&self, slot: u32) -> SlotAddresses {
        let base = u32::from(self.subnet.network()) + slot * 4;
        let (host, guest) = match self.gateway {
            GatewayPlace::First => (base + 1, base + 2),
            GatewayPlace::Last => (base + 2, base + 1),
        };
        let network = |address: u32| Ipv4Net::new_assert(Ipv4Addr::from(address), 30);
        SlotAddresses {
            host_v4: network(host),
            guest_v4: network(guest),
            guest_v6: self.subnet6.map(|subnet6| guest_v6(subnet6, slot)),
            guest_mac: guest_mac(slot),
        }
    }
}

/// `::2` of the slot's /64.
fn guest_v6(subnet6: Ipv6Net, slot: u32) -> Ipv6Net {
    let address = u128::from(subnet6.network()) | u128::from(slot) << 64 | 2;
    Ipv6Net::new_assert(Ipv6Addr::from(address), 64)
}

/// `AA:FC:` and the slot's number, counted from 1.
fn guest_mac(slot: u32) -> [u8; 6] {
    let [a, b, c, d] = (slot + 1).to_be_bytes();
    [0xaa, 0xfc, a, b, c, d]
}

impl Reservations {
    /// Holds a slot and a TAP name that are given away already.
    pub fn hold(&mut self, slot: u32, tap_name: &str) {
        self.slots.insert(slot);
        self.tap_names.insert(tap_name.to_owned());
    }

    /// Reserves the lowest free slot and the lowest TAP name that is neither reserved nor present on the host.
    ///
    /// # Errors
    /// Where every slot is in use.
    pub fn reserve_pool(
        &mut self,
        pool: &Pool,
        is_present: &dyn Fn(&str) -> bool,
    ) -> Result<(u32, String), IpamError> {
        let slot = self.slots.lowest_free();
        if slot >= pool.slots() {
            let subnet = pool.subnet;
            return Err(IpamError::Exhausted { subnet });
        }
        let mut passed = Vec::new();
        let tap_name = loop {
            let number = self.tap_numbers.lowest_free();
            self.tap_numbers.insert(number);
            let name = format!("{}{number}", pool.tap_prefix);
            if !self.tap_names.contains(&name) && !is_present(&name) {
                break name;
            }
            // Names that were held at the start are known by name alone.
            if !self.tap_names.contains(&name) {
                passed.push(number);
            }
        };
        passed
            .iter()
            .for_each(|number| self.tap_numbers.remove(*number));
        self.hold(slot, &tap_name);
        Ok((slot, tap_name))
    }

    /// Reserves the highest free slot: a place in the datapath for an interface with the user's own address.
    ///
    /// # Errors
    /// Where every slot is in use.
    pub fn reserve_custom_slot(&mut self, tap_name: &str) -> Result<u32, IpamError> {
        let slot = self.reserve_leg()?;
        self.hold(slot, tap_name);
        Ok(slot)
    }

    /// Reserves the highest free slot for the leg of an interface: it has no TAP.
    ///
    /// # Errors
    /// Where every slot is in use.
    pub fn reserve_leg(&mut self) -> Result<u32, IpamError> {
        let slot = (0..vm::SLOTS_MAX)
            .rev()
            .find(|slot| !self.slots.taken.contains(slot))
            .ok_or(IpamError::NoSlot)?;
        self.hold_leg(slot);
        Ok(slot)
    }

    /// Holds the slot of a leg that is given away already.
    pub fn hold_leg(&mut self, slot: u32) {
        self.slots.insert(slot);
    }

    /// Gives the slot of a leg back.
    pub fn release_leg(&mut self, slot: u32) {
        self.slots.remove(slot);
    }

    /// Gives a slot and a name back.
    pub fn release(&mut self, pool: &Pool, slot: u32, tap_name: &str) {
        self.slots.remove(slot);
        self.tap_names.remove(tap_name);
        let number = tap_name.strip_prefix(&pool.tap_prefix);
        if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
            self.tap_numbers.remove(number);
        }
    }

    /// The interface index of the next TAP in `slot`: not the one of the last 32,766.
    pub fn next_ifindex(&mut self, slot: u32) -> u32 {
        let uses = self.uses.entry(slot).or_insert(0);
        let ifindex = vm::ifindex(slot, *uses);
        *uses = uses.wrapping_add(1);
        ifindex
    }

    /// How often a TAP was made in `slot`.
    #[must_use]
    pub fn uses(&self, slot: u32) -> u32 {
        self.uses.get(&slot).copied().unwrap_or(0)
    }

    /// Remembers how often a TAP was made in `slot`.
    pub fn set_uses(&mut self, slot: u32, uses: u32) {
        self.uses.insert(slot, uses);
    }
}

impl Numbers {
    fn insert(&mut self, number: u32) {
        self.taken.insert(number);
    }

    fn remove(&mut self, number: u32) {
        self.taken.remove(&number);
        self.full_below = self.full_below.min(number);
    }

    fn lowest_free(&mut self) -> u32 {
        while self.taken.contains(&self.full_below) {
            self.full_below += 1;
        }
        self.full_below
    }
}

/// A MAC address out of random bytes: unicast, locally administered (IEEE 802), and none of the pool's.
#[must_use]
pub const fn custom_mac(random: [u8; 6]) -> [u8; 6] {
    let [a, b, c, d, e, f] = random;
    let first = a & 0xfc | 0x02;
    // The pool's begin with AA:FC, and the gateway's is FE:FC:00:00:00:01.
    let second = if b == 0xfc { 0xfd } else { b };
    [first, second, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(gateway: GatewayPlace) -> Pool {
        Pool {
            subnet: "172.16.0.0/16".parse().unwrap(),
            subnet6: Some("fd12:3456:789a::/48".parse().unwrap()),
            gateway,
            tap_prefix: "tap".into(),
        }
    }

    fn check(gateway: GatewayPlace, slot: u32, expected: [&str; 3]) {
        let addresses = pool(gateway).addresses(slot);
        let v6 = addresses.guest_v6.unwrap();
        let found = [
            addresses.host_v4.to_string(),
            addresses.guest_v4.to_string(),
            v6.to_string(),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn slot_n_is_the_nth_slash_30() {
        let first = GatewayPlace::First;
        check(
            first,
            0,
            ["172.16.0.1/30", "172.16.0.2/30", "fd12:3456:789a::2/64"],
        );
        check(
            first,
            1,
            ["172.16.0.5/30", "172.16.0.6/30", "fd12:3456:789a:1::2/64"],
        );
        check(
            first,
            16_383,
            [
                "172.16.255.253/30",
                "172.16.255.254/30",
                "fd12:3456:789a:3fff::2/64",
            ],
        );
        check(
            GatewayPlace::Last,
            1,
            ["172.16.0.6/30", "172.16.0.5/30", "fd12:3456:789a:1::2/64"],
        );
    }

    #[test]
    fn a_guest_mac_counts_from_one() {
        assert_eq!(guest_mac(0), [0xaa, 0xfc, 0, 0, 0, 1]);
        assert_eq!(guest_mac(0xffff), [0xaa, 0xfc, 0, 1, 0, 0]);
    }

    #[test]
    fn tap_names_skip_what_the_host_has_and_slots_do_not() {
        let mut reservations = Reservations::default();
        let pool = pool(GatewayPlace::First);
        let present = |name: &str| ["tap0", "tap2", "eth0"].contains(&name);
        let mut reserve =
            |present: &dyn Fn(&str) -> bool| reservations.reserve_pool(&pool, present).unwrap();
        assert_eq!(reserve(&present), (0, "tap1".to_owned()));
        assert_eq!(reserve(&present), (1, "tap3".to_owned()));
        assert_eq!(
            reserve(&|_| false),
            (2, "tap0".to_owned()),
            "it is gone from the host"
        );
    }

    #[test]
    fn what_was_held_before_a_start_is_not_given_away() {
        let mut reservations = Reservations::default();
        let pool = pool(GatewayPlace::First);
        reservations.hold(0, "tap1");
        reservations.hold(1, "tap0");
        assert_eq!(
            reservations.reserve_pool(&pool, &|_| false).unwrap(),
            (2, "tap2".to_owned())
        );
        reservations.release(&pool, 1, "tap0");
        assert_eq!(
            reservations.reserve_pool(&pool, &|_| false).unwrap(),
            (1, "tap0".to_owned())
        );
    }

    #[test]
    fn a_full_pool_says_so() {
        let pool = pool(GatewayPlace::First);
        let mut reservations = Reservations::default();
        for slot in 0..16_384 {
            let reserved = reservations.reserve_pool(&pool, &|_| false).unwrap();
            assert_eq!(reserved.0, slot);
        }
        let error = reservations.reserve_pool(&pool, &|_| false).unwrap_err();
        assert_eq!(error.to_string(), "Address pool 172.16.0.0/16 is exhausted");
        reservations.release(&pool, 7, "tap7");
        assert_eq!(
            reservations.reserve_pool(&pool, &|_| false).unwrap(),
            (7, "tap7".to_owned())
        );
    }

    #[test]
    fn custom_slots_come_from_the_other_end() {
        let mut reservations = Reservations::default();
        assert_eq!(reservations.reserve_custom_slot("vpc0"), Ok(65_535));
        assert_eq!(reservations.reserve_custom_slot("vpc1"), Ok(65_534));
        reservations.release(&pool(GatewayPlace::First), 65_535, "vpc0");
        assert_eq!(reservations.reserve_leg(), Ok(65_535), "legs too");
        assert_eq!(reservations.reserve_custom_slot("vpc2"), Ok(65_533));
        reservations.release_leg(65_535);
        assert_eq!(reservations.reserve_custom_slot("vpc3"), Ok(65_535));
    }

    #[test]
    fn an_interface_index_is_not_used_again() {
        let mut reservations = Reservations::default();
        let indices: BTreeSet<u32> = (0..1_000).map(|_| reservations.next_ifindex(7)).collect();
        assert_eq!(indices.len(), 1_000);
        assert!(indices.iter().all(|index| vm::slot(*index) == 7));
    }

    proptest! {
        #[test]
        fn reservations_never_overlap_and_the_lowest_is_taken(releases in prop::collection::vec(0_usize..40, 0..80)) {
            let pool = pool(GatewayPlace::First);
            let mut reservations = Reservations::default();
            let mut held: Vec<(u32, String)> = Vec::new();
            for release in releases {
                if release < held.len() {
                    let (slot, name) = held.remove(release);
                    reservations.release(&pool, slot, &name);
                } else {
                    let next = reservations.reserve_pool(&pool, &|_| false).unwrap();
                    prop_assert!(held.iter().all(|other| other.0 != next.0 && other.1 != next.1));
                    let below = held.iter().filter(|other| other.0 < next.0).count();
                    prop_assert_eq!(below, next.0 as usize);
                    held.push(next);
                }
            }
        }

        #[test]
        fn a_custom_mac_is_local_unicast_and_not_the_pools(random in any::<[u8; 6]>()) {
            let mac = custom_mac(random);
            prop_assert_eq!(mac[0] & 3, 2);
            prop_assert!(mac[..2] != [0xaa, 0xfc] && mac[..2] != [0xfe, 0xfc]);
        }

        #[test]
        fn slots_share_no_address(left in 0_u32..16_384, right in 0_u32..16_384) {
            let pool = pool(GatewayPlace::First);
            let (a, b) = (pool.addresses(left), pool.addresses(right));
            prop_assert_eq!(left == right, a.guest_v4.trunc() == b.guest_v4.trunc());
            prop_assert_eq!(left == right, a.guest_v6 == b.guest_v6);
            prop_assert_eq!(left == right, a.guest_mac == b.guest_mac);
            prop_assert!(a.host_v4.contains(&a.guest_v4.addr()) && a.host_v4.addr() != a.guest_v4.addr());
        }
    }
}
