//! What the ways have in common that are no program's of their own: TAPs, and what joins them.

use std::os::fd::OwnedFd;

use netagent_common::net::GATEWAY_MAC;

use super::machine::Network;
use crate::peers::redirect_program;
use netagent_tests::netns::NetNs;
use netagent_tests::sys;
use netagent_tests::tap::{Header, Tap};
use netagent_tests::world::link_layer;

/// A TAP for a guest, with its router's address where the host is that.
pub(super) fn open_tap(host: &NetNs, name: &str, (guest, is_routed): (Network, bool)) -> Tap {
    let tap = Tap::open(host, name, Header::Vnet);
    let mac = link_layer(GATEWAY_MAC);
    let mut lines = vec![format!("link set {name} address {mac} up")];
    if is_routed {
        let Network {
            address,
            prefix,
            gateway,
            ..
        } = guest;
        let mac = link_layer(guest.mac);
        lines.push(format!("address add {gateway}/{prefix} dev {name}"));
        lines.push(format!(
            "neighbour replace {address} lladdr {mac} dev {name} nud permanent"
        ));
    }
    host.ip_all(&lines);
    // As the agent's own: a queue would cost the others more.
    host.shell(&format!("tc qdisc replace dev {name} root noqueue"));
    tap
}

/// Redirects what each of two devices receives to the other, for as long as the answer is held.
pub(super) fn redirect(host: &NetNs, [one, other]: [&str; 2]) -> Vec<OwnedFd> {
    let (one, other) = (host.ifindex(one), host.ifindex(other));
    let attach = |(from, to)| {
        let program = redirect_program(to);
        let link = host.run(|| sys::attach_tcx_ingress(&program, from));
        link.expect("this kernel has tcx")
    };
    [(one, other), (other, one)].map(attach).into()
}

/// Makes these devices ports of a bridge.
pub(super) fn bridge(host: &NetNs, ports: &[&str]) {
    let mut lines = vec!["link add br0 type bridge".to_owned()];
    lines.extend(
        ports
            .iter()
            .map(|port| format!("link set {port} master br0")),
    );
    lines.push("link set br0 up".to_owned());
    host.ip_all(&lines);
}
