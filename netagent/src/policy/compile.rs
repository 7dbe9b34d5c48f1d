//! From lists to verdicts: one entry for each network that decides about something, and no search at the time of a packet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netagent_common::policy::{NO_POLICY, PolicyId, Verdict};
use sha2::{Digest, Sha256};

use crate::policy::Compiled;
use crate::spec::policy::{PolicyMode, PolicySpec};

/// What `policy.deny_private` closes: RFC 1918, RFC 6598, RFC 4193, and the site-local range of RFC 3879.
const PRIVATE: [&str; 6] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
    "fec0::/10",
];

/// What a policy says of every address; `None` where it says the same of all of them, and the flags of a record say it.
#[must_use]
pub fn compile(policy: &PolicySpec, deny_private: bool) -> Option<Arc<Compiled>> {
    compile_around(policy, deny_private, &[])
}

/// The same, where `deny_private` does not close these networks: the route map says who reaches what is in them.
#[must_use]
pub fn compile_around(
    policy: &PolicySpec,
    deny_private: bool,
    opened: &[IpNet],
) -> Option<Arc<Compiled>> {
    if policy.mode != PolicyMode::Custom && !deny_private {
        return None;
    }
    let private: Vec<IpNet> = if deny_private {
        let networks = private_networks().into_iter();
        networks
            .flat_map(|network| without(network, opened))
            .collect()
    } else {
        Vec::new()
    };
    let denied = outermost(policy.denied_cidrs.iter().flat_map(|list| list.iter()));
    let allowed = policy.allowed_cidrs.iter().flat_map(|list| list.iter());
    let default = if policy.denies_the_rest() {
        Verdict::NotAllowed
    } else {
        Verdict::Default
    };
    // In the order of precedence: what stands there stays, and nothing more specific comes into it.
    let allowed = outside(outside(allowed.copied(), &private), &denied);
    let is_private = |network: &IpNet| private.iter().any(|one| one.contains(network));
    let private_entries = private.iter().map(|network| {
        let is_denied = denied.iter().any(|one| one.contains(network));
        let verdict = if is_denied {
            Verdict::DeniedTwice
        } else {
            Verdict::AlwaysDenied
        };
        (*network, verdict)
    });
    let private_entries: Vec<(IpNet, Verdict)> = private_entries.collect();
    let (twice, denied): (Vec<IpNet>, Vec<IpNet>) = denied.iter().copied().partition(is_private);
    let roots = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let with = |verdict| move |network: IpNet| (network, verdict);
    // Of equal networks the last one counts.
    let entries = roots.into_iter().map(with(default));
    let entries = entries.chain(allowed.map(with(Verdict::Allowed)));
    let entries = entries.chain(denied.into_iter().map(with(Verdict::Denied)));
    let entries = entries.chain(private_entries);
    let entries = entries.chain(twice.into_iter().map(with(Verdict::DeniedTwice)));
    Some(Arc::new(Compiled::of(entries)))
}

fn private_networks() -> Vec<IpNet> {
    let networks = PRIVATE.iter();
    networks.filter_map(|text| text.parse().ok()).collect()
}

/// What is left of a network without others, as networks that ascend.
fn without(network: IpNet, others: &[IpNet]) -> Vec<IpNet> {
    if others.iter().any(|other| other.contains(&network)) {
        return Vec::new();
    }
    if !others.iter().any(|other| network.contains(other)) {
        return vec![network];
    }
    let halves = network.subnets(network.prefix_len().saturating_add(1));
    let halves = halves.into_iter().flatten();
    halves.flat_map(|half| without(half, others)).collect()
}

/// The networks of an ascending list that are in no other of it. A network stands before those inside it.
fn outermost<'a>(networks: impl Iterator<Item = &'a IpNet>) -> Vec<IpNet> {
    let mut outermost: Vec<IpNet> = Vec::new();
    for network in networks {
        if !outermost.last().is_some_and(|last| last.contains(network)) {
            outermost.push(*network);
        }
    }
    outermost
}

/// Those networks that are in none of `closed`. Both ascend, and the closed ones do not overlap.
fn outside<'a>(
    networks: impl Iterator<Item = IpNet> + 'a,
    closed: &'a [IpNet],
) -> impl Iterator<Item = IpNet> + 'a {
    let mut ahead = closed.iter().peekable();
    let mut before: Option<&IpNet> = None;
    networks.filter(move |network| {
        while let Some(passed) = ahead.next_if(|one| *one <= network) {
            before = Some(passed);
        }
        !before.is_some_and(|before| before.contains(network))
    })
}

impl Compiled {
    fn of(entries: impl Iterator<Item = (IpNet, Verdict)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, verdict) in entries {
            match network {
                IpNet::V4(network) => v4.push((network, verdict)),
                IpNet::V6(network) => v6.push((network, verdict)),
            }
        }
        // Sorted once: of very many entries, each in its place would take twice as long.
        let (v4, v6) = (BTreeMap::from_iter(v4), BTreeMap::from_iter(v6));
        let id = id(&v4, &v6);
        Self { id, v4, v6 }
    }
}

/// The first bytes of a hash over every entry.
fn id(v4: &BTreeMap<Ipv4Net, Verdict>, v6: &BTreeMap<Ipv6Net, Verdict>) -> PolicyId {
    let v4 = v4
        .iter()
        .map(|(network, verdict)| (IpNet::V4(*network), *verdict));
    let v6 = v6
        .iter()
        .map(|(network, verdict)| (IpNet::V6(*network), *verdict));
    let mut bytes = Vec::new();
    for (network, verdict) in v4.chain(v6) {
        // The number of octets tells the families apart, so that no two sets of entries are the same bytes.
        match network.addr() {
            IpAddr::V4(address) => {
                bytes.push(4);
                bytes.extend(address.octets());
            }
            IpAddr::V6(address) => {
                bytes.push(16);
                bytes.extend(address.octets());
            }
        }
        bytes.extend([network.prefix_len(), verdict as u8]);
    }
    let digest = Sha256::digest(&bytes);
    let mut id = NO_POLICY;
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    if id == NO_POLICY {
        // Means that there is no policy.
        id = [0xff; 16];
    }
    id
}

#[cfg(test)]
mod tests;
