//! ICMP errors about a client's flows, whoever makes them: so the path MTU is found through a relay too.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::net::tcp_flag::ACK;
use netagent_tests::packet::{self, Ends};
use netagent_tests::prog_run::verdict;
use netagent_tests::scene::{GUEST_MAC, back, to};

use super::{
    KINDS, Kind, LEG_SLOT, PORTS, RELAY_MAC, REMOTES, SLOT, check_carried, check_refused, client,
    drops_of, forwarded, guest, leg_of, message, pass, question, relay, relayed, relayed_with,
    returned, seen,
};
use crate::quotes::{error, reports, router};

const ALL: usize = usize::MAX;

fn redirect(is_v4: bool) -> ((u8, u8), [u8; 4]) {
    (if is_v4 { (5, 1) } else { (137, 0) }, [10, 0, 0, 1])
}

#[test]
fn errors_of_routers_and_of_the_relay_itself_reach_the_client_unchanged() {
    for remote in REMOTES {
        for kind in KINDS {
            let mut scene = relayed();
            pass(&mut scene, kind, remote);
            let sent = question(kind, remote);
            for report in reports(remote.is_ipv4()) {
                for src in [relay(remote), router(remote), remote] {
                    let ends = Ends {
                        src,
                        ..returned(remote)
                    };
                    let told = error(&ends, report, (&sent, ALL));
                    check_carried(&scene.from_other(&told), &told, GUEST_MAC);
                }
            }
        }
    }
}

#[test]
fn errors_about_nothing_that_the_client_sent_and_redirects_do_not() {
    for remote in REMOTES {
        let mut scene = relayed();
        let report = reports(remote.is_ipv4())[0];
        let about = |ends: &Ends| message(Kind::Udp, ends, PORTS, ACK);
        for src in [relay(remote), router(remote)] {
            let ends = Ends {
                src,
                ..returned(remote)
            };
            let never = error(&ends, report, (&about(&to(remote)), ALL));
            check_refused(&scene.from_other(&never), RELAY_MAC);
        }
        pass(&mut scene, Kind::Udp, remote);
        for src in [relay(remote), router(remote)] {
            let ends = Ends {
                src,
                ..returned(remote)
            };
            let redirect = error(
                &ends,
                redirect(remote.is_ipv4()),
                (&about(&to(remote)), ALL),
            );
            let outcome = scene.from_other(&redirect);
            assert_eq!(outcome.verdict, verdict::DROP);
            // About what it did not send: another's packet to it, and one between others.
            for quoted in [
                to(remote).reversed(),
                to(remote).from(relay(remote)),
                to(router(remote)),
            ] {
                let told = error(&ends, report, (&about(&quoted), ALL));
                check_refused(&scene.from_other(&told), RELAY_MAC);
            }
        }
    }
}

#[test]
fn errors_on_the_uplink_go_to_the_relay_first_and_those_of_the_client_to_the_world() {
    for remote in REMOTES {
        for kind in [Kind::Tcp, Kind::Udp] {
            let mut scene = relayed();
            let nat_port = pass(&mut scene, kind, remote);
            let report = reports(remote.is_ipv4())[0];
            let as_seen = Ends {
                src: back(remote).dst,
                ..to(remote)
            };
            let sent = message(kind, &as_seen, (nat_port, PORTS.1), ACK);
            let told = error(&back(router(remote)), report, (&sent, ALL));
            let came = seen(&scene.from_uplink(&told));
            assert_eq!(
                (came.ends.dst, came.ends.dst_mac),
                (guest(remote), RELAY_MAC)
            );
            // The client's own, about what the world sent it.
            let received = message(kind, &returned(remote), (PORTS.1, PORTS.0), ACK);
            let own = error(&to(remote), report, (&received, ALL));
            check_carried(&scene.from_vm(&own), &own, RELAY_MAC);
            let on = error(&forwarded(&to(remote)), report, (&received, ALL));
            let left = seen(&scene.from_other(&on));
            assert_eq!(left.ends.src, back(remote).dst);
        }
    }
}

#[test]
fn what_is_too_big_for_the_way_to_the_relay_is_answered_with_its_mtu() {
    for remote in REMOTES {
        let record = client();
        let mut scene = relayed_with(&record);
        let mut leg = leg_of(&record);
        leg.mtu = 1_400;
        scene.datapath.set_interface(&leg);
        let big = packet::udp(&to(remote), PORTS, &[1; 1_420]);
        let told = seen(&scene.from_vm(&big));
        assert_eq!(told.ends.dst_mac, GUEST_MAC);
        let start = if remote.is_ipv4() { 34 } else { 54 };
        let outcome = scene.from_vm(&big);
        assert_eq!(outcome.bytes[start + 6..start + 8], 1_400_u16.to_be_bytes());
        assert_eq!(drops_of(&mut scene, SLOT, DropReason::TooBig), 2);
    }
}

#[test]
fn what_does_not_fit_the_uplink_comes_back_to_the_client_through_the_relay() {
    for remote in REMOTES {
        let record = client();
        let mut scene = relayed_with(&record);
        pass(&mut scene, Kind::Udp, remote);
        // The relay forwards one whose hop limit ends here.
        let ends = Ends {
            ttl: 1,
            ..forwarded(&to(remote))
        };
        let told = seen(&scene.from_other(&message(Kind::Udp, &ends, PORTS, ACK)));
        assert_eq!(told.ends.dst_mac, RELAY_MAC);
        assert_eq!(told.ends.dst, guest(remote));
        assert!(!is_link_local(told.ends.src), "no router passes that on");
        assert_eq!(drops_of(&mut scene, LEG_SLOT, DropReason::TtlExpired), 1);
        // And so the client gets it.
        let mut back = scene
            .from_other(&message(Kind::Udp, &ends, PORTS, ACK))
            .bytes;
        back[..6].copy_from_slice(&netagent_common::net::GATEWAY_MAC);
        back[6..12].copy_from_slice(&RELAY_MAC);
        check_carried(&scene.from_other(&back), &back, GUEST_MAC);
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
