//! One rule set for the network of all guests, as Hyperfleet loads it, by nftables and by iptables: masquerade, a filter
//! of what is forwarded, established connections first; and a published port.

use netagent_tests::netns::NetNs;
use netagent_tests::world::UPLINK;

use super::routed::{NETWORK_V4, NETWORK_V6, guest_v4};
use crate::variant::{GUEST_PORT, PUBLISHED};

/// Families of nftables with the guests' network and what is published.
fn families() -> [(&'static str, &'static str, String); 2] {
    let guest = guest_v4(0);
    let published = format!("iifname {UPLINK} udp dport {PUBLISHED} dnat to {guest}:{GUEST_PORT};");
    [
        ("ip", NETWORK_V4, published),
        ("ip6", NETWORK_V6, String::new()),
    ]
}

pub(crate) fn load_nft(host: &NetNs) {
    let mut text = String::new();
    for (family, network, published) in families() {
        text += &format!(
            "table {family} guests {{
  chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; {published} }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    {family} saddr {network} oifname {UPLINK} masquerade;
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state established,related accept;
    {family} saddr {network} oifname {UPLINK} accept;
    {family} daddr {network} iifname {UPLINK} accept;
  }}
}}
"
        );
    }
    host.feed("nft -f -", &text);
    be_liberal(host);
}

/// By `iptables-nft` or `iptables-legacy`.
pub(super) fn load_iptables(host: &NetNs, variant: &str) {
    let guest = guest_v4(0);
    let published = format!(
        "-A PREROUTING -i {UPLINK} -p udp --dport {PUBLISHED} -j DNAT --to-destination {guest}:{GUEST_PORT}"
    );
    for (program, network, published) in [
        ("iptables", NETWORK_V4, published.as_str()),
        ("ip6tables", NETWORK_V6, ""),
    ] {
        let text = format!(
            "*nat
{published}
-A POSTROUTING -s {network} -o {UPLINK} -j MASQUERADE
COMMIT
*filter
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -s {network} -o {UPLINK} -j ACCEPT
-A FORWARD -d {network} -i {UPLINK} -j ACCEPT
COMMIT
"
        );
        host.feed(&format!("{program}-{variant}-restore"), &text);
    }
    be_liberal(host);
}

/// The frames of a super-frame round repeat their sequence numbers.
pub(crate) fn be_liberal(host: &NetNs) {
    host.sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1");
}
