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

/// What one interface holds from create to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Slot of the pool, and of the datapath.
    pub slot: u32,
    /// Name of the TAP.
    pub tap_name: String,
    tap_number: u32,
}

/// Slots and TAP names in use.
#[derive(Clone, Debug, Default)]
pub struct Reservations {
    slots: BTreeSet<u32>,
    tap_numbers: BTreeSet<u32>,
    uses: BTreeMap<u32, u32>,
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
    /// Reserves the lowest free slot and the lowest TAP name that is neither reserved nor in `present`.
    ///
    /// # Errors
    /// Where every slot is in use.
    pub fn reserve(
        &mut self,
        pool: &Pool,
        present: &BTreeSet<&str>,
    ) -> Result<Reservation, IpamError> {
        let slot = lowest_free(&self.slots);
        if slot >= pool.slots() {
            return Err(IpamError::Exhausted {
                subnet: pool.subnet,
            });
        }
        let tap_number = (lowest_free(&self.tap_numbers)..)
            .find(|number| {
                !self.tap_numbers.contains(number)
                    && !present.contains(format!("{}{number}", pool.tap_prefix).as_str())
            })
            .unwrap_or(u32::MAX);
        self.slots.insert(slot);
        self.tap_numbers.insert(tap_number);
        Ok(Reservation {
            slot,
            tap_name: format!("{}{tap_number}", pool.tap_prefix),
            tap_number,
        })
    }

    /// Gives a reservation back.
    pub fn release(&mut self, reservation: &Reservation) {
        self.slots.remove(&reservation.slot);
        self.tap_numbers.remove(&reservation.tap_number);
    }

    /// The interface index of the next TAP in `slot`: not the one of the last 32,766.
    pub fn next_ifindex(&mut self, slot: u32) -> u32 {
        let uses = self.uses.entry(slot).or_insert(0);
        let ifindex = vm::ifindex(slot, *uses);
        *uses = uses.wrapping_add(1);
        ifindex
    }
}

fn lowest_free(taken: &BTreeSet<u32>) -> u32 {
    let gap = (0..)
        .zip(taken)
        .find(|(expected, taken)| expected != *taken);
    gap.map_or(taken.len() as u32, |(expected, _)| expected)
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
        let present = BTreeSet::from(["tap0", "tap2", "eth0"]);
        let mut reserve = || {
            reservations
                .reserve(&pool(GatewayPlace::First), &present)
                .unwrap()
        };
        let (first, second) = (reserve(), reserve());
        assert_eq!((first.slot, first.tap_name.as_str()), (0, "tap1"));
        assert_eq!((second.slot, second.tap_name.as_str()), (1, "tap3"));
    }

    #[test]
    fn a_full_pool_says_so() {
        let pool = Pool {
            subnet: "10.0.0.0/29".parse().unwrap(),
            ..pool(GatewayPlace::First)
        };
        let mut reservations = Reservations::default();
        reservations.reserve(&pool, &BTreeSet::new()).unwrap();
        reservations.reserve(&pool, &BTreeSet::new()).unwrap();
        let error = reservations.reserve(&pool, &BTreeSet::new()).unwrap_err();
        assert_eq!(error.to_string(), "Address pool 10.0.0.0/29 is exhausted");
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
            let mut held: Vec<Reservation> = Vec::new();
            for release in releases {
                if release < held.len() {
                    reservations.release(&held.remove(release));
                } else {
                    let next = reservations.reserve(&pool, &BTreeSet::new()).unwrap();
                    prop_assert!(held.iter().all(|other| other.slot != next.slot && other.tap_name != next.tap_name));
                    let below = held.iter().filter(|other| other.slot < next.slot).count();
                    prop_assert_eq!(below, next.slot as usize);
                    held.push(next);
                }
            }
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
