//! `ls`, `inspect`, `start`, `stop`, `rm`, `plan`.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use hyper::Method;
use serde_json::{Value, json};

use crate::cli::client::{call, instance_path};
use crate::cli::table::{cell, print, print_json, table};
use crate::cli::{Client, OneInstance};

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

pub(super) fn rm(one: &OneInstance) -> Result<ExitCode> {
    call(
        &one.client.socket,
        Method::DELETE,
        &instance_path(&one.instance)?,
        Vec::new(),
    )?;
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

pub(super) fn warn_of_error(instance: &Value) {
    if let Some(reason) = instance.get("reason").and_then(Value::as_str) {
        eprintln!(
            "netagent: {}: {reason}: it is tried again",
            cell(instance, "name")
        );
    }
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
            text.push_str(&format!("{member:<14}{}\n", cell(instance, member)));
        }
    }
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
    let ports = port_table(instance);
    if !ports.is_empty() {
        text.push_str("\n\n");
        text.push_str(&ports);
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
    let drops: Vec<Vec<String>> = interfaces.iter().flat_map(drop_rows).collect();
    if !drops.is_empty() {
        text.push_str("\n\n");
        text.push_str(&table(&["INTERFACE", "DROPPED BECAUSE", "PACKETS"], &drops));
    }
    text
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

fn drop_rows(interface: &Value) -> Vec<Vec<String>> {
    let drops = interface.get("drops").and_then(Value::as_object);
    let name = cell(interface, "name");
    drops
        .into_iter()
        .flatten()
        .map(|(reason, count)| vec![name.clone(), reason.clone(), count.to_string()])
        .collect()
}
