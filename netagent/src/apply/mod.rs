//! Stub of the kernel's host, until the one of branch `host` replaces this file.

use crate::host::{Cleaned, Counters, Host, HostError, HostOptions};
use crate::plan::{Observed, Step};

/// The machine itself.
pub struct KernelHost;

impl KernelHost {
    /// Opens netlink and the BPF directory.
    ///
    /// # Errors
    /// Always: this is the stub.
    pub fn open(_options: HostOptions) -> Result<Self, HostError> {
        Err(absent())
    }
}

fn absent() -> HostError {
    HostError::missing("this build has no kernel host", "merge branch host")
}

#[allow(clippy::unused_async, reason = "stub")]
impl Host for KernelHost {
    async fn observe(&mut self) -> Result<Observed, HostError> {
        Err(absent())
    }
    async fn apply(&mut self, _step: &Step) -> Result<(), HostError> {
        Err(absent())
    }
    async fn counters(&mut self, _slot: u32) -> Result<Counters, HostError> {
        Err(absent())
    }
    async fn changed(&mut self) {
        std::future::pending().await
    }
    async fn clean(&mut self) -> Result<Cleaned, HostError> {
        Err(absent())
    }
    async fn collect(&mut self) -> Result<(), HostError> {
        Err(absent())
    }
}
