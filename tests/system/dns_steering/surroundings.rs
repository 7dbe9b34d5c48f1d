//! Nothing of the host is in the way of names (D-1): no firewall, and no daemon on port 53.

use std::net::{TcpListener, UdpSocket};

use netagent_tests::resolve::{Glibc, dig};
use netagent_tests::world::{HOST_V4, HOST_V6, UPLINK};

use super::{Scene, both, host, texts};
use crate::policy::site::serve;

/// As careful administrators have it: the host hears what it asked for, and nothing else.
const CLOSED: &str = "table inet closed {
    chain input {
        type filter hook input priority 0; policy drop;
        ct state established,related accept
    }
    chain forward { type filter hook forward priority 0; policy drop; }
}";

#[test]
fn d2_firewall_and_daemons_on_port_53_of_the_host_are_in_nobodys_way() {
    let records = [host("a.test", 0, 300), host("b.test", 1, 300)];
    let scene = Scene::new(&texts(&records));
    let _servers = serve(&scene.world.outside, &both(0));
    let host = &scene.world.host;
    let rules = scene.agent.directory().join("closed.nft");
    std::fs::write(&rules, CLOSED).unwrap();
    host.shell(&format!("nft -f {}", rules.display()));
    for name in ["all", "default", UPLINK] {
        host.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "1");
    }
    let (by_udp, by_tcp) = host.run(|| {
        let udp = UdpSocket::bind(("::", 53)).unwrap();
        (udp, TcpListener::bind(("::", 53)).unwrap())
    });
    let site = scene.listed("a", &["a.test"]);
    let [v4, v6] = site.gateways();
    let servers = [v4, v6, HOST_V4.to_string(), HOST_V6.to_string()];
    for server in servers {
        for way in ["+notcp", "+tcp"] {
            for (kind, address) in ["A", "AAAA"].into_iter().zip(both(0)) {
                let dug = dig(site.netns(), &format!("@{server} a.test {kind} {way}"));
                assert_eq!(dug.addresses(), [address].into(), "{server} {way}");
            }
            let dug = dig(site.netns(), &format!("@{server} b.test {way}"));
            assert!(dug.is("REFUSED"), "{server} {way}: {dug:?}");
        }
        let glibc = Glibc::new(site.netns(), &[&server], "");
        assert_eq!(glibc.resolve("a.test"), both(0).into(), "{server}");
    }
    for address in both(0) {
        site.check_open(address);
    }
    by_udp.set_nonblocking(true).unwrap();
    by_tcp.set_nonblocking(true).unwrap();
    assert!(by_udp.recv(&mut [0; 16]).is_err(), "the daemon heard it");
    assert!(by_tcp.accept().is_err(), "the daemon heard it");
}
