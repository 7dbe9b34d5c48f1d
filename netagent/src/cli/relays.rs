//! Relays as `inspect` shows them: which interface goes through which, and whether that is there.

use serde_json::Value;

use crate::cli::table::{cell, table};

/// The relays and the clients of an instance's interfaces; empty where there are none.
pub(super) fn relay_table(interfaces: &[Value]) -> String {
    let rows: Vec<Vec<String>> = interfaces.iter().flat_map(rows).collect();
    if rows.is_empty() {
        return String::new();
    }
    table(&["INTERFACE", "RELAY", "DNS", "STATUS"], &rows)
}

fn rows(interface: &Value) -> Vec<Vec<String>> {
    let name = cell(interface, "name");
    let relay = interface.get("relay").filter(|relay| relay.is_object());
    let own = relay.map(|relay| {
        let dns = relay.get("relay_dns").and_then(Value::as_bool);
        let dns = match dns {
            Some(true) => "by the relay",
            Some(false) | None => "by the agent",
        };
        let status = match relay.get("reason").and_then(Value::as_str) {
            Some(reason) => format!("{}: {reason}", cell(relay, "status")),
            None => cell(relay, "status"),
        };
        vec![name.clone(), cell(relay, "name"), dns.to_owned(), status]
    });
    let clients = interface.get("relay_clients").and_then(Value::as_array);
    let clients = clients.map(|clients| {
        let names: Vec<&str> = clients.iter().filter_map(Value::as_str).collect();
        let status = format!("is the relay of {}", names.join(", "));
        vec![name.clone(), "-".to_owned(), "-".to_owned(), status]
    });
    own.into_iter().chain(clients).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_relay_is_shown_at_both_ends_and_nothing_where_there_is_none() {
        assert_eq!(relay_table(&[json!({"name": "a", "relay": null})]), "");
        let text = relay_table(&[
            json!({"name": "a", "relay": {"name": "gw", "relay_dns": true, "status": "down", "reason": "gone"}}),
            json!({"name": "b", "relay": null, "relay_clients": ["c", "d"]}),
        ]);
        let expected = table(
            &["INTERFACE", "RELAY", "DNS", "STATUS"],
            &[
                ["a", "gw", "by the relay", "down: gone"]
                    .map(str::to_owned)
                    .to_vec(),
                ["b", "-", "-", "is the relay of c, d"]
                    .map(str::to_owned)
                    .to_vec(),
            ],
        );
        assert_eq!(text, expected);
    }
}
