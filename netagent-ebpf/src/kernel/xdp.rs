//! A frame before the kernel made a socket buffer of it.
#![allow(unsafe_code, reason = "the one place where its context is read")]

use aya_ebpf::bindings::xdp_md;

/// A frame in the hands of an XDP program.
#[derive(Clone, Copy)]
pub struct Xdp {
    raw: *mut xdp_md,
}

impl Xdp {
    /// Wraps the context of an XDP program.
    ///
    /// # Safety
    /// `raw` is the context that the kernel passed to the running program.
    #[inline(always)]
    pub const unsafe fn new(raw: *mut xdp_md) -> Self {
        Self { raw }
    }

    /// Interface that the frame came in by.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: `raw` is the program's context, by the contract of `new`.
        unsafe { (*self.raw).ingress_ifindex }
    }

    /// First byte.
    #[inline(always)]
    pub(crate) fn data(self) -> usize {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw).data as usize }
    }

    /// End of the frame.
    #[inline(always)]
    pub(crate) fn data_end(self) -> usize {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw).data_end as usize }
    }
}
