//! What a guest sends of which nearly nothing is to pass: dropped before the kernel makes a socket buffer of it, at a
//! fraction of the cost (design, decision 7). What is let through is judged by `from_vm` all the same, so a compare too
//! few here costs time, never safety.

use netagent_common::drop::DropReason;
use netagent_common::net::{ETHERNET_LEN, ethertype, protocol};
use netagent_common::policy::policy_flag::{AUDIT, DENY_ALL, QUARANTINE, RELAY};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Xdp;
use crate::maps;
use crate::verdict::Dropped;

/// Fragment of IPv6 (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;

/// Judges a frame from a TAP. Where the record no longer asks for it, everything passes: the program may stay for a
/// moment after the policy was changed.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn judge(frame: Xdp) -> Result<(), Dropped> {
    let interface = maps::interface(frame.ifindex())?;
    let flags = interface.policy_flags;
    let reason = if flags & QUARANTINE != 0 {
        DropReason::Quarantine
    } else if flags & (DENY_ALL | AUDIT | RELAY) != DENY_ALL || is_served(frame, interface) {
        return Ok(());
    } else {
        DropReason::DenyAll
    };
    Err(Dropped {
        slot: interface.slot,
        reason,
    })
}

/// Whether it may be what a guest is left under `deny-all`: ARP, neighbour discovery, DHCP, and echo with the gateway
/// or in answer to the host.
#[inline(always)]
fn is_served(frame: Xdp, interface: &Interface) -> bool {
    let Ok(ethernet) = frame.window::<14>(0) else {
        return false;
    };
    match u16::from_be_bytes(ethernet.two::<12>()) {
        ethertype::ARP => true,
        ethertype::IPV4 => is_served_v4(frame, interface),
        ethertype::IPV6 => is_served_v6(frame, interface),
        _ => false,
    }
}

#[inline(always)]
fn is_served_v4(frame: Xdp, interface: &Interface) -> bool {
    const PLAIN: u8 = 0x45;
    const ECHO_REPLY: u8 = 0;
    const DHCP_PORTS: [u8; 4] = [0, 68, 0, 67];
    let Ok(packet) = frame.window::<24>(ETHERNET_LEN) else {
        return false;
    };
    if packet.byte::<0>() != PLAIN {
        return false;
    }
    // A later piece of an echo begins with whatever its data are.
    let is_later_piece = u16::from_be_bytes(packet.two::<6>()) & 0x1fff != 0;
    match packet.byte::<9>() {
        protocol::UDP => packet.four::<20>() == DHCP_PORTS,
        protocol::ICMP => {
            is_later_piece
                || packet.byte::<20>() == ECHO_REPLY
                || <[u8; 4]>::is_gateway(interface, packet.four::<16>())
        }
        _ => false,
    }
}

#[inline(always)]
fn is_served_v6(frame: Xdp, interface: &Interface) -> bool {
    const ECHO_REPLY: u8 = 129;
    const ROUTER_SOLICITATION: u8 = 133;
    const NEIGHBOUR_SOLICITATION: u8 = 135;
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    let Ok(packet) = frame.window::<44>(ETHERNET_LEN) else {
        return false;
    };
    match packet.byte::<6>() {
        protocol::ICMPV6 => {
            matches!(
                packet.byte::<40>(),
                ECHO_REPLY | ROUTER_SOLICITATION | NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT
            ) || <[u8; 16]>::is_gateway(interface, packet.sixteen::<24>())
        }
        FRAGMENT => packet.byte::<40>() == protocol::ICMPV6,
        _ => false,
    }
}
