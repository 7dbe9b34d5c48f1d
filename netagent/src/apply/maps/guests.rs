//! Which slot a guest's address leads to, where instances of an account reach each other (P-12).

use std::net::{Ipv4Addr, Ipv6Addr};

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netagent_common::names::map;
use netagent_common::vm::Interface;

use crate::apply::maps::{Maps, MapsError, failed, gone};

pub(super) type Guests<A> = LpmTrie<MapData, A, u32>;

impl Maps {
    /// Leads to a slot by the addresses of the interface that is about to be in force there.
    pub(super) fn write_guests(&mut self, record: &Interface) -> Result<(), MapsError> {
        for network in networks(record) {
            if self.guests.get(&network) == Some(&record.slot) {
                continue;
            }
            match network {
                IpNet::V4(net) => self
                    .guests_v4
                    .insert(&key_v4(net), record.slot, 0)
                    .map_err(failed(map::GUESTS_V4))?,
                IpNet::V6(net) => self
                    .guests_v6
                    .insert(&key_v6(net), record.slot, 0)
                    .map_err(failed(map::GUESTS_V6))?,
            }
            self.guests.insert(network, record.slot);
        }
        Ok(())
    }

    /// Removes what leads to a slot, save by the addresses of the interface in force there.
    pub(super) fn forget_guests(
        &mut self,
        slot: u32,
        own: Option<&Interface>,
    ) -> Result<(), MapsError> {
        let own: Vec<IpNet> = own.into_iter().flat_map(networks).collect();
        let guests = self.guests.iter();
        let former: Vec<IpNet> = guests
            .filter(|(network, to)| **to == slot && !own.contains(network))
            .map(|(network, _)| *network)
            .collect();
        for network in former {
            self.remove_guest(network)?;
            self.guests.remove(&network);
        }
        Ok(())
    }

    /// Reads which addresses lead to slots, and removes what an agent left that was killed between record and entry.
    pub(super) fn read_guests(&mut self) -> Result<(), MapsError> {
        let v4: Result<Vec<_>, _> = self.guests_v4.iter().collect();
        let v4 = v4.map_err(failed(map::GUESTS_V4))?.into_iter();
        let v6: Result<Vec<_>, _> = self.guests_v6.iter().collect();
        let v6 = v6.map_err(failed(map::GUESTS_V6))?.into_iter();
        let v4 = v4.filter_map(|(key, slot)| {
            let net = Ipv4Net::new(Ipv4Addr::from(key.data()), key.prefix_len() as u8);
            Some((IpNet::V4(net.ok()?), slot))
        });
        let v6 = v6.filter_map(|(key, slot)| {
            let net = Ipv6Net::new(Ipv6Addr::from(key.data()), key.prefix_len() as u8);
            Some((IpNet::V6(net.ok()?), slot))
        });
        let entries: Vec<(IpNet, u32)> = v4.chain(v6).collect();
        for (network, slot) in entries {
            let record = self.record_in_force(slot)?;
            if record.is_some_and(|record| networks(&record).contains(&network)) {
                self.guests.insert(network, slot);
            } else {
                self.remove_guest(network)?;
            }
        }
        Ok(())
    }

    fn remove_guest(&mut self, network: IpNet) -> Result<(), MapsError> {
        match network {
            IpNet::V4(net) => {
                gone(self.guests_v4.remove(&key_v4(net))).map_err(failed(map::GUESTS_V4))
            }
            IpNet::V6(net) => {
                gone(self.guests_v6.remove(&key_v6(net))).map_err(failed(map::GUESTS_V6))
            }
        }
    }
}

fn key_v4(net: Ipv4Net) -> Key<[u8; 4]> {
    Key::new(net.prefix_len().into(), net.network().octets())
}

fn key_v6(net: Ipv6Net) -> Key<[u8; 16]> {
    Key::new(net.prefix_len().into(), net.network().octets())
}

/// The addresses of the interface itself, where others of its account reach it by them.
fn networks(record: &Interface) -> Vec<IpNet> {
    if record.account == 0 {
        return Vec::new();
    }
    let [first_v4, ..] = record.addresses_v4;
    let [first_v6, ..] = record.addresses_v6;
    let [prefix_v6, ..] = record.prefixes_v6;
    let v4 = (record.addresses > 0).then(|| IpNet::V4(Ipv4Net::from(Ipv4Addr::from(first_v4))));
    let v6 = (record.has_v6 != 0 && prefix_v6 != 0)
        .then(|| Ipv6Net::new(Ipv6Addr::from(first_v6), prefix_v6).ok())
        .flatten();
    v4.into_iter()
        .chain(v6.map(|net| IpNet::V6(net.trunc())))
        .collect()
}
