//! What processes of the host connect and send to: a published port of the host's own address or of loopback leads to
//! the guest, without a packet that would have to be changed.
#![allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "the context of these programs is read and written in place, word by word"
)]

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers;
use netagent_common::net::protocol;
use netagent_common::publish::{Led, LedKey};

use crate::family::Family;
use crate::{conntrack, maps, publish};

/// A socket of a process, and the address that its call names.
#[derive(Clone, Copy)]
pub struct Call {
    raw: *mut bpf_sock_addr,
}

/// A family of addresses that a call may name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    V4([u8; 4]),
    /// An IPv4 address in an IPv6 one, RFC 4291 section 2.5.5.2.
    Mapped([u8; 4]),
    V6([u8; 16]),
}

impl Call {
    /// Wraps the context of a program on socket addresses.
    ///
    /// # Safety
    /// `raw` is the context that the kernel passed to the running program.
    #[inline(always)]
    pub const unsafe fn new(raw: *mut bpf_sock_addr) -> Self {
        Self { raw }
    }

    #[inline(always)]
    fn protocol(self) -> u8 {
        // SAFETY: `raw` is the program's context, by the contract of `new`.
        unsafe { (*self.raw).protocol as u8 }
    }

    #[inline(always)]
    fn is_here(self) -> bool {
        let here = maps::netns_cookie();
        // SAFETY: as in `protocol`.
        here != 0 && unsafe { helpers::generated::bpf_get_netns_cookie(self.raw.cast()) } == here
    }

    #[inline(always)]
    fn cookie(self) -> u64 {
        // SAFETY: as in `protocol`.
        unsafe { helpers::generated::bpf_get_socket_cookie(self.raw.cast()) }
    }

    #[inline(always)]
    fn port(self) -> [u8; 2] {
        // SAFETY: as in `protocol`. The port stands in the first two bytes, in the order of the network.
        let [a, b, ..] = unsafe { (*self.raw).user_port }.to_ne_bytes();
        [a, b]
    }

    #[inline(always)]
    fn set_port(self, [a, b]: [u8; 2]) {
        // SAFETY: as in `protocol`; the kernel lets these programs write the port.
        unsafe { (*self.raw).user_port = u32::from_ne_bytes([a, b, 0, 0]) }
    }

    #[inline(always)]
    fn v4(self) -> Named {
        // SAFETY: as in `protocol`.
        Named::V4(unsafe { (*self.raw).user_ip4 }.to_ne_bytes())
    }

    #[inline(always)]
    fn v6(self) -> Named {
        const MAPPED: u32 = 0xffff_u32.to_be();
        // SAFETY: as in `protocol`; the kernel takes each word by itself.
        let (first, second, third, fourth) = unsafe {
            (
                (&raw const (*self.raw).user_ip6[0]).read_volatile(),
                (&raw const (*self.raw).user_ip6[1]).read_volatile(),
                (&raw const (*self.raw).user_ip6[2]).read_volatile(),
                (&raw const (*self.raw).user_ip6[3]).read_volatile(),
            )
        };
        if (first, second, third) == (0, 0, MAPPED) {
            return Named::Mapped(fourth.to_ne_bytes());
        }
        let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
        let ([i, j, k, l], [m, n, o, p]) = (third.to_ne_bytes(), fourth.to_ne_bytes());
        Named::V6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    #[inline(always)]
    fn set_v4(self, address: [u8; 4]) {
        // SAFETY: as in `set_port`.
        unsafe { (*self.raw).user_ip4 = u32::from_ne_bytes(address) }
    }

    #[inline(always)]
    fn set_mapped(self, address: [u8; 4]) {
        // SAFETY: as in `set_port`. The words before it stay as they are.
        unsafe {
            (&raw mut (*self.raw).user_ip6[3]).write_volatile(u32::from_ne_bytes(address));
        }
    }

    #[inline(always)]
    fn set_v6(self, address: [u8; 16]) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
        // SAFETY: as in `set_port`.
        unsafe {
            let words = &raw mut (*self.raw).user_ip6;
            (&raw mut (*words)[0]).write_volatile(u32::from_ne_bytes([a, b, c, d]));
            (&raw mut (*words)[1]).write_volatile(u32::from_ne_bytes([e, f, g, h]));
            (&raw mut (*words)[2]).write_volatile(u32::from_ne_bytes([i, j, k, l]));
            (&raw mut (*words)[3]).write_volatile(u32::from_ne_bytes([m, n, o, p]));
        }
    }

    /// Whether the socket is bound to a loopback address, from which no packet leaves the host: its connection is the
    /// agent's to carry.
    #[inline(always)]
    fn is_bound_to_loopback(self) -> bool {
        // SAFETY: as in `protocol`; the kernel checks the pointer before it is followed.
        unsafe {
            let socket = (*self.raw).__bindgen_anon_1.sk;
            if socket.is_null() {
                return false;
            }
            let [first, ..] = (*socket).src_ip4.to_ne_bytes();
            let v6 = (
                (&raw const (*socket).src_ip6[0]).read_volatile(),
                (&raw const (*socket).src_ip6[1]).read_volatile(),
                (&raw const (*socket).src_ip6[2]).read_volatile(),
                (&raw const (*socket).src_ip6[3]).read_volatile(),
            );
            first == 127 || v6 == (0, 0, 0, 1_u32.to_be())
        }
    }
}

/// Leads a `connect` or `sendmsg` of an IPv4 socket.
#[inline(always)]
pub fn lead_v4(call: Call) {
    lead(call, call.v4());
}

/// Leads a `connect` or `sendmsg` of an IPv6 socket.
#[inline(always)]
pub fn lead_v6(call: Call) {
    lead(call, call.v6());
}

/// Says to an IPv4 socket that it talks to what it asked for.
#[inline(always)]
pub fn tell_v4(call: Call) {
    tell(call, call.v4());
}

/// Says to an IPv6 socket that it talks to what it asked for.
#[inline(always)]
pub fn tell_v6(call: Call) {
    tell(call, call.v6());
}

#[inline(always)]
fn is_transport(call: Call) -> bool {
    matches!(call.protocol(), protocol::TCP | protocol::UDP)
}

#[inline(always)]
fn lead(call: Call, named: Named) {
    if !is_transport(call) || !call.is_here() {
        return;
    }
    match named {
        Named::V4(address) => {
            if let Some(guest) = guest_for(call, address) {
                call.set_v4(guest);
            }
        }
        Named::Mapped(address) => {
            if let Some(guest) = guest_for(call, address) {
                call.set_mapped(guest);
            }
        }
        Named::V6(address) => {
            if let Some(guest) = guest_for(call, address) {
                call.set_v6(guest);
            }
        }
    }
}

/// The guest behind a published port; the port is changed already.
#[inline(always)]
fn guest_for<A: Family>(call: Call, address: A) -> Option<A> {
    let port = call.port();
    let published = publish::find((address, port), call.protocol())?;
    // The host's own, loopback with it: what others publish elsewhere under the same port is not meant.
    if !is_own(address) || call.is_bound_to_loopback() {
        return None;
    }
    let interface = maps::record(published.slot).ok()?;
    if interface.generation != published.generation {
        return None;
    }
    let key = LedKey {
        cookie: call.cookie(),
        guest: published.guest.to_sixteen(),
        port: published.guest_port,
        protocol: call.protocol(),
        reserved: [0; 5],
    };
    let led = Led {
        generation: published.generation,
        port,
        reserved: [0; 2],
        address: address.to_sixteen(),
    };
    if !maps::lead(&key, &led) {
        return None;
    }
    call.set_port(published.guest_port);
    Some(published.guest)
}

#[inline(always)]
fn is_own<A: Family>(address: A) -> bool {
    A::is_loopback(address) || address == A::ZERO || conntrack::is_the_hosts(address)
}

#[inline(always)]
fn tell(call: Call, named: Named) {
    if !is_transport(call) || !call.is_here() {
        return;
    }
    match named {
        Named::V4(address) => {
            if let Some(asked) = asked_for(call, address) {
                call.set_v4(asked);
            }
        }
        Named::Mapped(address) => {
            if let Some(asked) = asked_for(call, address) {
                call.set_mapped(asked);
            }
        }
        Named::V6(address) => {
            if let Some(asked) = asked_for(call, address) {
                call.set_v6(asked);
            }
        }
    }
}

/// What the socket asked for, where it was led to this guest; the port is changed already.
#[inline(always)]
fn asked_for<A: Family>(call: Call, guest: A) -> Option<A> {
    let key = LedKey {
        cookie: call.cookie(),
        guest: guest.to_sixteen(),
        port: call.port(),
        protocol: call.protocol(),
        reserved: [0; 5],
    };
    let led = maps::led(&key)?;
    call.set_port(led.port);
    Some(A::from_sixteen(led.address))
}
