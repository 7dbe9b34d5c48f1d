//! Instances and their interfaces as the API gives them (I-1 to I-20).

mod guides;
mod members;
mod names;
mod refused;
mod reservations;

use netagent_tests::agent::Agent;
use netagent_tests::world::SILENT;
use serde_json::{Value, json};

use crate::exchange::{FlowTo, Protocol};

const fn flow(port: u16) -> FlowTo {
    FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[0],
        ports: (port, 53),
    }
}

/// An instance that is not started, so that only what is reserved counts.
fn reserve(agent: &Agent, mut spec: Value) -> Value {
    spec["autostart"] = json!(false);
    let answer = agent.api("POST", "/v1/instances", &spec.to_string());
    assert_eq!(
        (answer.status, &answer.body["status"]),
        (201, &json!("pending")),
        "{spec}: {answer:?}"
    );
    answer.body
}

/// One member of every interface, in order.
fn each(instance: &Value, member: &str) -> Vec<String> {
    let interfaces = instance["network_interfaces"].as_array().unwrap();
    let text = |interface: &Value| interface[member].as_str().unwrap_or_default().to_owned();
    interfaces.iter().map(text).collect()
}
