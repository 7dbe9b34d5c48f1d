//! Whose address may come in by the TAP of a relay, and go out there: clients by their addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::{HashMap as BpfHash, MapData};
use netagent_common::names::map;
use netagent_common::policy::policy_flag::LEG;
use netagent_common::vm::{Client, Interface, WHOLE_NETWORK};

use crate::apply::maps::{Maps, MapsError, failed, gone};

pub(super) type Clients<A> = BpfHash<MapData, A, Client>;

impl Maps {
    /// Leads to a client by the addresses of the leg that is about to be in force.
    pub(super) fn write_clients(&mut self, record: &Interface) -> Result<(), MapsError> {
        let Some((client, addresses)) = client_of(record) else {
            return Ok(());
        };
        for address in addresses {
            if self.clients.get(&address) == Some(&client) {
                continue;
            }
            match address {
                IpAddr::V4(address) => self
                    .clients_v4
                    .insert(address.octets(), client, 0)
                    .map_err(failed(map::CLIENTS_V4))?,
                IpAddr::V6(address) => self
                    .clients_v6
                    .insert(address.octets(), client, 0)
                    .map_err(failed(map::CLIENTS_V6))?,
            }
            self.clients.insert(address, client);
        }
        Ok(())
    }

    /// Removes what leads to the leg in a slot, save by the addresses of the one in force there.
    pub(super) fn forget_clients(
        &mut self,
        slot: u32,
        own: Option<&Interface>,
    ) -> Result<(), MapsError> {
        let own = own.and_then(client_of);
        let own = own.map(|(_, addresses)| addresses).unwrap_or_default();
        let clients = self.clients.iter();
        let former: Vec<IpAddr> = clients
            .filter(|(address, client)| client.leg == slot && !own.contains(address))
            .map(|(address, _)| *address)
            .collect();
        for address in former {
            self.remove_client(address)?;
            self.clients.remove(&address);
        }
        Ok(())
    }

    /// Reads which addresses lead to clients, and removes what an agent left that was killed between record and entry.
    pub(super) fn read_clients(&mut self) -> Result<(), MapsError> {
        let v4: Result<Vec<_>, _> = self.clients_v4.iter().collect();
        let v4 = v4.map_err(failed(map::CLIENTS_V4))?.into_iter();
        let v4 = v4.map(|(key, client)| (IpAddr::V4(Ipv4Addr::from(key)), client));
        let v6: Result<Vec<_>, _> = self.clients_v6.iter().collect();
        let v6 = v6.map_err(failed(map::CLIENTS_V6))?.into_iter();
        let v6 = v6.map(|(key, client)| (IpAddr::V6(Ipv6Addr::from(key)), client));
        let entries: Vec<(IpAddr, Client)> = v4.chain(v6).collect();
        for (address, client) in entries {
            let leg = self.record_in_force(client.leg)?;
            let named = leg.as_ref().and_then(client_of);
            if named.is_some_and(|(own, addresses)| own == client && addresses.contains(&address)) {
                self.clients.insert(address, client);
            } else {
                self.remove_client(address)?;
            }
        }
        Ok(())
    }

    fn remove_client(&mut self, address: IpAddr) -> Result<(), MapsError> {
        match address {
            IpAddr::V4(address) => {
                gone(self.clients_v4.remove(&address.octets())).map_err(failed(map::CLIENTS_V4))
            }
            IpAddr::V6(address) => {
                gone(self.clients_v6.remove(&address.octets())).map_err(failed(map::CLIENTS_V6))
            }
        }
    }
}

/// The client that a record is the leg of, and the keys that lead to it: its address, and of IPv6 its network where all of
/// that is its own.
fn client_of(record: &Interface) -> Option<(Client, Vec<IpAddr>)> {
    if record.policy_flags & LEG == 0 {
        return None;
    }
    let client = Client {
        slot: record.client,
        leg: record.slot,
    };
    let [first_v4, ..] = record.addresses_v4;
    let [first_v6, ..] = record.addresses_v6;
    let [prefix_v6, ..] = record.prefixes_v6;
    let first_v6 = Ipv6Addr::from(first_v6);
    let key_v6 = if prefix_v6 == WHOLE_NETWORK {
        let [a, b, c, d, ..] = first_v6.segments();
        Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)
    } else {
        first_v6
    };
    let v4 = (record.addresses > 0).then(|| IpAddr::V4(first_v4.into()));
    let v6 = (record.has_v6 != 0 && prefix_v6 != 0).then_some(IpAddr::V6(key_v6));
    Some((client, v4.into_iter().chain(v6).collect()))
}
