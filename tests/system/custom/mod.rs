//! Interfaces with addresses and TAPs of the user's own (I-6 to I-9, I-15, I-16).

mod addresses;
mod taps;
mod traffic;

use netagent_tests::world::SILENT;
use serde_json::{Value, json};

use crate::exchange::{FlowTo, Protocol};

const fn flow(index: usize, port: u16) -> FlowTo {
    FlowTo {
        protocol: Protocol::Udp,
        remote: SILENT[index],
        ports: (port, 53),
    }
}

/// An instance with one custom interface.
fn custom(name: &str, ip: &str, tap_name: &str) -> Value {
    json!({ "name": name, "network_interfaces": [{ "ip": ip, "tap_name": tap_name }] })
}
