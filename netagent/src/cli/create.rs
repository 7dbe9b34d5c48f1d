//! `create`: an instance from a file or from flags, or what is wrong with it.

use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hyper::Method;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::cli::Client;
use crate::cli::client::call;
use crate::cli::instances::{instance_table, warn_of_error};
use crate::cli::table::{print, print_json};

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// File with the instance as JSON; `-` reads standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "flags")]
    file: Option<PathBuf>,
    /// Say everything that is wrong with it, and create nothing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    flags: Flags,
    /// Does nothing: there is no namespace per VM
    #[arg(long, hide = true)]
    no_netns: bool,
    #[command(flatten)]
    client: Client,
}

/// The instance in flags; several interfaces need a file.
#[derive(Args, Debug, Default)]
#[group(id = "flags", multiple = true)]
struct Flags {
    /// Name of the instance [default: generated]
    #[arg(long)]
    name: Option<String>,
    /// Whether to start it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    autostart: Option<bool>,
    /// Gateway that the guest is told [default: the host's end of its interface]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<String>,
    /// Name server that the guest is told [default: the gateway]
    #[arg(long, value_name = "ADDRESS")]
    nameserver: Option<String>,
    /// Address of an uplink under which the guest leaves towards the world [default: the one of the route]
    #[arg(long, value_name = "ADDRESS")]
    snat_address: Option<String>,
    /// MTU of its interfaces [default: the uplink's]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Name of the interface [default: the name of the instance and -eth0]
    #[arg(long, value_name = "NAME")]
    interface_name: Option<String>,
    /// The guest's own address, with --tap-name [default: from the pool]
    #[arg(long, value_name = "CIDR")]
    ip: Option<String>,
    /// The guest's own IPv6 address, beside --ip
    #[arg(long, value_name = "CIDR")]
    ip6: Option<String>,
    /// TAP of the interface, with --ip: an existing one is used and given back
    #[arg(long, value_name = "DEVICE")]
    tap_name: Option<String>,
    /// MAC address of the guest [default: generated]
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,
    /// Whether the guest is told to configure the interface
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    autoconfig: Option<bool>,
    /// User that may open the TAP [default: root, where no group is named]
    #[arg(long, value_name = "USER")]
    tap_owner: Option<String>,
    /// Group that may open the TAP [default: root, where no user is named]
    #[arg(long, value_name = "GROUP")]
    tap_group: Option<String>,
    /// Queues of the TAP [default: 1]
    #[arg(long, value_name = "N")]
    queues: Option<u16>,
    /// allow-all, deny-all or custom
    #[arg(long, value_name = "POLICY")]
    network_policy: Option<String>,
    /// Domains that the guest may reach, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    allowed_domain: Vec<String>,
    /// Networks that the guest may reach, separated by commas
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    allowed_cidr: Vec<String>,
    /// Networks that the guest may not reach, separated by commas
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    denied_cidr: Vec<String>,
    /// Ports to publish, separated by commas: 8080, 8080:80/udp, 127.0.0.1:8080:80, '8080:80 from 10.0.0.0/8, fd00::/8'
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    publish_port: Vec<String>,
    /// Networks that may use the published ports, separated by commas [default: everybody]
    #[arg(
        long,
        value_name = "CIDR",
        value_delimiter = ',',
        requires = "publish_port"
    )]
    publish_from: Vec<String>,
    /// Ports of the guest's own address that the host may reach, separated by commas: 80/tcp
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    exposed_port: Vec<String>,
    /// What the guest may send, Mbit/s
    #[arg(long, value_name = "RATE")]
    bandwidth: Option<String>,
}

pub(super) fn create(args: &CreateArgs) -> Result<ExitCode> {
    let body = match &args.file {
        Some(path) => read(path)?,
        None => args.flags.spec().to_string().into_bytes(),
    };
    let client = &args.client;
    if args.check {
        return check(client, body);
    }
    let made = call(&client.socket, Method::POST, "/v1/instances", body)?;
    if client.json {
        print_json(&made)?;
    } else {
        print(&instance_table(std::slice::from_ref(&made)))?;
    }
    warn_of_error(&made);
    Ok(ExitCode::SUCCESS)
}

fn check(client: &Client, body: Vec<u8>) -> Result<ExitCode> {
    let path = "/v1/instances?check=true";
    let answer = call(&client.socket, Method::POST, path, body)?;
    let faults = answer.get("faults").and_then(Value::as_array);
    let faults = faults.map(Vec::as_slice).unwrap_or_default();
    if client.json {
        print_json(&answer)?;
    } else if faults.is_empty() {
        print("nothing is wrong with it")?;
    } else {
        let lines: Vec<&str> = faults.iter().filter_map(Value::as_str).collect();
        print(&lines.join("\n"))?;
    }
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if path == Path::new("-") {
        io::stdin()
            .read_to_end(&mut body)
            .context("cannot read standard input")?;
        return Ok(body);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

impl Flags {
    fn spec(&self) -> Value {
        let principal = |text: &String| {
            text.parse::<u32>()
                .map_or_else(|_| json!(text), |id| json!(id))
        };
        let list = |items: &Vec<String>| (!items.is_empty()).then(|| json!(items));
        let text = |value: &Option<String>| value.as_ref().map(|value| json!(value));
        let interface = object([
            ("name", text(&self.interface_name)),
            ("ip", text(&self.ip)),
            ("ip6", text(&self.ip6)),
            ("tap_name", text(&self.tap_name)),
            ("mac", text(&self.mac)),
            ("autoconfig", self.autoconfig.map(Value::from)),
            ("tap_owner", self.tap_owner.as_ref().map(principal)),
            ("tap_group", self.tap_group.as_ref().map(principal)),
            ("queues", self.queues.map(Value::from)),
        ]);
        let spec = object([
            ("name", text(&self.name)),
            ("autostart", self.autostart.map(Value::from)),
            ("gateway", text(&self.gateway)),
            ("nameserver", text(&self.nameserver)),
            ("snat_address", text(&self.snat_address)),
            ("mtu", self.mtu.map(Value::from)),
            ("network_interfaces", Some(json!([interface]))),
            ("network_policy", text(&self.network_policy)),
            ("allowed_domains", list(&self.allowed_domain)),
            ("allowed_cidrs", list(&self.allowed_cidr)),
            ("denied_cidrs", list(&self.denied_cidr)),
            (
                "publish",
                list(&published(&self.publish_port, &self.publish_from)),
            ),
            ("exposed_ports", list(&self.exposed_port)),
            ("bandwidth", self.bandwidth.as_ref().map(principal)),
        ]);
        Value::Object(spec)
    }
}

/// Entries of `publish`, each for these networks. A network behind a comma belongs to the entry before it, which says
/// `from`.
pub(super) fn published(ports: &[String], networks: &[String]) -> Vec<String> {
    let from = if networks.is_empty() {
        String::new()
    } else {
        format!(" from {}", networks.join(","))
    };
    let mut entries: Vec<String> = Vec::new();
    for port in ports {
        let is_network = port.contains('/') && port.trim().parse::<IpNet>().is_ok()
            || port.trim().parse::<IpAddr>().is_ok();
        match entries.last_mut() {
            Some(entry) if is_network && entry.contains(" from ") => {
                entry.push(',');
                entry.push_str(port);
            }
            _ => entries.push(port.clone()),
        }
    }
    entries
        .into_iter()
        .map(|entry| format!("{entry}{from}"))
        .collect()
}

/// The members that have a value.
fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Map<String, Value> {
    let present = members.into_iter();
    present
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn check(line: &[&str], expected: &Value) {
        let line = Line::try_parse_from([&["create"], line].concat()).unwrap();
        assert_eq!(line.args.flags.spec(), *expected);
    }

    #[test]
    fn flags_say_what_a_file_would() {
        check(&[], &json!({"network_interfaces": [{}]}));
        check(
            &[
                "--name",
                "a",
                "--ip",
                "10.0.0.1/8",
                "--tap-name",
                "vpc0",
                "--gateway",
                "10.0.0.9",
            ],
            &json!({"name": "a", "gateway": "10.0.0.9",
                "network_interfaces": [{"ip": "10.0.0.1/8", "tap_name": "vpc0"}]}),
        );
        check(
            &[
                "--allowed-cidr",
                "10.0.0.0/8,192.0.2.0/24",
                "--allowed-cidr",
                "::/0",
                "--tap-owner",
                "7",
                "--bandwidth",
                "50",
                "--mtu",
                "1400",
                "--snat-address",
                "198.51.100.7",
                "--no-netns",
            ],
            &json!({"network_interfaces": [{"tap_owner": 7}], "bandwidth": 50, "mtu": 1400,
                "snat_address": "198.51.100.7",
                "allowed_cidrs": ["10.0.0.0/8", "192.0.2.0/24", "::/0"]}),
        );
        check(
            &[
                "--publish-port",
                "8080,127.0.0.1:53:53/udp",
                "--publish-from",
                "10.0.0.0/8,::1",
                "--exposed-port",
                "80,53/udp",
            ],
            &json!({"network_interfaces": [{}], "exposed_ports": ["80", "53/udp"],
                "publish": ["8080 from 10.0.0.0/8,::1", "127.0.0.1:53:53/udp from 10.0.0.0/8,::1"]}),
        );
    }
}
