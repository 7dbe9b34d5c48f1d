//! What the lists of an instance say of every address: compiled once, for the maps of the datapath and for `explain`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netagent_common::policy::{PolicyId, Verdict};

mod compile;
pub mod explain;

pub use compile::{compile, compile_around};

/// A compiled policy: the verdict of the longest prefix is final. Both families have an entry of length 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Names it: two that say the same have the same name.
    pub id: PolicyId,
    /// IPv4 destinations.
    pub v4: BTreeMap<Ipv4Net, Verdict>,
    /// IPv6 destinations.
    pub v6: BTreeMap<Ipv6Net, Verdict>,
}

impl Compiled {
    /// The entry that decides about an address, and what it says.
    #[must_use]
    pub fn entry(&self, address: IpAddr) -> Option<(IpNet, Verdict)> {
        fn longest<N: Ord + Copy + Into<IpNet>>(
            entries: &BTreeMap<N, Verdict>,
            prefixes: impl Iterator<Item = N>,
        ) -> Option<(IpNet, Verdict)> {
            let mut found = prefixes.filter_map(|prefix| Some((prefix, *entries.get(&prefix)?)));
            let (prefix, verdict) = found.next()?;
            Some((prefix.into(), verdict))
        }
        match address {
            IpAddr::V4(address) => {
                let lengths = (0..=32).rev();
                longest(
                    &self.v4,
                    lengths.map(|length| Ipv4Net::new_assert(address, length).trunc()),
                )
            }
            IpAddr::V6(address) => {
                let lengths = (0..=128).rev();
                longest(
                    &self.v6,
                    lengths.map(|length| Ipv6Net::new_assert(address, length).trunc()),
                )
            }
        }
    }
}
