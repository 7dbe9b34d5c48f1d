//! `ls`, `inspect`, `start`, `stop`, `rm`, `plan`.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use hyper::Method;
use serde_json::{Value, json};

use crate::cli::client::{call, instance_path};
use crate::cli::relays::relay_table;
use crate::cli::table::{cell, print, print_json, table};
use crate::cli::{Client, OneInstance};

/// Networks of a list that are shown to people.
const SHOWN_MAX: usize = 8;

pub(super) fn ls(client: &Client) -> Result<ExitCode> {
    let list = call(&client.socket, Method::GET, "/v1/instances", Vec::new())?;
    if client.json {
        print_json(&list)?;
    } else {
        print(&instance_table(
            list.as_array().map(Vec::as_slice).unwrap_or_default(),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn inspect(one: &OneInstance) -> Result<ExitCode> {
    let path = instance_path(&one.instance)?;
    let instance = call(&one.client.socket, Method::GET, &path, Vec::new())?;
    if one.client.json {
        print_json(&instance)?;
    } else {
        print(&description(&instance))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn change(one: &OneInstance, action: &str) -> Result<ExitCode> {
    let path = format!("{}/{action}", instance_path(&one.instance)?);
    let instance = call(&one.client.socket, Method::PUT, &path, Vec::new())?;
    if one.client.json {
        print_json(&instance)?;
    } else {
        print(&instance_table(std::slice::from_ref(&instance)))?;
    }
    warn_of_error(&instance);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rm(one: &OneInstance, force: bool) -> Result<ExitCode> {
    let mut path = instance_path(&one.instance)?;
    if force {
        path.push_str("?force=true");
    }
    call(&one.client.socket, Method::DELETE, &path, Vec::new())?;
    if one.client.json {
        print_json(&json!({ "deleted": one.instance }))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn plan(client: &Client) -> Result<ExitCode> {
    let plan = call(&client.socket, Method::GET, "/v1/plan", Vec::new())?;
    if client.json {
        print_json(&plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines = |member: &str, text: &str| -> Vec<String> {
        let list = plan
            .get(member)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        list.iter()
            .map(|entry| format!("{}: {}", owner(entry), cell(entry, text)))
            .collect()
    };
    let mut all = lines("steps", "step");
    all.extend(
        lines("problems", "problem")
            .into_iter()
            .map(|line| format!("cannot be mended: {line}")),
    );
    print(
        if all.is_empty() {
            "nothing to do".to_owned()
        } else {
            all.join("\n")
        }
        .as_str(),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn owner(entry: &Value) -> String {
    entry
        .get("instance")
        .and_then(Value::as_str)
        .unwrap_or("host")
        .to_owned()
}

/// Says why an instance is not as it should be; whether it is not.
pub(super) fn warn_of_error(instance: &Value) -> bool {
    let reason = instance.get("reason").and_then(Value::as_str);
    if let Some(reason) = reason {
        eprintln!(
            "netagent: {}: {reason}: it is tried again",
            cell(instance, "name")
        );
    }
    reason.is_some()
}

pub(super) fn instance_table(instances: &[Value]) -> String {
    let rows: Vec<Vec<String>> = instances
        .iter()
        .map(|instance| {
            let first = instance
                .get("network_interfaces")
                .and_then(|list| list.get(0));
            let ip6 = first.map_or_else(|| "-".into(), |first| cell(first, "ip6"));
            let members = [
                "name",
                "status",
                "tap_device",
                "guest_ip",
                "gateway",
                "guest_mac",
            ];
            members
                .iter()
                .map(|member| cell(instance, member))
                .chain([ip6])
                .collect()
        })
        .collect();
    table(
        &[
            "NAME",
            "STATUS",
            "TAP",
            "GUEST IP",
            "GATEWAY",
            "GUEST MAC",
            "GUEST IP6",
        ],
        &rows,
    )
}

/// One instance, member by member, then its interfaces, then its drops.
fn description(instance: &Value) -> String {
    let mut text = String::new();
    for member in [
        "id",
        "name",
        "status",
        "reason",
        "gateway",
        "nameserver",
        "snat_address",
        "open_flows",
    ] {
        if instance.get(member).is_some() {
            text.push_str(&setting(member, &cell(instance, member)));
        }
    }
    text.push_str(&settings(instance));
    let interfaces = instance
        .get("network_interfaces")
        .and_then(Value::as_array)
        .map(Vec::as_slice);
    let interfaces = interfaces.unwrap_or_default();
    let members = ["name", "tap_name", "ip", "ip6", "mac", "mtu", "attached"];
    let rows: Vec<Vec<String>> = interfaces
        .iter()
        .map(|interface| {
            members
                .iter()
                .map(|member| cell(interface, member))
                .collect()
        })
        .collect();
    text.push('\n');
    text.push_str(&table(
        &["INTERFACE", "TAP", "IP", "IP6", "MAC", "MTU", "ATTACHED"],
        &rows,
    ));
    for more in [relay_table(interfaces), port_table(instance)] {
        if !more.is_empty() {
            text.push_str("\n\n");
            text.push_str(&more);
        }
    }
    let traffic: Vec<Vec<String>> = interfaces.iter().map(traffic_row).collect();
    text.push_str("\n\n");
    text.push_str(&table(
        &[
            "INTERFACE",
            "SENT PACKETS",
            "BYTES",
            "RECEIVED PACKETS",
            "BYTES",
        ],
        &traffic,
    ));
    text.push_str("\n\n");
    text.push_str(&dns_table(instance));
    for (member, title) in [
        ("drops", "DROPPED BECAUSE"),
        ("audited", "AUDIT WOULD DROP BECAUSE"),
    ] {
        let rows = interfaces.iter().flat_map(|one| count_rows(one, member));
        let rows: Vec<Vec<String>> = rows.collect();
        if !rows.is_empty() {
            text.push_str("\n\n");
            text.push_str(&table(&["INTERFACE", title, "PACKETS"], &rows));
        }
    }
    text
}

fn setting(name: &str, value: &str) -> String {
    format!("{name:<16}{value}\n")
}

/// Policy and limits of an instance, member by member; of long lists the first entries.
pub(super) fn settings(instance: &Value) -> String {
    let audit = instance.get("audit").and_then(Value::as_bool) == Some(true);
    let policy = cell(instance, "network_policy");
    let counted = if audit {
        ", and what it forbids is only counted"
    } else {
        ""
    };
    let mut text = setting("network_policy", &format!("{policy}{counted}"));
    for member in ["allowed_domains", "allowed_cidrs", "denied_cidrs"] {
        if let Some(list) = instance.get(member).and_then(Value::as_array) {
            text.push_str(&setting(member, &shortened(list)));
        }
    }
    let limits = instance.get("limits").unwrap_or(&Value::Null);
    let rates = ["bandwidth", "bandwidth_in"].map(|member| (instance, member));
    for (of, member) in rates
        .into_iter()
        .chain([(limits, "pps"), (limits, "flows")])
    {
        if of.get(member).is_some_and(|value| !value.is_null()) {
            text.push_str(&setting(member, &cell(of, member)));
        }
    }
    text
}

fn shortened(list: &[Value]) -> String {
    let shown = list.iter().take(SHOWN_MAX).filter_map(Value::as_str);
    let shown: Vec<&str> = shown.collect();
    match list.len() {
        0 => "none".to_owned(),
        count if count > SHOWN_MAX => {
            format!("{} and {} more", shown.join(", "), count - SHOWN_MAX)
        }
        _ => shown.join(", "),
    }
}

/// The published and exposed ports of an instance, one by one; empty where it has none.
pub(super) fn port_table(instance: &Value) -> String {
    let list = |member: &str| {
        let list = instance.get(member).and_then(Value::as_array);
        list.map(Vec::as_slice).unwrap_or_default()
    };
    let published = list("publish").iter().map(published_row);
    let exposed = list("exposed_ports").iter().map(|port| {
        let port = port.as_str().unwrap_or_default();
        let cells = ["-", port, "the host", "exposed"];
        cells.map(str::to_owned).to_vec()
    });
    let rows: Vec<Vec<String>> = published.chain(exposed).collect();
    if rows.is_empty() {
        return String::new();
    }
    table(&["HOST PORT", "GUEST PORT", "FOR", "STATUS"], &rows)
}

fn published_row(port: &Value) -> Vec<String> {
    let address = port.get("address").and_then(Value::as_str);
    let shown = match address {
        None => String::new(),
        Some(address) if address.contains(':') => format!("[{address}]:"),
        Some(address) => format!("{address}:"),
    };
    let networks = port.get("allow_from").and_then(Value::as_array);
    let networks = networks.map(|list| {
        let texts = list.iter().filter_map(Value::as_str);
        texts.collect::<Vec<_>>().join(",")
    });
    let is_loopback = address
        .and_then(|address| address.parse::<IpAddr>().ok())
        .is_some_and(|address| address.is_loopback());
    let everybody = if is_loopback {
        "this host"
    } else {
        "everybody"
    };
    let proto = cell(port, "proto");
    let status = match port.get("reason").and_then(Value::as_str) {
        Some(reason) => format!("{}: {reason}", cell(port, "status")),
        None => cell(port, "status"),
    };
    vec![
        format!("{shown}{}/{proto}", cell(port, "host_port")),
        format!("{}/{proto}", cell(port, "guest_port")),
        networks.unwrap_or_else(|| everybody.to_owned()),
        status,
    ]
}

fn traffic_row(interface: &Value) -> Vec<String> {
    let traffic = interface.get("traffic").unwrap_or(&Value::Null);
    let members = [
        "from_vm_packets",
        "from_vm_bytes",
        "to_vm_packets",
        "to_vm_bytes",
    ];
    let counts = members.iter().map(|member| cell(traffic, member));
    std::iter::once(cell(interface, "name"))
        .chain(counts)
        .collect()
}

/// What became of its queries to the resolver.
fn dns_table(instance: &Value) -> String {
    let counts = instance.get("dns").unwrap_or(&Value::Null);
    let members = ["queries", "answered", "failed", "refused", "audited"];
    let row = members.iter().map(|member| cell(counts, member));
    table(
        &["DNS QUERIES", "ANSWERED", "FAILED", "REFUSED", "AUDITED"],
        &[row.collect()],
    )
}

/// What was counted by reason.
fn count_rows(interface: &Value, member: &str) -> Vec<Vec<String>> {
    let counts = interface.get(member).and_then(Value::as_object);
    let name = cell(interface, "name");
    counts
        .into_iter()
        .flatten()
        .map(|(reason, count)| vec![name.clone(), reason.clone(), count.to_string()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_and_limits_are_shown_where_they_are_not_the_default() {
        let check = |instance: &Value, expected: &str| assert_eq!(settings(instance), expected);
        let limits = json!({"pps": null, "flows": 7});
        check(
            &json!({"network_policy": "allow-all", "audit": false, "bandwidth": null, "limits": {}}),
            "network_policy  allow-all\n",
        );
        check(
            &json!({"network_policy": "custom", "audit": true, "allowed_domains": ["a.example", "*.b.example"],
                "allowed_cidrs": [], "denied_cidrs": ["::/0"],
                "bandwidth": "5mbit", "limits": limits}),
            "network_policy  custom, and what it forbids is only counted\n\
             allowed_domains a.example, *.b.example\nallowed_cidrs   none\n\
             denied_cidrs    ::/0\nbandwidth       5mbit\nflows           7\n",
        );
    }

    #[test]
    fn queries_to_the_resolver_are_shown_by_what_became_of_them() {
        let counts =
            json!({"queries": 1234, "answered": 7, "failed": 6, "refused": 5, "audited": 4});
        let expected = table(
            &["DNS QUERIES", "ANSWERED", "FAILED", "REFUSED", "AUDITED"],
            &[["1234", "7", "6", "5", "4"].map(str::to_owned).to_vec()],
        );
        let instance = json!({ "dns": counts });
        assert!(description(&instance).contains(&expected));
    }

    #[test]
    fn of_a_long_list_the_first_entries_are_shown() {
        let list = vec![json!("::/0"); SHOWN_MAX + 5];
        let expected = format!("{} and 5 more", ["::/0"; SHOWN_MAX].join(", "));
        assert_eq!(shortened(&list), expected);
    }
}
