//! Lists of denied networks, as each way takes them.

use std::net::Ipv4Addr;

use netagent_tests::deadline::{Deadline, SOON};
use netagent_tests::packet::{self, Packet};
use netagent_tests::world::server_v4;
use serde_json::json;

use crate::variant::{Kind, Variant};

/// How a way holds its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// netagent's tries.
    Netagent,
    /// A set of intervals of nftables.
    NftSet,
    /// A set of ipset, which a rule of iptables asks.
    Ipset,
    /// A rule of iptables for each network.
    Rules,
}

impl Way {
    pub(super) const ALL: [Self; 4] = [Self::Netagent, Self::NftSet, Self::Ipset, Self::Rules];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Netagent => "netagent",
            Self::NftSet => "nft, interval set",
            Self::Ipset => "iptables-nft, ipset",
            Self::Rules => "iptables-nft, a rule each",
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Netagent => Kind::Netagent,
            Self::NftSet => Kind::Nft,
            Self::Ipset | Self::Rules => Kind::IptablesNft,
        }
    }

    /// Why this machine cannot do it, where it cannot.
    pub(super) fn missing(self) -> Option<String> {
        let ipset = || {
            let netns = netagent_tests::netns::NetNs::new();
            let tried = netns
                .command("ipset")
                .args(["create", "probe", "hash:net"])
                .output();
            match tried {
                Ok(output) if output.status.success() => None,
                Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
                Err(error) => Some(format!("ipset: {error}")),
            }
        };
        let missing = self.kind().missing();
        missing.or_else(|| (self == Self::Ipset).then(ipset).flatten())
    }

    /// Whether it takes a list as long as this.
    pub(super) const fn holds(self, count: u32) -> bool {
        match self {
            Self::Netagent | Self::NftSet | Self::Ipset => true,
            Self::Rules => count <= 1_000,
        }
    }

    /// A way that denies so many networks, and was seen to; none where the number is 0.
    pub(super) fn prepare(self, count: u32) -> Variant {
        let variant = Variant::prepare(self.kind());
        if count == 0 {
            return variant;
        }
        let families = [true, false].map(|is_v4| networks(count, 0, is_v4));
        match self {
            Self::Netagent => put(&variant, &body(count, 0)),
            Self::NftSet => load_nft(&variant, &families),
            Self::Ipset => load_ipset(&variant, &families),
            Self::Rules => load_rules(&variant, &families),
        }
        check(&variant);
        variant
    }
}

/// Half of so many networks: those of a family. All are beside those that frames go to, so that the search for these is
/// deep. Two versions have no network in common.
fn networks(count: u32, version: u32, is_v4: bool) -> Vec<String> {
    let network = |number: u32| {
        let (index, high, low) = (number / 2, number >> 9 & 255, number >> 1 & 255);
        if is_v4 {
            format!("203.{high}.{low}.128/{}", 25 + version)
        } else {
            format!("2001:db8:200:{:x}:8000::/{}", 1 + index, 65 + version)
        }
    };
    let numbers = (0..count).filter(|number| (number & 1 == 0) == is_v4);
    numbers.map(network).collect()
}

/// What replaces a policy by one that denies these.
pub(super) fn body(count: u32, version: u32) -> String {
    let denied: Vec<String> = [true, false]
        .into_iter()
        .flat_map(|is_v4| networks(count, version, is_v4))
        .collect();
    json!({ "denied_cidrs": denied }).to_string()
}

pub(super) fn put(variant: &Variant, body: &str) {
    let agent = variant.agent.as_ref().expect("it is netagent's way");
    let answer = agent.api("PUT", "/v1/instances/bench/policy", body);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The set is asked behind the rule that accepts established connections.
fn load_nft(variant: &Variant, families: &[Vec<String>; 2]) {
    let mut text = String::new();
    for (family, kind, networks) in [
        ("ip", "ipv4_addr", &families[0]),
        ("ip6", "ipv6_addr", &families[1]),
    ] {
        let elements = networks.join(", ");
        text += &format!(
            "add set {family} guests denied {{ type {kind}; flags interval; }}
add element {family} guests denied {{ {elements} }}
add rule {family} guests forward index 0 {family} daddr @denied drop
"
        );
    }
    variant.world.host.feed("nft -f -", &text);
}

/// The same.
fn load_ipset(variant: &Variant, families: &[Vec<String>; 2]) {
    let host = &variant.world.host;
    for (program, family, networks) in [
        ("iptables", "inet", &families[0]),
        ("ip6tables", "inet6", &families[1]),
    ] {
        let mut text =
            format!("create {family} hash:net family {family} hashsize 65536 maxelem 1000000\n");
        for network in networks {
            text += &format!("add {family} {network}\n");
        }
        host.feed("ipset restore", &text);
        host.shell(&format!(
            "{program}-nft -I FORWARD 2 -m set --match-set {family} dst -j DROP"
        ));
    }
}

/// The same.
fn load_rules(variant: &Variant, families: &[Vec<String>; 2]) {
    for (program, networks) in [("iptables", &families[0]), ("ip6tables", &families[1])] {
        let rule = |network: &String| format!("-I FORWARD 2 -d {network} -j DROP\n");
        let rules: String = networks.iter().map(rule).collect();
        let text = format!("*filter\n{rules}COMMIT\n");
        let line = format!("{program}-nft-restore --noflush");
        variant.world.host.feed(&line, &text);
    }
}

/// What is for the first network of the list does not leave, and what is sent after it does.
fn check(variant: &Variant) {
    const PAYLOAD: [u8; 22] = [0x5a; 22];
    let wire = variant.wire();
    let denied = Ipv4Addr::new(203, 0, 0, 200);
    for address in [denied, server_v4(0)] {
        let bytes = packet::udp(&variant.ends.to(address), (4_000, 9_200), &PAYLOAD);
        variant.tap.send_bytes(bytes);
    }
    let arrived = wire.receive_where(Deadline::after(SOON), |received| {
        let packet = Packet::parse(&received.frame.completed())?;
        (packet.protocol == 17).then_some(packet)
    });
    assert_eq!(
        arrived.ends.dst,
        std::net::IpAddr::V4(server_v4(0)),
        "{}: a denied frame left",
        variant.kind.name()
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_list_has_every_network_once_and_versions_have_none_in_common() {
        let mut seen = BTreeSet::new();
        for version in [0, 1] {
            for is_v4 in [true, false] {
                let networks = networks(100_000, version, is_v4);
                assert_eq!(networks.len(), 50_000);
                seen.extend(networks);
            }
        }
        assert_eq!(seen.len(), 200_000);
    }
}
