//! The kernel's socket buffer and the helpers in use, each behind a safe function.
#![allow(unsafe_code, reason = "the one place where helpers are called")]

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, bpf_redir_neigh};
use aya_ebpf::helpers;
use netagent_common::drop::DropReason;

use netagent_common::net::protocol::TCP;

use crate::maps::SkbLayout;

mod xdp;

pub use xdp::Xdp;

/// Flag of `bpf_l4_csum_replace`: the change is one of the pseudo header.
const PSEUDO_HEADER: u64 = 1 << 4;
/// Flag of `bpf_l4_csum_replace`: UDP, where a checksum of 0 means that there is none.
const MARK_MANGLED_0: u64 = 1 << 5;
/// Flag of `bpf_skb_store_bytes`: keep `skb->csum` right.
const RECOMPUTE_CSUM: u64 = 1;

/// Marks the slot of a leg in the control buffer.
const LEG: u32 = 1 << 31;

/// A packet in the hands of a tc program.
#[derive(Clone, Copy)]
pub struct Skb {
    raw: *mut __sk_buff,
}

/// How a change of the layer-4 checksum is to be understood.
#[derive(Clone, Copy)]
pub struct ChecksumField {
    /// Offset of the field from the start of the frame.
    pub offset: u32,
    /// UDP: 0 means that there is no checksum.
    pub zero_is_none: bool,
}

impl Skb {
    /// Wraps the context of a tc program.
    ///
    /// # Safety
    /// `raw` is the context that the kernel passed to the running program.
    #[inline(always)]
    pub const unsafe fn new(raw: *mut __sk_buff) -> Self {
        Self { raw }
    }

    /// The context.
    #[inline(always)]
    #[must_use]
    pub const fn context(self) -> *mut __sk_buff {
        self.raw
    }

    /// Length of the frame, bytes.
    #[inline(always)]
    pub fn len(self) -> u32 {
        // SAFETY: `raw` is the program's context, by the contract of `new`.
        unsafe { (*self.raw).len }
    }

    /// Whether the frame has no bytes; the kernel hands none over.
    #[inline(always)]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Interface that the program is attached to.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).ifindex }
    }

    /// Interface that the frame came in by; 0 where the host made it.
    #[inline(always)]
    pub fn ingress_ifindex(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).ingress_ifindex }
    }

    /// Whether the frame carries a VLAN tag, which is not in its bytes.
    #[inline(always)]
    pub fn vlan_present(self) -> bool {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).vlan_present != 0 }
    }

    /// Payload of each segment of a super-frame; 0 where it is none.
    #[inline(always)]
    pub fn gso_size(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).gso_size }
    }

    /// Whether the frame's destination address is this host's (`PACKET_HOST`).
    #[inline(always)]
    pub fn is_for_host(self) -> bool {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).pkt_type == 0 }
    }

    /// The mark.
    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).mark }
    }

    /// Sets the mark.
    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: as in `len`; the kernel lets tc programs write the mark.
        unsafe { (*self.raw).mark = mark }
    }

    /// The slot of the leg as whose packet this is judged, where it is not the TAP's own guest's: see
    /// [`Skb::set_leg`].
    #[inline(always)]
    pub fn leg(self) -> Option<u32> {
        // SAFETY: as in `len`.
        let [noted, ..] = unsafe { (*self.raw).cb };
        (noted & LEG != 0).then_some(noted & !LEG)
    }

    /// Notes that the packet is judged as one of a leg, for everything that is called later and takes nothing but the
    /// packet.
    #[inline(always)]
    pub fn set_leg(self, slot: u32) {
        // SAFETY: as in `len`; the kernel lets tc programs write the control buffer, which is theirs.
        unsafe { (*self.raw).cb[0] = LEG | slot }
    }

    /// Notes that the packet is the guest's of its TAP: whoever had the control buffer before left anything in it.
    #[inline(always)]
    pub fn set_no_leg(self) {
        // SAFETY: as in `set_leg`.
        unsafe { (*self.raw).cb[0] = 0 }
    }

    /// Cookie of the socket that sent the frame; 0 where none did.
    #[inline(always)]
    pub fn socket_cookie(self) -> u64 {
        // SAFETY: `raw` is the program's context.
        unsafe { helpers::bpf_get_socket_cookie(self.raw.cast()) }
    }

    /// First byte that can be read directly.
    #[inline(always)]
    pub(crate) fn data(self) -> usize {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).data as usize }
    }

    /// End of the bytes that can be read directly.
    #[inline(always)]
    pub(crate) fn data_end(self) -> usize {
        // SAFETY: as in `len`.
        unsafe { (*self.raw).data_end as usize }
    }

    /// Makes the first `len` bytes readable directly. Windows taken before are void.
    #[inline(always)]
    pub(crate) fn pull(self, len: u32) {
        // SAFETY: `raw` is the program's context. A failure shows as a window that does not fit.
        unsafe { helpers::bpf_skb_pull_data(self.raw.cast(), len) };
    }

    /// Corrects the checksum of an IPv4 header by a [`netagent_common::checksum::difference`].
    #[inline(always)]
    pub fn correct_l3_checksum(self, offset: u32, difference: u32) -> Result<(), DropReason> {
        // SAFETY: `raw` is the program's context; the helper checks the offset.
        let code = unsafe {
            helpers::bpf_l3_csum_replace(self.raw.cast(), offset, 0, difference.into(), 0)
        };
        refused(code)
    }

    /// Corrects a layer-4 checksum for a changed address. It is right for full, partial and complete
    /// checksums alike (`BPF_F_PSEUDO_HDR`).
    #[inline(always)]
    pub fn correct_l4_checksum_for_address(
        self,
        field: ChecksumField,
        difference: u32,
    ) -> Result<(), DropReason> {
        let flags = PSEUDO_HEADER | field.flags();
        let (raw, difference) = (self.raw.cast(), u64::from(difference));
        // SAFETY: `raw` is the program's context; the helper checks the offset.
        let code = unsafe { helpers::bpf_l4_csum_replace(raw, field.offset, 0, difference, flags) };
        refused(code)
    }

    /// Corrects a layer-4 checksum for a changed word of the layer-4 header.
    #[inline(always)]
    pub fn correct_l4_checksum_for_word(
        self,
        field: ChecksumField,
        old: [u8; 2],
        new: [u8; 2],
    ) -> Result<(), DropReason> {
        let (old, new) = (
            u16::from_ne_bytes(old).into(),
            u16::from_ne_bytes(new).into(),
        );
        let flags = 2 | field.flags();
        // SAFETY: `raw` is the program's context; the helper checks the offset.
        let code =
            unsafe { helpers::bpf_l4_csum_replace(self.raw.cast(), field.offset, old, new, flags) };
        refused(code)
    }

    /// Corrects a checksum whose pseudo header stays as it is, for bytes that were written directly: together they
    /// leave the sum over the packet, and so the device's own, as it was.
    #[inline(always)]
    pub fn correct_l4_checksum_for_payload(
        self,
        field: ChecksumField,
        difference: u32,
    ) -> Result<(), DropReason> {
        let (raw, difference) = (self.raw.cast(), u64::from(difference));
        // SAFETY: `raw` is the program's context; the helper checks the offset.
        let code = unsafe {
            helpers::bpf_l4_csum_replace(raw, field.offset, 0, difference, field.flags())
        };
        refused(code)
    }

    /// Writes bytes and keeps the device's own checksum of the whole packet right.
    #[inline(always)]
    pub fn store<const N: usize>(self, offset: u32, bytes: &[u8; N]) -> Result<(), DropReason> {
        let from = bytes.as_ptr().cast();
        // SAFETY: `from` is readable for `N` bytes; the helper checks the offset.
        let code = unsafe {
            helpers::bpf_skb_store_bytes(self.raw.cast(), offset, from, N as u32, RECOMPUTE_CSUM)
        };
        refused(code)
    }

    /// Writes bytes whose change a checksum within the packet makes up for: the device's own stays right.
    #[inline(always)]
    pub fn overwrite<const N: usize>(self, offset: u32, bytes: &[u8; N]) -> Result<(), DropReason> {
        let from = bytes.as_ptr().cast();
        // SAFETY: `from` is readable for `N` bytes; the helper checks the offset.
        let code =
            unsafe { helpers::bpf_skb_store_bytes(self.raw.cast(), offset, from, N as u32, 0) };
        refused(code)
    }

    /// Reads bytes at an offset that is not known before.
    #[inline(always)]
    pub fn load<const N: usize>(self, offset: u32) -> Result<[u8; N], DropReason> {
        let mut bytes = [0; N];
        let to = bytes.as_mut_ptr().cast();
        // SAFETY: `to` is writable for `N` bytes; the helper checks the offset.
        let code = unsafe { helpers::bpf_skb_load_bytes(self.raw.cast(), offset, to, N as u32) };
        refused(code).map(|()| bytes)
    }

    /// Marks the packet as one that met congestion (RFC 3168); false where its ends do not know such marks.
    #[inline(always)]
    pub fn mark_congestion(self) -> bool {
        // SAFETY: `raw` is the program's context. The helper moves nothing of the packet.
        unsafe { helpers::bpf_skb_ecn_set_ce(self.raw) != 0 }
    }

    /// Makes the frame one of `len` bytes with finished checksums, to be written anew from its start. Whatever
    /// it was before, a super-frame or one with a partial checksum, it is none afterwards: pulling eighty bytes
    /// off behind the Ethernet header passes the start of every transport header, where partial checksums start.
    #[inline(always)]
    pub fn become_plain(self, len: u32) -> Result<(), DropReason> {
        const SHED: u32 = 80;
        // SAFETY: `raw` is the program's context.
        refused(unsafe { helpers::bpf_skb_change_tail(self.raw.cast(), len + SHED, 0) })?;
        let mode = BPF_ADJ_ROOM_MAC;
        // SAFETY: as above.
        refused(unsafe { helpers::bpf_skb_adjust_room(self.raw.cast(), -(SHED as i32), mode, 0) })?;
        self.pull(len);
        Ok(())
    }

    /// Sends the frame out of an interface when the program returns the answer.
    #[inline(always)]
    pub fn redirect(self, ifindex: u32) -> i32 {
        // SAFETY: takes numbers only.
        unsafe { helpers::bpf_redirect(ifindex, 0) as i32 }
    }

    /// Lets an interface receive the frame when the program returns the answer; its mark stays.
    #[inline(always)]
    pub fn receive(self, ifindex: u32) -> i32 {
        // SAFETY: takes numbers only.
        unsafe { helpers::bpf_redirect(ifindex, BPF_F_INGRESS.into()) as i32 }
    }

    /// Sends a copy of the frame out of an interface, at once, where that takes any. Windows taken before are void.
    #[inline(always)]
    pub fn send_copy(self, ifindex: u32) {
        // SAFETY: `raw` is the program's context.
        unsafe { helpers::bpf_clone_redirect(self.raw.cast(), ifindex, 0) };
    }

    /// Sends the packet to an IPv4 neighbour when the program returns the answer; the kernel resolves it.
    #[inline(always)]
    pub fn redirect_neighbour_v4(self, ifindex: u32, next_hop: [u8; 4]) -> i32 {
        const AF_INET: u32 = 2;
        // Only the first word counts; filling the others alike spares a loop that clears them.
        redirect_neighbour(ifindex, AF_INET, [u32::from_ne_bytes(next_hop); 4])
    }

    /// Sends the packet to an IPv6 neighbour when the program returns the answer; the kernel resolves it.
    #[inline(always)]
    pub fn redirect_neighbour_v6(self, ifindex: u32, next_hop: [u8; 16]) -> i32 {
        const AF_INET6: u32 = 10;
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = next_hop;
        let words = [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]];
        redirect_neighbour(ifindex, AF_INET6, words.map(u32::from_ne_bytes))
    }
}

/// State of a transport checksum.
#[derive(Clone, Copy)]
pub enum Checksum {
    /// It stands in the header, and nothing else depends on the packet's bytes.
    Full,
    /// It is still to be computed.
    Partial,
    /// Not known, or the card computed a sum over the whole packet.
    Unknown,
}

/// A checksum that the kernel or the card computes when the packet leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// From where, bytes behind the start of the network header.
    pub start: u16,
    /// Where it goes, bytes behind `start`.
    pub offset: u16,
}

impl PartialChecksum {
    /// Both in one register.
    #[inline(always)]
    #[must_use]
    pub const fn packed(self) -> u32 {
        (self.start as u32) << 16 | self.offset as u32
    }
}

impl Skb {
    /// State of the transport checksum. The context does not show it: it is read from the kernel's own structure.
    /// Where that fails it counts as partial, and the check that follows fails too.
    #[inline(always)]
    pub fn checksum(self, layout: SkbLayout) -> Checksum {
        // `CHECKSUM_NONE`, `_UNNECESSARY`, `_COMPLETE`, `_PARTIAL` of `include/linux/skbuff.h`.
        let (byte, shift) = (layout.ip_summed_bit / 8, layout.ip_summed_bit % 8);
        let mut summed = u8::MAX;
        if !self.read_kernel(byte, core::slice::from_mut(&mut summed)) {
            return Checksum::Partial;
        }
        match (summed >> shift) & 3 {
            0 | 1 => Checksum::Full,
            3 => Checksum::Partial,
            _ => Checksum::Unknown,
        }
    }

    /// State of the transport checksum of a packet that a card received. Most cards checked it.
    #[inline(always)]
    pub fn received_checksum(self) -> Checksum {
        // SAFETY: `raw` is the program's context.
        if unsafe { helpers::bpf_csum_level(self.raw, 0) } >= 0 {
            return Checksum::Full;
        }
        match crate::maps::skb_layout() {
            Some(layout) => self.checksum(layout),
            None => Checksum::Unknown,
        }
    }

    /// The [`PartialChecksum`], packed; one that no packet has where it cannot be read.
    #[inline(never)]
    pub fn partial_checksum(self, layout: SkbLayout) -> u32 {
        let (mut place, mut network_header) = ([0_u8; 4], [0_u8; 2]);
        if !self.read_kernel(layout.csum_start, &mut place)
            || !self.read_kernel(layout.network_header, &mut network_header)
        {
            return u32::MAX;
        }
        let [a, b, c, d] = place;
        let start = u16::from_ne_bytes([a, b]).wrapping_sub(u16::from_ne_bytes(network_header));
        PartialChecksum {
            start,
            offset: u16::from_ne_bytes([c, d]),
        }
        .packed()
    }

    /// Reads from the kernel's `struct sk_buff`; in the running program the context is its address.
    #[inline(always)]
    fn read_kernel(self, offset: u16, to: &mut [u8]) -> bool {
        let from = self.raw.cast::<u8>().wrapping_add(offset.into());
        // SAFETY: writes to the slice alone; the helper survives any address.
        let code = unsafe {
            helpers::generated::bpf_probe_read_kernel(
                to.as_mut_ptr().cast(),
                to.len() as u32,
                from.cast(),
            )
        };
        code == 0
    }

    /// Whether a socket of the host would take a packet from `remote` to `local`: the connection's own, or one
    /// that listens or is bound there. Sockets bound to one device are not seen.
    #[inline(always)]
    pub fn host_has_socket<A: Copy>(
        self,
        protocol: u32,
        remote: (A, [u8; 2]),
        local: (A, [u8; 2]),
    ) -> bool {
        const CURRENT_NETWORK: u64 = u64::MAX;
        let mut tuple = SocketTuple {
            addresses: [remote.0, local.0],
            ports: [remote.1, local.1],
        };
        let (raw, size) = (self.raw.cast(), size_of::<SocketTuple<A>>() as u32);
        let place = (&raw mut tuple).cast();
        let socket = if protocol == u32::from(TCP) {
            // SAFETY: `place` is readable for `size` bytes, laid out as the kernel's `bpf_sock_tuple`.
            unsafe { helpers::bpf_skc_lookup_tcp(raw, place, size, CURRENT_NETWORK, 0) }
        } else {
            // SAFETY: as above.
            unsafe { helpers::bpf_sk_lookup_udp(raw, place, size, CURRENT_NETWORK, 0) }
        };
        if socket.is_null() {
            return false;
        }
        // SAFETY: the look-up above gave a reference to this socket.
        unsafe { helpers::bpf_sk_release(socket.cast()) };
        true
    }
}

/// The kernel's `bpf_sock_tuple` of one family: source and destination of a packet that the socket would take.
#[repr(C)]
struct SocketTuple<A> {
    addresses: [A; 2],
    ports: [[u8; 2]; 2],
}

impl ChecksumField {
    #[inline(always)]
    fn flags(self) -> u64 {
        if self.zero_is_none { MARK_MANGLED_0 } else { 0 }
    }
}

/// Calls `callback` with 0, 1, 2, ... and `context` until it returns 1, at most `count` times. A loop that the
/// verifier follows once, not `count` times.
#[inline(always)]
pub fn repeat<C>(count: u32, callback: unsafe extern "C" fn(u64, *mut C) -> i64, context: &mut C) {
    let callback = callback as *mut core::ffi::c_void;
    let context = core::ptr::from_mut(context).cast();
    // SAFETY: `callback` takes what the kernel passes, a number and this context, which outlives the call.
    unsafe { helpers::bpf_loop(count, callback, context, 0) };
}

/// Time of the monotonic clock, ns, at most one tick old.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes nothing.
    unsafe { helpers::bpf_ktime_get_coarse_ns() }
}

/// Time in ticks of the kernel's timer: the verifier makes one load of it, where a clock is a call.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: takes nothing.
    unsafe { helpers::generated::bpf_jiffies64() }
}

/// The same to the ns, which takes longer.
#[inline(always)]
pub fn precise_now_ns() -> u64 {
    // SAFETY: takes nothing.
    unsafe { helpers::bpf_ktime_get_ns() }
}

/// The same, s.
#[inline(always)]
pub fn now_s() -> u32 {
    (now_ns() / 1_000_000_000) as u32
}

/// Time in ticks.
#[inline(always)]
pub fn tick() -> u32 {
    (jiffies() >> crate::maps::jiffies_shift()) as u32
}

/// A random number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: takes nothing.
    unsafe { helpers::bpf_get_prandom_u32() }
}

/// The same number, of which the verifier knows nothing: an atomic addition makes it forget what stands in a place.
#[inline(always)]
pub fn forget(number: u64) -> u64 {
    let mut place = number;
    forget_in(&mut place);
    place
}

/// As [`forget`], where the number stands.
#[inline(always)]
pub fn forget_in(number: &mut u64) {
    // SAFETY: a valid, aligned place that nobody else uses meanwhile.
    unsafe { atomic_add(core::ptr::from_mut(number), 0) };
}

/// Adds to a counter that other CPUs add to as well.
///
/// # Safety
/// `counter` is valid and aligned, and everybody else who writes it does so atomically.
#[inline(always)]
pub(crate) unsafe fn atomic_add(counter: *mut u64, value: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: one atomic addition to a valid, aligned counter, by the contract above.
    unsafe {
        core::arch::asm!("lock *(u64 *)({counter} + 0) += {value}", counter = in(reg) counter, value = in(reg) value);
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: by the contract above.
        let counter = unsafe { core::sync::atomic::AtomicU64::from_ptr(counter) };
        counter.fetch_add(value, core::sync::atomic::Ordering::Relaxed);
    }
}

/// Replaces a word that other CPUs change as well, where it is `old`, and returns what it was.
///
/// # Safety
/// `word` is valid and aligned.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let found: u64;
        // SAFETY: one atomic exchange of a valid, aligned word, by the contract above. The instruction compares with
        // r0, and leaves there what it found.
        unsafe {
            core::arch::asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new, inout("r0") old => found);
        }
        found
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
        // SAFETY: by the contract above.
        let word = unsafe { AtomicU64::from_ptr(word) };
        word.compare_exchange(old, new, Relaxed, Relaxed)
            .unwrap_or_else(|found| found)
    }
}

#[inline(always)]
fn redirect_neighbour(ifindex: u32, family: u32, next_hop: [u32; 4]) -> i32 {
    let mut params = bpf_redir_neigh {
        nh_family: family,
        __bindgen_anon_1: aya_ebpf::bindings::bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: next_hop },
    };
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: `params` is initialised and `size` bytes long.
    unsafe { helpers::bpf_redirect_neigh(ifindex, &raw mut params, size, 0) as i32 }
}

#[inline(always)]
fn refused(code: aya_ebpf::cty::c_long) -> Result<(), DropReason> {
    if code == 0 {
        Ok(())
    } else {
        Err(DropReason::HelperFailed)
    }
}
