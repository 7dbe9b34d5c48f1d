//! What `cargo xtask` shares with the tests: where things lie, and the guest VM.
//!
//! `cargo xtask setup` leaves, under [`paths::cache_dir`]:
//!
//! - `guest/vmlinuz`: Debian's cloud kernel, 6.1 on Debian 12, which is also the kernel floor;
//! - `guest/modules/*.ko`: all of its modules, flat, and `guest/modules/order`: the file names of those that a
//!   guest's network card needs, in the order in which `insmod` takes them;
//! - `guest/config`: what that kernel was built with;
//! - `bpf-linker/bin/bpf-linker` and `toolchain.env`: what `netagent/build.rs` builds the eBPF programs with.
//!
//! A static busybox stands in `/bin/busybox`.

#![forbid(unsafe_code)]

pub mod guest;
pub mod paths;
