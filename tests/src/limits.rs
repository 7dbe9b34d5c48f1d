//! Limits of an instance, and what it sent and received under them.

use netagent_common::vm::Traffic;
use serde_json::{Value, json};

use crate::agent::Agent;

/// Limits that let so many bits pass in a second, in each direction.
#[must_use]
pub fn both_ways(bits_per_second: u64) -> Value {
    json!({ "bandwidth": kbit(bits_per_second), "bandwidth_in": kbit(bits_per_second) })
}

/// As the API takes a rate.
#[must_use]
pub fn kbit(bits_per_second: u64) -> String {
    format!("{}kbit", bits_per_second / 1_000)
}

impl Agent {
    /// Replaces the limits of an instance.
    ///
    /// # Panics
    /// When they are refused.
    pub fn limit(&self, name: &str, limits: &Value) {
        let path = format!("/v1/instances/{name}/limits");
        let answer = self.api("PUT", &path, &limits.to_string());
        assert_eq!(answer.status, 200, "{limits}: {answer:?}");
    }

    /// What the first interface of an instance sent and received.
    ///
    /// # Panics
    /// Where it is not shown.
    #[must_use]
    pub fn traffic(&self, name: &str) -> Traffic {
        let shown = self.inspect(name);
        let traffic = &shown["network_interfaces"][0]["traffic"];
        let count = |member: &str| {
            let count = traffic[member].as_u64();
            count.unwrap_or_else(|| panic!("no {member} in {shown}"))
        };
        Traffic {
            from_vm_packets: count("from_vm_packets"),
            from_vm_bytes: count("from_vm_bytes"),
            to_vm_packets: count("to_vm_packets"),
            to_vm_bytes: count("to_vm_bytes"),
        }
    }
}
