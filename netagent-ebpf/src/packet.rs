//! Checked reads and writes of the packet's bytes.
#![allow(
    unsafe_code,
    reason = "the one place where packets are read and written"
)]

use netagent_common::drop::DropReason;

use crate::kernel::Skb;

/// `N` bytes of a frame, proven to be there. Void after any helper that may move the packet.
#[derive(Clone, Copy)]
pub struct Window<const N: usize> {
    start: *mut u8,
}

/// Bytes that any program looks at: Ethernet, IPv6, an ICMPv6 error, the packet in it up to its ports.
const HEADERS_LEN: u32 = 14 + 40 + 8 + 40 + 8;

impl Skb {
    /// `N` bytes from `offset`, which is a constant wherever this is called.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] where the frame is shorter.
    #[inline(always)]
    pub fn window<const N: usize>(self, offset: u32) -> Result<Window<N>, DropReason> {
        let start = self.data() + offset as usize;
        if start + N > self.data_end() {
            return Err(DropReason::Malformed);
        }
        Ok(Window {
            start: start as *mut u8,
        })
    }

    /// Brings the headers into direct reach where the frame's bytes lie elsewhere.
    #[inline(always)]
    pub fn reach_headers(self) {
        let (reach, len) = (self.data_end() - self.data(), self.len());
        if reach < HEADERS_LEN as usize && reach < len as usize {
            // Before Linux 6.16 a partial pull of a super-frame that is a list of datagrams panics.
            let all = self.gso_size() != 0 || len < HEADERS_LEN;
            self.pull(if all { len } else { HEADERS_LEN });
        }
    }
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
