//! What tc-redirect-tap makes: an ingress qdisc on both devices, and a u32 filter that matches everything.

use netagent_tests::netns::NetNs;

use super::{PATHS, TAPS, take_queues_away};

pub(super) fn set_up(host: &NetNs) {
    host.ip_all(&TAPS.map(|tap| format!("link set {tap} up")));
    take_queues_away(host, &TAPS);
    let mut lines = String::new();
    for (from, to) in PATHS {
        lines += &format!(
            "qdisc add dev {from} ingress
filter add dev {from} parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev {to}
"
        );
    }
    host.feed("tc -batch -", &lines);
}
