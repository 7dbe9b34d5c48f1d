//! Published and exposed ports, and ports of the host, as the plan names them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aya::Pod;
use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use netagent_common::names::map;
use netagent_common::net::protocol;
use netagent_common::publish::{ExposedKey, HostPortKey, PublishKey, Published, SenderKey};

use crate::apply::maps::{Maps, MapsError, PublishedPorts, Senders, failed, gone};
use crate::plan::publish::{Exposure, PortStep, Ports, PublishedAt, PublishedTo, Sender};
use crate::spec::publish::{ExposedPort, PortProtocol};

/// Bits of the publication's number, which every key of a sender begins with.
const ID_BITS: u32 = u32::BITS;
/// What stands behind a sender, and behind a port of the host: that it is there is all that counts.
const IS_THERE: u32 = 1;

impl Maps {
    /// Published and exposed ports of all instances.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn ports(&self) -> Result<Ports, MapsError> {
        let mut ports = Ports::default();
        read_published(&self.published_v4, &mut ports).map_err(failed(map::PUBLISHED_V4))?;
        read_published(&self.published_v6, &mut ports).map_err(failed(map::PUBLISHED_V6))?;
        read_senders(&self.senders_v4, &mut ports).map_err(failed(map::SENDERS_V4))?;
        read_senders(&self.senders_v6, &mut ports).map_err(failed(map::SENDERS_V6))?;
        for entry in self.exposed.iter() {
            let (key, generation) = entry.map_err(failed(map::EXPOSED))?;
            if let Some(protocol) = protocol_of(key.protocol) {
                let port = u16::from_be_bytes(key.port);
                let exposure = Exposure {
                    instance: key.instance,
                    port: ExposedPort { port, protocol },
                };
                ports.exposed.insert(exposure, generation);
            }
        }
        Ok(ports)
    }

    /// Changes a port. What is given is there afterwards and what is taken is not, whatever was before.
    ///
    /// # Errors
    /// Where the kernel refuses: a map may be full.
    pub fn change_port(&mut self, step: &PortStep) -> Result<(), MapsError> {
        match step {
            PortStep::AllowSender { sender } => self.change_sender(sender, true),
            PortStep::ForgetSender { sender } => self.change_sender(sender, false),
            PortStep::Publish { at, to } => self.publish(at, to),
            PortStep::Unpublish { at } => self.unpublish(at),
            PortStep::Expose {
                exposure,
                generation,
            } => self
                .exposed
                .insert(exposed_key(exposure), generation, 0)
                .map_err(failed(map::EXPOSED)),
            PortStep::Conceal { exposure } => {
                gone(self.exposed.remove(&exposed_key(exposure))).map_err(failed(map::EXPOSED))
            }
        }
    }

    /// Ports of the host whose listeners guests may reach.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn host_ports(&self) -> Result<BTreeSet<ExposedPort>, MapsError> {
        let mut ports = BTreeSet::new();
        for key in self.host_ports.keys() {
            let key = key.map_err(failed(map::HOST_PORTS))?;
            let port = u16::from_be_bytes(key.port);
            let protocol = protocol_of(key.protocol);
            ports.extend(protocol.map(|protocol| ExposedPort { port, protocol }));
        }
        Ok(ports)
    }

    /// Lets guests reach the host's listener at a port.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn open_host_port(&mut self, port: &ExposedPort) -> Result<(), MapsError> {
        let opened = self.host_ports.insert(host_port_key(port), IS_THERE, 0);
        opened.map_err(failed(map::HOST_PORTS))
    }

    /// Lets guests no longer reach it.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn close_host_port(&mut self, port: &ExposedPort) -> Result<(), MapsError> {
        gone(self.host_ports.remove(&host_port_key(port))).map_err(failed(map::HOST_PORTS))
    }

    fn publish(&mut self, at: &PublishedAt, to: &PublishedTo) -> Result<(), MapsError> {
        match (at.address, to.guest) {
            (IpAddr::V4(address), IpAddr::V4(guest)) => self
                .published_v4
                .insert(
                    publish_key(address.octets(), at),
                    published(guest.octets(), to),
                    0,
                )
                .map_err(failed(map::PUBLISHED_V4)),
            (IpAddr::V6(address), IpAddr::V6(guest)) => self
                .published_v6
                .insert(
                    publish_key(address.octets(), at),
                    published(guest.octets(), to),
                    0,
                )
                .map_err(failed(map::PUBLISHED_V6)),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                Err(MapsError::MixedFamilies(IpNet::from(at.address)))
            }
        }
    }

    fn unpublish(&mut self, at: &PublishedAt) -> Result<(), MapsError> {
        match at.address {
            IpAddr::V4(address) => {
                let key = publish_key(address.octets(), at);
                gone(self.published_v4.remove(&key)).map_err(failed(map::PUBLISHED_V4))
            }
            IpAddr::V6(address) => {
                let key = publish_key(address.octets(), at);
                gone(self.published_v6.remove(&key)).map_err(failed(map::PUBLISHED_V6))
            }
        }
    }

    fn change_sender(&mut self, sender: &Sender, may_send: bool) -> Result<(), MapsError> {
        match sender.network {
            IpNet::V4(network) => {
                let key = sender_key(sender, network.network().octets());
                change(&mut self.senders_v4, &key, may_send).map_err(failed(map::SENDERS_V4))
            }
            IpNet::V6(network) => {
                let key = sender_key(sender, network.network().octets());
                change(&mut self.senders_v6, &key, may_send).map_err(failed(map::SENDERS_V6))
            }
        }
    }
}

fn change<A>(
    senders: &mut Senders<A>,
    key: &Key<SenderKey<A>>,
    may_send: bool,
) -> Result<(), MapError>
where
    SenderKey<A>: Pod,
{
    if may_send {
        senders.insert(key, IS_THERE, 0)
    } else {
        gone(senders.remove(key))
    }
}

fn read_published<A>(map: &PublishedPorts<A>, ports: &mut Ports) -> Result<(), MapError>
where
    A: Into<IpAddr>,
    PublishKey<A>: Pod,
    Published<A>: Pod,
{
    for entry in map.iter() {
        let (key, value) = entry?;
        let Some(protocol) = protocol_of(key.protocol) else {
            continue;
        };
        let at = PublishedAt {
            address: key.address.into(),
            port: u16::from_be_bytes(key.port),
            protocol,
        };
        let to = PublishedTo {
            id: value.id,
            slot: value.slot,
            generation: value.generation,
            guest: value.guest.into(),
            guest_port: u16::from_be_bytes(value.guest_port),
            limited: value.limited != 0,
        };
        ports.published.insert(at, to);
    }
    Ok(())
}

fn read_senders<A>(map: &Senders<A>, ports: &mut Ports) -> Result<(), MapError>
where
    A: Into<IpAddr>,
    SenderKey<A>: Pod,
{
    for entry in map.iter() {
        let (key, _) = entry?;
        let prefix = key.prefix_len().saturating_sub(ID_BITS);
        let sender = key.data();
        // A prefix longer than its family cannot be in the map: the kernel refuses it.
        let length = u8::try_from(prefix).unwrap_or(u8::MAX);
        if let Ok(network) = IpNet::new(sender.address.into(), length) {
            let id = sender.id;
            ports.senders.insert(Sender { id, network });
        }
    }
    Ok(())
}

const fn publish_key<A>(address: A, at: &PublishedAt) -> PublishKey<A> {
    PublishKey {
        address,
        port: at.port.to_be_bytes(),
        protocol: at.protocol.number(),
        reserved: 0,
    }
}

fn published<A>(guest: A, to: &PublishedTo) -> Published<A> {
    Published {
        id: to.id,
        slot: to.slot,
        generation: to.generation,
        guest_port: to.guest_port.to_be_bytes(),
        limited: u8::from(to.limited),
        reserved: 0,
        guest,
    }
}

fn sender_key<A>(sender: &Sender, address: A) -> Key<SenderKey<A>>
where
    SenderKey<A>: Pod,
{
    let key = SenderKey {
        id: sender.id,
        address,
    };
    Key::new(ID_BITS + u32::from(sender.network.prefix_len()), key)
}

const fn exposed_key(exposure: &Exposure) -> ExposedKey {
    ExposedKey {
        instance: exposure.instance,
        port: exposure.port.port.to_be_bytes(),
        protocol: exposure.port.protocol.number(),
        reserved: 0,
    }
}

const fn host_port_key(port: &ExposedPort) -> HostPortKey {
    HostPortKey {
        port: port.port.to_be_bytes(),
        protocol: port.protocol.number(),
        reserved: 0,
    }
}

fn protocol_of(number: u8) -> Option<PortProtocol> {
    match number {
        protocol::TCP => Some(PortProtocol::Tcp),
        protocol::UDP => Some(PortProtocol::Udp),
        _ => None,
    }
}
