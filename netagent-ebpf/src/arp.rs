//! ARP (RFC 826): questions for the gateway are answered, everything else ends here.

use netagent_common::drop::DropReason;
use netagent_common::net::{ETHERNET_LEN, GATEWAY_MAC};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::verdict::{Action, Packed};
use crate::{maps, relay};

const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];

/// Judges an ARP packet, and answers a question for the gateway.
#[inline(never)]
pub fn from_vm(skb: Skb, interface: &Interface) -> Packed {
    Packed::of(judge(skb, interface))
}

#[inline(always)]
fn judge(skb: Skb, interface: &Interface) -> Result<Action, DropReason> {
    let arp = skb.window::<28>(ETHERNET_LEN)?;
    // Ethernet, IPv4, and the lengths of their addresses.
    if arp.four::<0>() != [0, 1, 8, 0] || arp.two::<4>() != [6, 4] {
        return Err(DropReason::Malformed);
    }
    let (sender, target) = (arp.four::<14>(), arp.four::<24>());
    let is_probe = sender == [0; 4];
    let is_own = <[u8; 4]>::is_own(interface, sender);
    if !arp.is_mac::<8, 12>(interface.guest_mac) || !(is_own || is_probe) {
        return Err(DropReason::SpoofedArp);
    }
    // A guest that asks for an address of its own looks whether somebody else has it.
    let is_gateway =
        <[u8; 4]>::is_gateway(interface, target) && !<[u8; 4]>::is_own(interface, target);
    if arp.two::<6>() != REQUEST || !(is_gateway || relay::is_clients(interface, target)) {
        return Err(DropReason::ArpUnanswered);
    }
    let frame = skb.window::<42>(0)?;
    frame.set_macs(interface.guest_mac, GATEWAY_MAC);
    frame.set_two::<20>(REPLY);
    let [a, b, c, d, e, f] = GATEWAY_MAC;
    frame.set_four::<22>([a, b, c, d]);
    frame.set_two::<26>([e, f]);
    frame.set_four::<28>(target);
    let [a, b, c, d, e, f] = interface.guest_mac;
    frame.set_four::<32>([a, b, c, d]);
    frame.set_two::<36>([e, f]);
    frame.set_four::<38>(sender);
    skb.set_mark(maps::mark());
    Ok(Action::Redirect(skb.redirect(interface.ifindex)))
}
