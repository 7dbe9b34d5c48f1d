//! What a guest asks of its gateway is answered by the agent's own servers (D-1, G-1, M-8): here it is recognised,
//! limited, and sent there with a source address that says who asked.

use netagent_common::checksum;
use netagent_common::drop::DropReason;
use netagent_common::net::{ETHERNET_LEN, GATEWAY_MAC, protocol};
use netagent_common::policy::policy_flag;
use netagent_common::services::{
    CONFIGURATION_PER_SECOND, Client, DNS_PER_SECOND, Place, SERVER_V4, SERVER_V6,
    SERVICES_HOST_MAC, SERVICES_MAC, port,
};
use netagent_common::vm::Interface;

use crate::family::{Family, ipv6};
use crate::kernel::{self, ChecksumField, Skb};
use crate::parse::{self, Header, ICMP_CHECKSUM_OFFSET, Kind, Transport, transport_offset};
use crate::spoof;
use crate::verdict::{Action, Packed};
use crate::{asked, limit, maps, policy};

const DNS: [u8; 2] = port::DNS.to_be_bytes();
const DHCP_SERVER: [u8; 2] = port::DHCP_SERVER.to_be_bytes();
const DHCP_CLIENT: [u8; 2] = port::DHCP_CLIENT.to_be_bytes();
const BROADCAST: [u8; 4] = [255; 4];
const BROADCAST_MAC: [u8; 6] = [255; 6];

/// A family whose packets reach the servers.
pub trait Steered: Family {
    /// Address of the servers.
    const SERVER: Self;

    /// The source address of a packet on its way to the servers: it came from `source` and asked the server of this
    /// number.
    ///
    /// # Errors
    /// [`DropReason::SpoofedAddress`] for a source that is none of the guest's.
    fn client(interface: &Interface, source: Self, server: u8) -> Result<Self, DropReason>;

    /// The number of a gateway of the interface, in a [`Place`].
    fn gateway_number(interface: &Interface, asked: Self) -> Option<u8>;

    /// Whether a DHCP server is asked there (RFC 2131): any by broadcast, ours at its own address.
    fn asks_dhcp(interface: &Interface, destination: Self) -> bool;
}

impl Steered for [u8; 4] {
    const SERVER: Self = SERVER_V4;

    #[inline(always)]
    fn client(interface: &Interface, source: Self, server: u8) -> Result<Self, DropReason> {
        let [first, second, third, _] = interface.addresses_v4;
        // A guest without an address is answered as by its first.
        let address = if source == first || source == [0; 4] {
            0
        } else if source == second {
            1
        } else if source == third {
            2
        } else {
            3
        };
        let place = address | server << Place::SERVER_SHIFT_V4;
        Ok(client(interface, place).to_v4())
    }

    #[inline(always)]
    fn gateway_number(interface: &Interface, asked: Self) -> Option<u8> {
        if asked == interface.gateway_v4 {
            Some(0)
        } else if asked == interface.instance_gateway_v4 {
            Some(Place::INSTANCE_GATEWAY)
        } else {
            None
        }
    }

    #[inline(always)]
    fn asks_dhcp(interface: &Interface, destination: Self) -> bool {
        destination == BROADCAST || Self::is_gateway(interface, destination)
    }
}

impl Steered for [u8; 16] {
    const SERVER: Self = SERVER_V6;

    #[inline(always)]
    fn client(interface: &Interface, source: Self, server: u8) -> Result<Self, DropReason> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = source;
        let place = if let Some(address) = ipv6::place_of(interface, &source) {
            address
        } else if source == [0; 16] {
            Place::ALL_NODES
        } else if [a, b, c, d] == [0xfe, 0x80, 0, 0] && [e, f, g, h] == [0; 4] {
            // The rest of fe80::/10 must be 0 (RFC 4291 section 2.5.6).
            Place::LINK_LOCAL
        } else {
            return Err(DropReason::SpoofedAddress);
        };
        let place = place | server << Place::SERVER_SHIFT_V6;
        Ok(client(interface, place).to_v6([i, j, k, l, m, n, o, p]))
    }

    #[inline(always)]
    fn gateway_number(interface: &Interface, asked: Self) -> Option<u8> {
        (asked == interface.gateway_v6).then_some(0)
    }

    #[inline(always)]
    fn asks_dhcp(_interface: &Interface, _destination: Self) -> bool {
        false
    }
}

#[inline(always)]
fn client(interface: &Interface, place: u8) -> Client {
    Client {
        slot: interface.slot,
        generation: interface.generation,
        place: Place(place),
    }
}

/// Whether a datagram asks for configuration by DHCP.
#[inline(always)]
pub fn is_dhcp<A: Steered>(
    interface: &Interface,
    header: &Header<A>,
    datagram: &Transport,
) -> bool {
    (datagram.source, datagram.destination) == (DHCP_CLIENT, DHCP_SERVER)
        && A::asks_dhcp(interface, header.destination)
        // Between a client and its gateway: no relay carries it.
        && interface.policy_flags & policy_flag::LEG == 0
}

/// Whether a packet to the gateway asks its resolver.
#[inline(always)]
pub fn is_dns(transport: &Transport) -> bool {
    transport.destination == DNS && matches!(transport.kind, Kind::Segment(_) | Kind::Datagram)
}

/// Whether a packet asks for names, and such are the resolver's whomever they ask (D-2, R-4).
#[inline(always)]
pub fn is_steered(interface: &Interface, transport: &Transport) -> bool {
    const STEERED: u32 = policy_flag::NAMES | policy_flag::DNS_STEERED;
    interface.policy_flags & STEERED != 0 && is_dns(transport)
}

/// Whether a packet from a link-local address asks the resolver of the gateway.
#[inline(always)]
pub fn is_link_local_dns(skb: Skb, interface: &Interface, header: &Header<[u8; 16]>) -> bool {
    matches!(header.protocol, protocol::TCP | protocol::UDP)
        && spoof::is_link_local_to_gateway(interface, header)
        && parse::transport(skb, header).is_ok_and(|transport| is_dns(&transport))
}

/// Sends a DHCP message to the servers. Its ports and addresses are known to be those of one.
#[inline(never)]
pub fn dhcp(skb: Skb, interface: &Interface) -> Packed {
    Packed::of(judge_dhcp(skb, interface))
}

#[inline(always)]
fn judge_dhcp(skb: Skb, interface: &Interface) -> Result<Action, DropReason> {
    let header = <[u8; 4]>::header(skb)?;
    if header.first_fragment {
        return Err(DropReason::Fragment);
    }
    let ethernet = skb.window::<6>(0)?;
    if !ethernet.is_mac::<0, 4>(GATEWAY_MAC) && !ethernet.is_mac::<0, 4>(BROADCAST_MAC) {
        return Err(DropReason::NotForGateway);
    }
    let datagram = parse::udp(skb, &header)?;
    let checksum_offset = datagram.kind.checksum_offset();
    steer(
        skb,
        interface,
        &header,
        &configuration(skb, checksum_offset)?,
    )
}

/// Sends a packet of DNS to the servers.
#[inline(always)]
pub fn dns<A: Steered>(skb: Skb) -> Packed {
    let judged = maps::interface_of(skb).and_then(|interface| judge_dns::<A>(skb, interface));
    Packed::of(judged)
}

#[inline(always)]
fn judge_dns<A: Steered>(skb: Skb, interface: &Interface) -> Result<Action, DropReason> {
    policy::judge_any(interface)?;
    let header = A::header(skb)?;
    if header.first_fragment {
        return Err(DropReason::Fragment);
    }
    let transport = parse::transport(skb, &header)?;
    parse::check_segments(skb, &transport)?;
    let server = match A::gateway_number(interface, header.destination) {
        Some(number) => number,
        None => asked::remember(interface, header.destination)?,
    };
    let request = Request {
        of: Purpose::Dns,
        server,
        checksum_offset: transport.kind.checksum_offset(),
        on_the_wire: parse::on_the_wire::<A>(skb, &transport),
    };
    steer(skb, interface, &header, &request)
}

/// Sends a router solicitation to the servers; it is known to be well-formed and not spoofed.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn router(skb: Skb, interface: &Interface) -> Result<Action, DropReason> {
    let header = <[u8; 16]>::header(skb)?;
    let request = configuration(skb, ICMP_CHECKSUM_OFFSET)?;
    steer(skb, interface, &header, &request)
}

/// What a request is for: each has an allowance of its own.
#[derive(Clone, Copy)]
enum Purpose {
    Configuration,
    Dns,
}

struct Request {
    of: Purpose,
    /// Number of the server that is asked, in a [`Place`].
    server: u8,
    checksum_offset: u32,
    /// Packets and bytes.
    on_the_wire: (u32, u32),
}

/// A request for configuration is one packet: a super-frame is none.
#[inline(always)]
fn configuration(skb: Skb, checksum_offset: u32) -> Result<Request, DropReason> {
    if skb.gso_size() != 0 {
        return Err(DropReason::Malformed);
    }
    Ok(Request {
        of: Purpose::Configuration,
        server: 0,
        checksum_offset,
        on_the_wire: (1, skb.len()),
    })
}

#[inline(always)]
fn pay_for(interface: &Interface, request: &Request) -> Result<(), DropReason> {
    // A super-frame is as many packets to the servers as it has segments.
    let packets = request.on_the_wire.0.into();
    match request.of {
        Purpose::Configuration => {
            let allowance = maps::allowance(interface.slot).ok_or(DropReason::ServiceLimit)?;
            let rate = CONFIGURATION_PER_SECOND;
            pay(&mut allowance.configuration_ns, packets, (rate, 2 * rate))
        }
        Purpose::Dns => {
            let allowance = maps::allowance(interface.instance).ok_or(DropReason::ServiceLimit)?;
            let rate = DNS_PER_SECOND;
            pay(&mut allowance.dns_ns, packets, (rate, rate))
        }
    }
}

/// A token bucket in one number: the time up to which everything that was sent is paid.
///
/// # Errors
/// [`DropReason::ServiceLimit`] where it is used up.
#[inline(always)]
pub fn pay(
    paid_ns: &mut u64,
    packets: u64,
    (per_second, burst): (u64, u64),
) -> Result<(), DropReason> {
    let (now, price) = (kernel::now_ns(), 1_000_000_000 / per_second);
    let from = if *paid_ns > now { *paid_ns } else { now };
    let paid = from + packets * price;
    if paid > now + burst * price {
        return Err(DropReason::ServiceLimit);
    }
    *paid_ns = paid;
    Ok(())
}

/// Gives the packet the addresses of its way to the servers. TTL and hop limit stay: nothing is forwarded, and what
/// routers say must come with 255.
#[inline(always)]
fn steer<A: Steered>(
    skb: Skb,
    interface: &Interface,
    header: &Header<A>,
    request: &Request,
) -> Result<Action, DropReason> {
    spoof::check_partial_checksum::<A>(skb, request.checksum_offset)?;
    let client = A::client(interface, header.source, request.server)?;
    // Before it is paid: while nobody is there to ask, that is the reason, however often it is asked.
    let way = maps::way_to_servers()?;
    pay_for(interface, request)?;
    let addresses = (client, A::SERVER);
    readdress(skb, header, addresses, request.checksum_offset)?;
    skb.window::<12>(0)?
        .set_macs(SERVICES_MAC, SERVICES_HOST_MAC);
    limit::from_vm(skb, interface, request.on_the_wire)?;
    Ok(Action::Redirect(skb.redirect(way)))
}

/// Replaces both addresses, checksums included.
///
/// # Errors
/// [`DropReason::HelperFailed`].
#[inline(always)]
pub fn readdress<A: Family>(
    skb: Skb,
    header: &Header<A>,
    (source, destination): (A, A),
    checksum_offset: u32,
) -> Result<(), DropReason> {
    let difference = checksum::add(
        A::difference(header.source, source),
        A::difference(header.destination, destination),
    );
    let field = ChecksumField {
        offset: transport_offset::<A>() + checksum_offset,
        zero_is_none: header.protocol == protocol::UDP,
    };
    skb.correct_l4_checksum_for_address(field, difference)?;
    A::rewrite_addresses(skb, header, (source, destination), difference)
}

/// Whether the link-layer address in a router solicitation is the guest's own, where there is one. A source that is
/// no address must not have one (RFC 4861 section 6.1.1); the server looks at further options.
#[inline(always)]
pub fn is_own_link_layer(skb: Skb, interface: &Interface, source: [u8; 16]) -> bool {
    const OPTIONS: u32 = ETHERNET_LEN + 40 + 8;
    match skb.window::<8>(OPTIONS) {
        Ok(option) if option.two::<0>() == [1, 1] => {
            source != [0; 16] && option.is_mac::<2, 6>(interface.guest_mac)
        }
        Ok(_) | Err(_) => true,
    }
}
