//! Published and exposed ports, as the agent writes them into the maps of a scene.

use std::net::IpAddr;

use netagent_common::names::map;
use netagent_common::publish::{ExposedKey, HostPortKey, PublishKey, Published};
use netagent_common::vm::Interface;

use crate::prog_run::Datapath;

/// A published port.
#[derive(Clone, Copy, Debug)]
pub struct Publication {
    /// Its number.
    pub id: u32,
    /// Protocol number.
    pub protocol: u8,
    /// Address of the host; unspecified for every address.
    pub address: IpAddr,
    /// Port of the host.
    pub port: u16,
    /// Port of the guest.
    pub guest_port: u16,
    /// Whether only those added by [`Datapath::add_sender`] may use it.
    pub limited: bool,
}

/// Publishes a port of the guest behind an interface.
///
/// # Panics
/// When the map is full.
pub fn publish(datapath: &mut Datapath, record: &Interface, publication: &Publication) {
    match publication.address {
        IpAddr::V4(address) => {
            let [guest, ..] = record.addresses_v4;
            let (key, value) = entry(record, publication, (address.octets(), guest));
            datapath.insert::<PublishKey<[u8; 4]>, Published<[u8; 4]>>(
                map::PUBLISHED_V4,
                key,
                value,
            );
        }
        IpAddr::V6(address) => {
            let [guest, ..] = record.addresses_v6;
            let (key, value) = entry(record, publication, (address.octets(), guest));
            datapath.insert::<PublishKey<[u8; 16]>, Published<[u8; 16]>>(
                map::PUBLISHED_V6,
                key,
                value,
            );
        }
    }
}

/// Takes a published port back.
///
/// # Panics
/// Where it is not there.
pub fn unpublish(datapath: &mut Datapath, publication: &Publication) {
    match publication.address {
        IpAddr::V4(address) => {
            let key = key(publication, address.octets());
            datapath.remove::<_, Published<[u8; 4]>>(map::PUBLISHED_V4, &key);
        }
        IpAddr::V6(address) => {
            let key = key(publication, address.octets());
            datapath.remove::<_, Published<[u8; 16]>>(map::PUBLISHED_V6, &key);
        }
    }
}

/// Lets the host reach a port of the instance.
///
/// # Panics
/// When the map is full.
pub fn expose(datapath: &mut Datapath, record: &Interface, (port, protocol): (u16, u8)) {
    let key = ExposedKey {
        instance: record.instance,
        port: port.to_be_bytes(),
        protocol,
        reserved: 0,
    };
    datapath.insert::<ExposedKey, u32>(map::EXPOSED, key, record.generation);
}

/// Opens a port of the host to guests.
///
/// # Panics
/// When the map is full.
pub fn open_host_port(datapath: &mut Datapath, port: (u16, u8)) {
    datapath.insert::<HostPortKey, u32>(map::HOST_PORTS, host_port_key(port), 1);
}

/// Closes it again.
///
/// # Panics
/// Where it is not open.
pub fn close_host_port(datapath: &mut Datapath, port: (u16, u8)) {
    datapath.remove::<HostPortKey, u32>(map::HOST_PORTS, &host_port_key(port));
}

const fn host_port_key((port, protocol): (u16, u8)) -> HostPortKey {
    HostPortKey {
        port: port.to_be_bytes(),
        protocol,
        reserved: 0,
    }
}

fn key<A>(publication: &Publication, address: A) -> PublishKey<A> {
    PublishKey {
        address,
        port: publication.port.to_be_bytes(),
        protocol: publication.protocol,
        reserved: 0,
    }
}

fn entry<A>(
    record: &Interface,
    publication: &Publication,
    (address, guest): (A, A),
) -> (PublishKey<A>, Published<A>) {
    let value = Published {
        id: publication.id,
        slot: record.slot,
        generation: record.generation,
        guest_port: publication.guest_port.to_be_bytes(),
        limited: publication.limited.into(),
        reserved: 0,
        guest,
    };
    (key(publication, address), value)
}
