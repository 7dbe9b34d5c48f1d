//! Restart, reboot, and what others do to the agent's devices, its database and its disk.

mod devices;
mod restart;
mod storage;

use netagent_tests::agent::Agent;
use netagent_tests::guest::Nic;
use netagent_tests::recovery::book::{Entry, Request, Sent};
use netagent_tests::tap::Header;
use netagent_tests::world::{SILENT, World};
use serde_json::json;

use crate::exchange::{FlowTo, Protocol, Way};

const fn flow(index: usize, port: u16) -> FlowTo {
    FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[index],
        ports: (port, 53),
    }
}

/// Sends a packet to each remote and one back; the ports under which the world sees the flows.
fn check_flows(world: &World, nic: &Nic, port: u16) -> [u16; 2] {
    let wire = world.wire();
    let way = Way::new(world, nic, &wire);
    [0, 1].map(|index| way.check(flow(index, port)))
}

/// The first interface of an instance, opened as a VMM does.
fn open(world: &World, agent: &Agent, name: &str) -> Nic {
    let shown = agent.inspect(name);
    Nic::open(&world.host, &shown["network_interfaces"][0], Header::Vnet)
}

/// Instances of every kind: two that run, one of them with a custom interface, and one that is stopped.
fn every_kind(agent: &Agent) -> Vec<Entry> {
    let both = json!([{}, { "ip": "192.168.7.1/30", "tap_name": "vpc7" }]);
    let specs = [
        json!({ "name": "runs" }),
        json!({ "name": "mixed", "network_interfaces": both }),
        json!({ "name": "stopped" }),
    ];
    let mut entries: Vec<Entry> = specs.into_iter().map(Entry::absent).collect();
    for entry in &mut entries {
        assert_eq!(
            entry.send(&agent.socket(), Request::Create),
            Sent::Acknowledged
        );
    }
    let sent = entries[2].send(&agent.socket(), Request::Stop);
    assert_eq!(sent, Sent::Acknowledged);
    entries
}
