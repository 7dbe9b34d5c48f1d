//! Checked reads and writes of the packet's bytes.
#![allow(
    unsafe_code,
    reason = "the one place where packets are read and written"
)]

use netagent_common::drop::DropReason;

use crate::kernel::{Skb, Xdp};

/// `N` bytes of a frame, proven to be there. Void after any helper that may move the packet.
#[derive(Clone, Copy)]
pub struct Window<const N: usize> {
    start: *mut u8,
}

/// Where a frame comes from.
#[derive(Clone, Copy)]
pub enum Origin {
    /// A TAP, or the host itself.
    Vm,
    /// A card. It may hand over a super-frame that is a list of datagrams, and before Linux 6.16 a partial pull of
    /// one panics; it is pulled whole in the rare case that its headers are out of reach.
    Uplink,
}

impl Skb {
    /// `N` bytes from `offset`, which is a constant wherever this is called.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where the frame is shorter.
    #[inline(always)]
    pub fn window<const N: usize>(self, offset: u32) -> Result<Window<N>, DropReason> {
        window(self.data(), self.data_end(), offset)
    }

    /// Brings the first `N` bytes into direct reach where they lie elsewhere. It is called with what is needed and
    /// no more: a guest's super-frame has nothing but its headers in reach, and the rest is 60 KB to copy.
    #[inline(always)]
    pub fn reach<const N: usize>(self, from: Origin) {
        let (reach, len) = (self.data_end() - self.data(), self.len());
        if reach < N && reach < len as usize {
            let whole = match from {
                Origin::Vm => false,
                Origin::Uplink => self.gso_size() != 0,
            };
            self.pull(if whole || len < N as u32 {
                len
            } else {
                N as u32
            });
        }
    }
}

impl Xdp {
    /// As [`Skb::window`]: an XDP program reaches the whole frame.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where the frame is shorter.
    #[inline(always)]
    pub fn window<const N: usize>(self, offset: u32) -> Result<Window<N>, DropReason> {
        window(self.data(), self.data_end(), offset)
    }
}

#[inline(always)]
fn window<const N: usize>(
    data: usize,
    data_end: usize,
    offset: u32,
) -> Result<Window<N>, DropReason> {
    let start = data + offset as usize;
    if start + N > data_end {
        return Err(DropReason::Malformed);
    }
    Ok(Window {
        start: start as *mut u8,
    })
}

impl<const N: usize> Window<N> {
    /// The byte at `AT`.
    #[inline(always)]
    pub fn byte<const AT: usize>(self) -> u8 {
        const { assert!(AT < N) };
        // SAFETY: `window` proved `N` readable bytes at `start`, and `AT` is below `N`.
        unsafe { self.start.wrapping_add(AT).read() }
    }

    /// Two bytes, in the order of the packet.
    #[inline(always)]
    pub fn two<const AT: usize>(self) -> [u8; 2] {
        const { assert!(AT + 2 <= N) };
        let from = self.start.wrapping_add(AT).cast::<u16>();
        // SAFETY: inside the window by the assertion. eBPF loads need no alignment: the verifier allows and
        // the JIT compiles unaligned loads from packets on x86-64 and arm64.
        unsafe { from.read() }.to_ne_bytes()
    }

    /// Four bytes, in the order of the packet.
    #[inline(always)]
    pub fn four<const AT: usize>(self) -> [u8; 4] {
        const { assert!(AT + 4 <= N) };
        let from = self.start.wrapping_add(AT).cast::<u32>();
        // SAFETY: as in `two`.
        unsafe { from.read() }.to_ne_bytes()
    }

    /// Whether a MAC address stands at `AT`; `TAIL` is `AT + 4`. Two comparisons of words: the compiler takes six
    /// bytes one by one.
    #[inline(always)]
    pub fn is_mac<const AT: usize, const TAIL: usize>(self, mac: [u8; 6]) -> bool {
        const { assert!(AT + 4 == TAIL) };
        let [a, b, c, d, e, f] = mac;
        let head = u32::from_ne_bytes(self.four::<AT>()) ^ u32::from_ne_bytes([a, b, c, d]);
        let tail = u16::from_ne_bytes(self.two::<TAIL>()) ^ u16::from_ne_bytes([e, f]);
        head | u32::from(tail) == 0
    }

    /// Sixteen bytes, in the order of the packet.
    #[inline(always)]
    pub fn sixteen<const AT: usize>(self) -> [u8; 16] {
        const { assert!(AT + 16 <= N) };
        let from = self.start.wrapping_add(AT).cast::<[u32; 4]>();
        // SAFETY: as in `two`.
        let words = unsafe { from.read() };
        bytemuck::cast(words)
    }

    /// Words from `AT` on, as they lie in memory.
    #[inline(always)]
    pub fn words<const AT: usize, const COUNT: usize>(self) -> [u32; COUNT] {
        const { assert!(AT + 4 * COUNT <= N) };
        let from = self.start.wrapping_add(AT);
        core::array::from_fn(|index| {
            let from = from.wrapping_add(4 * index).cast::<u32>();
            // SAFETY: as in `two`.
            unsafe { from.read() }
        })
    }

    /// Writes words from `AT` on.
    #[inline(always)]
    pub fn set_words<const AT: usize, const COUNT: usize>(self, words: &[u32; COUNT]) {
        const { assert!(AT + 4 * COUNT <= N) };
        let mut to = self.start.wrapping_add(AT).cast::<u32>();
        for word in words {
            // SAFETY: as in `set_byte`; alignment as in `two`.
            unsafe { to.write(*word) };
            to = to.wrapping_add(1);
        }
    }

    /// Writes one byte.
    #[inline(always)]
    pub fn set_byte<const AT: usize>(self, byte: u8) {
        const { assert!(AT < N) };
        // SAFETY: `window` proved `N` bytes at `start`; the kernel made them writable before the program ran.
        unsafe { self.start.wrapping_add(AT).write(byte) }
    }

    /// Writes two bytes.
    #[inline(always)]
    pub fn set_two<const AT: usize>(self, bytes: [u8; 2]) {
        const { assert!(AT + 2 <= N) };
        let to = self.start.wrapping_add(AT).cast::<u16>();
        // SAFETY: as in `set_byte`; alignment as in `two`.
        unsafe { to.write(u16::from_ne_bytes(bytes)) }
    }

    /// Writes four bytes.
    #[inline(always)]
    pub fn set_four<const AT: usize>(self, bytes: [u8; 4]) {
        const { assert!(AT + 4 <= N) };
        let to = self.start.wrapping_add(AT).cast::<u32>();
        // SAFETY: as in `set_byte`; alignment as in `two`.
        unsafe { to.write(u32::from_ne_bytes(bytes)) }
    }

    /// Writes sixteen bytes.
    #[inline(always)]
    pub fn set_sixteen<const AT: usize>(self, bytes: [u8; 16]) {
        const { assert!(AT + 16 <= N) };
        let to = self.start.wrapping_add(AT).cast::<[u32; 4]>();
        // SAFETY: as in `set_byte`; alignment as in `two`.
        unsafe { to.write(bytemuck::cast(bytes)) }
    }

    /// The MAC addresses of an answer, as [`Window::set_words`] takes them, where the window starts with the Ethernet
    /// header.
    #[inline(always)]
    pub fn swapped_macs(self) -> [u32; 3] {
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) =
            (self.four::<0>(), self.four::<4>(), self.four::<8>());
        [[g, h, i, j], [k, l, a, b], [c, d, e, f]].map(u32::from_ne_bytes)
    }

    /// Writes the MAC addresses, where the window starts with the Ethernet header.
    #[inline(always)]
    pub fn set_macs(self, destination: [u8; 6], source: [u8; 6]) {
        let [a, b, c, d, e, f] = destination;
        let [g, h, i, j, k, l] = source;
        self.set_four::<0>([a, b, c, d]);
        self.set_four::<4>([e, f, g, h]);
        self.set_four::<8>([i, j, k, l]);
    }
}
