//! Functions that the verifier checks once, apart from whoever calls them (global functions): with each caller anew,
//! their paths would multiply with those of the callers, and pass the million instructions that it follows. So they take
//! nothing but the packet and a number, and find the interface themselves.
#![allow(
    unsafe_code,
    reason = "their names are the linker's, and they begin with a raw context"
)]

use aya_ebpf::bindings::__sk_buff;

use crate::kernel::Skb;
use crate::limit::{self, Bill, Charged};
use crate::services::Steered;
use crate::verdict::Packed;
use crate::{
    fragment, from_uplink, from_vm, icmp, opening, publish, quote, relay, resume, services,
    vm_to_vm,
};

macro_rules! apart {
    ($(
        $(#[$doc:meta])*
        $method:ident($($number:ident)?) = $v4:ident, $v6:ident: $($function:ident)::+;
    )+) => {
        /// A family with its own copy of each.
        pub trait Apart: Steered { $(
            $(#[$doc])*
            fn $method(skb: Skb $(, $number: u64)?) -> Packed;
        )+ }

        impl Apart for [u8; 4] {
            $(apart!(@method $method($($number)?), $v4: $($function)::+::<[u8; 4]>);)+
        }
        impl Apart for [u8; 16] {
            $(apart!(@method $method($($number)?), $v6: $($function)::+::<[u8; 16]>);)+
        }
    };
    (@method $method:ident($($number:ident)?), $name:ident: $function:expr) => {
        #[inline(always)]
        fn $method(skb: Skb $(, $number: u64)?) -> Packed {
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(context: *mut __sk_buff $(, $number: u64)?) -> u64 {
                // SAFETY: it is called right below alone, with the program's context.
                let skb = unsafe { Skb::new(context) };
                $function(skb $(, $number)?).to_number()
            }
            Packed::from_number($name(skb.context() $(, $number)?))
        }
    };
}

apart! {
    /// Judges a packet of the guest, or of the leg that is noted in it, once more.
    judge_again() = judge_again_v4, judge_again_v6: from_vm::judge_again;
    /// Opens a flow by a packet of the guest that is no fragment.
    open() = open_v4, open_v6: opening::open_by_packet;
    /// Opens a flow by a first fragment of the guest.
    open_by_fragment() = open_by_fragment_v4, open_by_fragment_v6: opening::open_by_fragment;
    /// Ends the flow of a packet of the guest that is no fragment; the number is that of the reason.
    end_from_vm(reason) = end_from_vm_v4, end_from_vm_v6: resume::end_from_vm;
    /// Ends the flow of a packet of the world that is no fragment; the number is that of the reason.
    end_from_uplink(reason) = end_from_uplink_v4, end_from_uplink_v6: resume::end_from_uplink;
    /// Ends the flow of a packet of the host; the number is that of the reason.
    end_from_host(reason) = end_from_host_v4, end_from_host_v6: resume::end_from_host;
    /// Judges a fragment of the guest.
    fragment_from_vm() = fragment_from_vm_v4, fragment_from_vm_v6: fragment::from_vm;
    /// Judges an ICMP error of the guest.
    quote_from_vm() = quote_from_vm_v4, quote_from_vm_v6: quote::from_vm;
    /// Tells the guest why its packet was dropped; the number holds that of the reason, and above it an MTU.
    tell_guest(told) = tell_guest_v4, tell_guest_v6: icmp::tell_guest;
    /// The MTU for which a packet of the guest was too big.
    narrowest() = narrowest_v4, narrowest_v6: icmp::narrowest;
    /// Sends a packet of DNS to the servers.
    dns() = dns_v4, dns_v6: services::dns;
    /// Looks at the flow of a packet for the guest; the number is the [`publish::Entrance`].
    settle(entrance) = settle_v4, settle_v6: from_uplink::settle;
    /// Delivers a packet to the guest; the number is a [`crate::verdict::Settled`].
    deliver(settled) = deliver_v4, deliver_v6: from_uplink::deliver;
    /// Opens a flow by a packet for a published port; the number is the [`publish::Entrance`].
    open_published(entrance) = open_published_v4, open_published_v6: publish::open;
    /// Opens a flow by a packet of another guest for the guest's own address.
    open_at_guest() = open_at_guest_v4, open_at_guest_v6: vm_to_vm::open;
    /// Looks whose a fragment is.
    judge_source() = judge_source_v4, judge_source_v6: relay::judge_source;
    /// Judges a packet from a TAP whose source is not its guest's.
    judge_foreign() = judge_foreign_v4, judge_foreign_v6: relay::judge;
    /// Judges the near half of a flow that goes through a relay anew; the number is a [`relay::FoundBy`].
    judge_relayed(by) = judge_relayed_v4, judge_relayed_v6: relay::judge_anew;
    /// Opens a flow by a packet for a port of a client.
    open_at_client() = open_at_client_v4, open_at_client_v6: relay::open;
    /// Ends the flow of a packet for a client; the number is that of the reason.
    end_at_client(reason) = end_at_client_v4, end_at_client_v6: relay::end;
    /// Judges a fragment for a client.
    fragment_to_client() = fragment_to_client_v4, fragment_to_client_v6: relay::fragment;
    /// Judges an ICMP error for a client.
    report_to_client() = report_to_client_v4, report_to_client_v6: relay::report;
}

/// Charges a bill to the instance.
#[inline(always)]
pub fn charge(skb: Skb, bill: Bill) -> Charged {
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn charge_bill(context: *mut __sk_buff, bill: u64) -> u64 {
        // SAFETY: it is called right below alone, with the program's context.
        let skb = unsafe { Skb::new(context) };
        limit::charge(skb, Bill::from_number(bill)).to_number()
    }
    Charged::from_number(charge_bill(skb.context(), bill.to_number()))
}
