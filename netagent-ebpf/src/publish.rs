//! What others than the guest may open (P-7): published ports, and what the host itself may reach.

use netagent_common::drop::DropReason;
use netagent_common::flow::{Flow, FlowKey, FlowState, Opener, Place};
use netagent_common::nat::ReverseKey;
use netagent_common::net::protocol;
use netagent_common::net::tcp_flag::{ACK, RST, SYN};
use netagent_common::publish::{ExposedKey, LedKey, PublishKey, Published};
use netagent_common::vm::Interface;

use crate::conntrack::Generations;
use crate::family::Family;
use crate::kernel::Skb;
use crate::maps::{self, InsertError};
use crate::opening::{self, Way};
use crate::parse::{self, Header, Kind, Transport};
use crate::verdict::{Dropped, Judged, Packed};
use crate::{conntrack, nat, policy};

/// Where a packet for a port of the host comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// From the world.
    Uplink,
    /// From a guest, under an address of the host: who it is was judged when it left.
    TurnedRound,
}

impl Entrance {
    /// The entrance that is this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        if number == Self::Uplink as u64 {
            Self::Uplink
        } else {
            Self::TurnedRound
        }
    }
}

/// Opens the flow of a packet for a published port. [`Judged::NoFlow`] where none is published there.
#[inline(always)]
pub fn open<A: Family>(skb: Skb, entrance: u64) -> Packed {
    Packed::with_slot(judge::<A>(skb, Entrance::from_number(entrance)))
}

#[inline(always)]
fn judge<A: Family>(skb: Skb, entrance: Entrance) -> Result<Judged, Dropped> {
    let Ok(header) = A::header(skb) else {
        return Ok(Judged::NoFlow);
    };
    let Ok(transport) = parse::transport(skb, &header) else {
        return Ok(Judged::NoFlow);
    };
    if !may_open(transport.kind) || !conntrack::is_the_hosts(header.destination) {
        return Ok(Judged::NoFlow);
    }
    let asked = (header.destination, transport.destination);
    let Some(published) = find(asked, header.protocol) else {
        return Ok(Judged::NoFlow);
    };
    admit(&header, &transport, published, entrance).map_err(|reason| Dropped {
        slot: published.slot,
        reason,
    })
}

/// A connection starts with SYN, and with nothing else: what belongs to none is the host's to reset.
#[inline(always)]
#[must_use]
pub const fn may_open(kind: Kind) -> bool {
    match kind {
        Kind::Segment(flags) => flags & (SYN | ACK | RST) == SYN,
        Kind::Datagram => true,
        Kind::EchoRequest | Kind::EchoReply => false,
    }
}

/// The publication for an address and a port: that of the very address, or that of every address.
#[inline(always)]
pub fn find<A: Family>(
    (address, port): (A, [u8; 2]),
    protocol: u8,
) -> Option<&'static Published<A>> {
    let key = |address| PublishKey {
        address,
        port,
        protocol,
        reserved: 0,
    };
    match maps::published(&key(address)) {
        None => maps::published(&key(A::ZERO)),
        found => found,
    }
}

#[inline(always)]
fn admits<A: Family>(published: &Published<A>, sender: A) -> bool {
    published.limited == 0 || maps::is_sender(published.id, sender)
}

/// Whether the sender may use the publication, and its flow if so.
#[inline(always)]
fn admit<A: Family>(
    header: &Header<A>,
    transport: &Transport,
    published: &Published<A>,
    entrance: Entrance,
) -> Result<Judged, DropReason> {
    let interface = maps::record(published.slot)?;
    let generations = Generations::now(interface);
    if interface.generation != published.generation {
        return Err(DropReason::Unsolicited);
    }
    if entrance == Entrance::Uplink && !admits(published, header.source) {
        return Err(DropReason::PublishDenied);
    }
    let key = FlowKey {
        instance: interface.instance,
        guest: published.guest,
        remote: header.source,
        guest_port: published.guest_port,
        remote_port: transport.source,
        protocol: header.protocol.into(),
    };
    policy::judge_peer(interface, header.source)?;
    if entrance == Entrance::TurnedRound {
        let asked = (header.destination, transport.destination);
        let sender = guest_behind(&key, asked).ok_or(DropReason::Unsolicited)?;
        policy::judge_peer(interface, sender)?;
    }
    write(
        interface,
        &key,
        (header, transport),
        (entrance, generations),
    )?;
    Ok(Judged::Opened)
}

/// Writes the reverse entry first, as every flow does.
#[inline(always)]
fn write<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    (header, transport): (&Header<A>, &Transport),
    (entrance, generations): (Entrance, Generations),
) -> Result<(), DropReason> {
    let (way, opener) = match entrance {
        Entrance::TurnedRound => (
            Way::round(interface, header.destination),
            Opener::GuestAtHost,
        ),
        Entrance::Uplink => {
            let route = conntrack::uplink_route(header.source)?;
            (Way::by(route, header.destination), Opener::World)
        }
    };
    let way = (&way, transport.destination);
    write_at_port(interface, key, way, (generations, opener))
}

/// Writes a flow that others open, at a port that leads to the guest by itself.
#[inline(always)]
pub fn write_at_port<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    (way, port): (&Way<A>, [u8; 2]),
    (generations, opener): (Generations, Opener),
) -> Result<(), DropReason> {
    let is_there = make_room(interface, key, way, port)?;
    match claim(key, &way.nat_address, port) {
        CLAIMED if is_there => return Ok(()),
        CLAIMED => {}
        // Another CPU opens the same flow.
        TAKEN => return Ok(()),
        _ => return Err(DropReason::FlowTableFull),
    }
    let port = u16::from_be_bytes(port);
    opening::write(interface, key, way, (generations, port, opener))
}

/// The reverse entry was inserted.
pub const CLAIMED: u32 = 1;
/// It was there.
pub const TAKEN: u32 = 2;

/// Inserts the reverse entry: a function of its own so that what it needs of the stack is free again afterwards.
#[inline(never)]
pub fn claim<A: Family>(key: &FlowKey<A>, nat_address: &A, nat_port: [u8; 2]) -> u32 {
    let reverse_key = nat::key_of_port(key, (*nat_address, nat_port));
    match nat::claim(key, &reverse_key) {
        Ok(()) => CLAIMED,
        Err(InsertError::Exists) => TAKEN,
        Err(InsertError::Full) => 0,
    }
}

/// Makes sure that the guest may have one more flow that others open: a quarter of its flows stays its own, whatever
/// knocks at its published ports. True where this one is there already, and its reverse entry alone went.
#[inline(always)]
fn make_room<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    way: &Way<A>,
    port: [u8; 2],
) -> Result<bool, DropReason> {
    if let Some(flow) = maps::flow(key) {
        let is_over = flow.generation != interface.generation
            || FlowState::from_number(flow.state).place() != Some(Place::Open);
        if is_over {
            conntrack::forget(key, flow, interface);
        } else if flow.nat_address == way.nat_address && flow.nat_port == port {
            return Ok(true);
        } else {
            return Err(DropReason::FlowTaken);
        }
    }
    if opening::has_room(interface, u64::from(interface.flow_limit) * 3 / 4) {
        Ok(false)
    } else {
        Err(DropReason::FlowLimit)
    }
}

/// Whether a flow that others opened may go on: its port is still published for them, and they are in no denied
/// network.
///
/// # Errors
/// Why not.
#[inline(always)]
pub fn judge_again<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    flow: &Flow<A>,
) -> Result<(), DropReason> {
    let asked = (flow.nat_address, flow.nat_port);
    let published = leads_to(interface, key, asked)
        .filter(|_| conntrack::is_the_hosts(flow.nat_address))
        .ok_or(DropReason::Unsolicited)?;
    policy::judge_peer(interface, key.remote)?;
    let mut sender = key.remote;
    if Opener::turns_round(flow.opener) {
        sender = guest_behind(key, asked).ok_or(DropReason::Unsolicited)?;
        policy::judge_peer(interface, sender)?;
    }
    if admits(published, sender) {
        Ok(())
    } else {
        Err(DropReason::PublishDenied)
    }
}

/// The publication for an address and a port where it leads to the guest of this flow.
#[inline(always)]
fn leads_to<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    asked: (A, [u8; 2]),
) -> Option<&'static Published<A>> {
    find(asked, key.protocol as u8).filter(|published| {
        published.slot == interface.slot
            && published.generation == interface.generation
            && published.guest == key.guest
            && published.guest_port == key.guest_port
    })
}

/// The guest that came under an address of the host to the address and the port that it asked for.
#[inline(always)]
fn guest_behind<A: Family>(key: &FlowKey<A>, (address, port): (A, [u8; 2])) -> Option<A> {
    let of_sender = ReverseKey {
        remote: address,
        nat_address: key.remote,
        remote_port: port,
        nat_port: key.remote_port,
        protocol: key.protocol,
    };
    maps::reverse(&of_sender).map(|reverse| reverse.guest)
}

/// Whether a guest may open a flow towards an address of the host: to a port that is published for it.
///
/// # Errors
/// [`DropReason::HostAddress`] where none is, [`DropReason::PublishDenied`] where it is for others.
#[inline(always)]
pub fn judge_guest<A: Family>(key: &FlowKey<A>) -> Result<(), DropReason> {
    let asked = (key.remote, key.remote_port);
    let published = find(asked, key.protocol as u8)
        .filter(|_| conntrack::is_the_hosts(key.remote))
        .ok_or(DropReason::HostAddress)?;
    if admits(published, key.guest) {
        Ok(())
    } else {
        Err(DropReason::PublishDenied)
    }
}

/// Whether the host may open a connection to a port of the guest's own address: it is exposed, or the socket was led
/// there from a published port. Gives the address and the port that it asked for.
///
/// # Errors
/// [`DropReason::Unsolicited`].
#[inline(always)]
pub fn judge_host<A: Family>(
    skb: Skb,
    interface: &Interface,
    key: &FlowKey<A>,
) -> Result<(A, [u8; 2]), DropReason> {
    policy::judge_peer(interface, key.remote)?;
    if is_exposed(interface, key) {
        return Ok((A::ZERO, [0; 2]));
    }
    let led_key = LedKey {
        cookie: skb.socket_cookie(),
        guest: A::to_sixteen(key.guest),
        port: key.guest_port,
        protocol: key.protocol as u8,
        reserved: [0; 5],
    };
    let led = maps::led(&led_key).ok_or(DropReason::Unsolicited)?;
    let asked = (A::from_sixteen(led.address), led.port);
    if led.generation == interface.generation && leads_to(interface, key, asked).is_some() {
        Ok(asked)
    } else {
        Err(DropReason::Unsolicited)
    }
}

/// Whether a flow that the host opened may go on. Its pings always may.
///
/// # Errors
/// Why not.
#[inline(always)]
pub fn judge_host_again<A: Family>(
    interface: &Interface,
    key: &FlowKey<A>,
    flow: &Flow<A>,
) -> Result<(), DropReason> {
    let is_open = match key.protocol as u8 {
        protocol::TCP | protocol::UDP if flow.nat_port == [0; 2] => is_exposed(interface, key),
        protocol::TCP | protocol::UDP => {
            leads_to(interface, key, (flow.nat_address, flow.nat_port)).is_some()
        }
        _ => return Ok(()),
    };
    if is_open {
        policy::judge_peer(interface, key.remote)
    } else {
        Err(DropReason::Unsolicited)
    }
}

#[inline(always)]
fn is_exposed<A: Family>(interface: &Interface, key: &FlowKey<A>) -> bool {
    let exposed = ExposedKey {
        instance: key.instance,
        port: key.guest_port,
        protocol: key.protocol as u8,
        reserved: 0,
    };
    maps::is_exposed(&exposed, interface.generation)
}
