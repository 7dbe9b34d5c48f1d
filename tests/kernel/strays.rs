//! What comes from the servers' namespace and is no answer for a guest.

use std::net::IpAddr;

use netagent_common::drop::{DropReason, NO_SLOT};
use netagent_common::services::{Client, Place, SERVICES_MAC};
use netagent_tests::neighbour::BROADCAST;
use netagent_tests::packet::{self, Ends, echo_reply, udp};
use netagent_tests::prog_run::{Sizes, verdict};
use netagent_tests::scene::{
    self, GENERATION, GUEST_V4, GUEST_V6, REMOTE_V4, REMOTE_V6, SLOT, Scene,
};

use crate::answers::{advertisement, answer_to, dhcp_answer, from_router};
use crate::nat::tcp_segment;
use crate::services::{
    ALL_ROUTERS, OTHERS_V4, PAYLOAD, asked_from, client, host_part, record, scene, solicitation,
    sources,
};

/// A frame from the servers that no guest may get, and the slot that counts it.
struct Refused {
    what: &'static str,
    reason: DropReason,
    slot: u32,
    bytes: Vec<u8>,
}

type Row = (&'static str, DropReason, Vec<u8>);

impl Refused {
    fn new(slot: u32, (what, reason, bytes): Row) -> Self {
        Self {
            what,
            reason,
            slot,
            bytes,
        }
    }
}

fn dns(ends: &Ends) -> Vec<u8> {
    udp(ends, (53, 4_000), PAYLOAD)
}

/// What no server says to the guest.
fn unsaid() -> Vec<Row> {
    use DropReason::{TooBig, UnknownProtocol, Unsolicited};
    let v4 = answer_to(client(0).to_v4());
    let v6 = answer_to(client(0).to_v6(host_part(GUEST_V6)));
    let mut rows = Vec::new();
    let mut add = |what, bytes| rows.push((what, Unsolicited, bytes));
    add("a forwarded advertisement", advertisement(&v6));
    add("a router's question", solicitation(&from_router(v6), &[]));
    for ends in [v4, v6] {
        let is_v4 = ends.src.is_ipv4();
        add("a ping's answer", echo_reply(&ends, (1, 1), PAYLOAD));
        add("another port", udp(&ends, (54, 4_000), PAYLOAD));
        add("another port", tcp_segment(&ends, (80, 53), PAYLOAD));
        add("DHCP by TCP", tcp_segment(&ends, (67, 68), PAYLOAD));
        add("DHCP to another port", udp(&ends, (67, 69), PAYLOAD));
        add("DHCP from another port", udp(&ends, (68, 67), PAYLOAD));
        let closed = if is_v4 { (3, 3) } else { (1, 4) };
        add("a closed port", packet::icmp(&ends, closed, &[0; 48]));
        add("a redirect", packet::icmp(&ends, (137, 0), &[0; 48]));
    }
    add("DHCP over IPv6", udp(&v6, (67, 68), PAYLOAD));
    for ends in [v4, v6] {
        rows.push(("GRE", UnknownProtocol, packet::ip(&ends, 47, &[0; 40])));
        let large = udp(&ends, (53, 4_000), &[0; 1_500]);
        rows.push(("too large", TooBig, large));
    }
    rows
}

/// Answers to what the guest cannot have asked from there.
fn unasked() -> Vec<Row> {
    let asked = |place: u8, low_half| answer_to(client(place).to_v6(low_half));
    let all = asked(Place::ALL_NODES, [0; 8]);
    let gateway = asked(Place::LINK_LOCAL, host_part(scene::gateway_v6()));
    let beside = asked(2, [9; 8]);
    let table = [
        ("DNS to all nodes", dns(&all)),
        ("DNS to the gateway itself", dns(&gateway)),
        ("DNS to an address's neighbour", dns(&beside)),
        (
            "to the gateway itself",
            advertisement(&from_router(gateway)),
        ),
        ("to a neighbour", advertisement(&from_router(beside))),
    ];
    let row = |(what, bytes)| (what, DropReason::Unsolicited, bytes);
    table.map(row).into()
}

/// The last fragment of an IPv4 packet.
fn fragment(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[21] = 9;
    bytes[24..26].fill(0);
    let sum = !packet::fold(packet::sum(&bytes[14..34]));
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Frames that lead to no guest at all.
fn lost() -> Vec<Row> {
    use DropReason::{Fragment, UnknownEthertype, UnknownInterface, Unsolicited};
    let other = |generation, slot| Client {
        slot,
        generation,
        place: Place(0),
    };
    let low_half = host_part(GUEST_V6);
    let both = |of: Client| [answer_to(of.to_v4()), answer_to(of.to_v6(low_half))];
    let mut rows = Vec::new();
    for ends in both(other(GENERATION - 1, SLOT)) {
        rows.push(("an earlier instance", Unsolicited, dns(&ends)));
    }
    for ends in both(other(GENERATION, SLOT + 1)) {
        rows.push(("a slot without record", UnknownInterface, dns(&ends)));
    }
    for ends in both(client(0)) {
        let is_v4 = ends.src.is_ipv4();
        let (remote, guest): (IpAddr, IpAddr) = if is_v4 {
            (REMOTE_V4.into(), GUEST_V4.into())
        } else {
            (REMOTE_V6.into(), GUEST_V6.into())
        };
        rows.push(("another source", Unsolicited, dns(&ends.from(remote))));
        rows.push(("the world", Unsolicited, dns(&ends.to(remote))));
        // Its own address looks like that of an asker, in a slot without record.
        let itself = dns(&ends.to(guest));
        rows.push(("the guest itself", UnknownInterface, itself));
    }
    let whole = dns(&answer_to(client(0).to_v4()));
    rows.push(("a fragment", Fragment, fragment(whole)));
    let arp = packet::ethernet(BROADCAST, SERVICES_MAC, 0x0806, &[0; 28]);
    rows.push(("ARP", UnknownEthertype, arp));
    let question = solicitation(&answer_to(ALL_ROUTERS), &[]);
    rows.push(("a router's question", Unsolicited, question));
    rows
}

/// Runs frames that must not pass, and says which of them did, or were counted as something else.
fn check_refused(scene: &mut Scene, frames: Vec<Refused>) {
    let mut wrong = Vec::new();
    for Refused {
        what,
        reason,
        slot,
        bytes,
    } in frames
    {
        let before = scene.datapath.drops();
        let outcome = scene.from_services(&bytes);
        let mut counted = scene.datapath.drops();
        counted.retain(|key, count| {
            *count -= before.get(key).copied().unwrap_or(0);
            *count != 0
        });
        if outcome.verdict != verdict::DROP || counted != [((slot, reason), 1)].into() {
            wrong.push(format!(
                "{what}, {}: {} {counted:?}",
                reason.name(),
                outcome.verdict
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_but_answers_of_the_servers_reaches_a_guest_and_nothing_the_host() {
    let mut scene = scene();
    let to_guest = unsaid().into_iter().chain(unasked());
    let to_guest = to_guest.map(|row| Refused::new(SLOT, row));
    check_refused(&mut scene, to_guest.collect());
    let lost = lost().into_iter().map(|row| Refused::new(NO_SLOT, row));
    check_refused(&mut scene, lost.collect());
}

#[test]
fn an_address_behind_the_entries_in_use_is_answered_no_more() {
    let mut record = record();
    record.addresses = 1;
    record.prefixes_v6[1..].fill(0);
    let mut scene = Scene::new(Sizes::default(), &record);
    let mut frames = Vec::new();
    for (source, place) in sources() {
        if place == 0 || place == Place::LINK_LOCAL {
            continue;
        }
        let sent = answer_to(asked_from(source, place));
        frames.push(Refused {
            what: "an address that was taken away",
            reason: DropReason::Unsolicited,
            slot: SLOT,
            bytes: udp(&sent, (53, 4_000), PAYLOAD),
        });
    }
    assert_eq!(frames.len(), 2 * OTHERS_V4.len());
    check_refused(&mut scene, frames);
}

#[test]
fn an_interface_without_addresses_of_a_family_gets_no_answer_in_it() {
    let mut record = record();
    (record.addresses, record.has_v6) = (0, 0);
    record.addresses_v4 = [[0; 4]; 4];
    let mut scene = Scene::new(Sizes::default(), &record);
    let all = IpAddr::from(client(Place::ALL_NODES).to_v6([0; 8]));
    let v6 = client(0).to_v6(host_part(GUEST_V6));
    let frames = [
        udp(&answer_to(client(0).to_v4()), (53, 4_000), PAYLOAD),
        dhcp_answer(&answer_to(client(0).to_v4())),
        udp(&answer_to(v6), (53, 4_000), PAYLOAD),
        advertisement(&from_router(answer_to(all))),
    ];
    let refused = |bytes| Refused {
        what: "there is nobody",
        reason: DropReason::Unsolicited,
        slot: SLOT,
        bytes,
    };
    check_refused(&mut scene, frames.into_iter().map(refused).collect());
}
