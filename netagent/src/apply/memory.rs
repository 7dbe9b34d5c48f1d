//! Gives memory back to the kernel after a load, which reads all type information of the kernel.
#![allow(
    unsafe_code,
    reason = "malloc_trim is a foreign function, and nothing else shrinks the heap"
)]

/// Returns the free pages of the heap. Without it the agent keeps the 20 MB that a load used for a moment.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number, locks the arenas itself, and moves nothing that is in use.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
