//! Many entries of a map by one call (`BPF_MAP_UPDATE_BATCH`, Linux 5.6; tries since 5.13).
#![allow(
    unsafe_code,
    reason = "a command of bpf(2) that no crate in use offers"
)]

use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;
use nix::errno::Errno;
use nix::libc;

const MAP_UPDATE_BATCH: libc::c_int = 26;

/// The part of `union bpf_attr` that is named `batch`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Writes entries into a map whose keys and values have these types.
///
/// # Errors
/// Where the kernel refuses one, or has no such call for this kind of map: some may be written then.
pub(super) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, entries: &[(K, V)]) -> Result<(), Errno> {
    let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
    let mut attributes = Attributes {
        keys: keys.as_ptr().expose_provenance() as u64,
        values: values.as_ptr().expose_provenance() as u64,
        count: u32::try_from(entries.len()).map_err(|_too_many| Errno::E2BIG)?,
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..Attributes::default()
    };
    // SAFETY: the kernel reads `count` keys and values of the map's sizes, which are those of `K` and `V`; both vectors
    // outlive the call. It writes `count` alone.
    let code = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            MAP_UPDATE_BATCH,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    Errno::result(code).map(drop)
}
