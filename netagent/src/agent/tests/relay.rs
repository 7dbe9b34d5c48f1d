//! Relays: who may be whose, what the datapath is told, and what becomes of it when one goes.

mod life;
mod records;
mod refused;

use netagent_common::policy::NO_POLICY;
use netagent_common::policy::policy_flag::{
    AUDIT, DENY_ALL, DNS_STEERED, LEG, NAMES, RELAY, RELAYED,
};
use netagent_common::vm;

use super::*;
use crate::host::Changes;
use crate::spec::policy::PolicySpec;

const GW: &str = r#"{"name": "gw", "network_interfaces": [{"name": "gw-iface"}]}"#;
const BOX: &str = r#"{"name": "box", "network_interfaces": [{"relay": {"name": "gw-iface"}}]}"#;
/// Slot of the leg of the first client.
const LEG_SLOT: u32 = 65_535;

/// The relay is slot 0, its client slot 1.
async fn pair() -> Running {
    let agent = agent().await;
    agent.handle.create(spec(GW)).await.unwrap();
    agent.handle.create(spec(BOX)).await.unwrap();
    agent
}

fn record(host: &FakeHost, slot: u32) -> Option<vm::Interface> {
    let state = host.state();
    let datapath = state.observed.datapath.as_ref().unwrap();
    datapath.interfaces.get(&slot).copied()
}

fn leg(host: &FakeHost) -> (u32, [u8; 6]) {
    let leg = record(host, LEG_SLOT).unwrap();
    (leg.ifindex, leg.guest_mac)
}

const DOWN: (u32, [u8; 6]) = (0, [0; 6]);

fn up(uses: u32) -> (u32, [u8; 6]) {
    (vm::ifindex(0, uses), [0xaa, 0xfc, 0, 0, 0, 1])
}

/// A VMM takes, or leaves, the relay's TAP.
fn set_carrier(host: &FakeHost, ifindex: u32, carrier: bool) {
    let mut state = host.state();
    state.observed.links.get_mut(&ifindex).unwrap().carrier = carrier;
    drop(state);
    host.say(Changes {
        links: [ifindex].into(),
        ..Changes::default()
    });
}

async fn check_settled(agent: &Running) {
    let steps = agent.handle.plan().await.unwrap().steps;
    assert!(steps.is_empty(), "{steps:?}");
}

fn invalid(name: &str) -> String {
    format!(
        "Invalid relay '{name}'. Please make sure the relay exists and does not create a circular dependency"
    )
}
