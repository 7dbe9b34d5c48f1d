//! `create`: an instance from a file or from flags, or what is wrong with it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hyper::Method;
use serde_json::{Map, Value, json};

use crate::cli::Client;
use crate::cli::client::call;
use crate::cli::flags::{LimitFlags, PolicyFlags, PortFlags, object, text};
use crate::cli::instances::{instance_table, warn_of_error};
use crate::cli::table::{print, print_json};

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// File with the instance as JSON; `-` reads standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["flags", "policy_flags", "port_flags", "limit_flags"])]
    file: Option<PathBuf>,
    /// Say everything that is wrong with it, and create nothing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    policy: PolicyFlags,
    #[command(flatten)]
    ports: PortFlags,
    #[command(flatten)]
    limits: LimitFlags,
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
    /// Interface of another instance through whose VM everything of this one goes
    #[arg(long, value_name = "NAME")]
    relay: Option<String>,
    /// Whether the relay has its DNS too [default: true, where no domain is allowed by name]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", requires = "relay")]
    relay_dns: Option<bool>,
}

pub(super) fn create(args: &CreateArgs) -> Result<ExitCode> {
    let body = match &args.file {
        Some(path) => read(path)?,
        None => args.spec().to_string().into_bytes(),
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

impl CreateArgs {
    /// The instance as the flags say it.
    fn spec(&self) -> Value {
        let mut spec = self.flags.members();
        spec.extend(self.policy.members());
        spec.extend(self.ports.members());
        spec.extend(self.limits.members());
        Value::Object(spec)
    }
}

impl Flags {
    fn members(&self) -> Map<String, Value> {
        let principal = |text: &String| {
            text.parse::<u32>()
                .map_or_else(|_| json!(text), |id| json!(id))
        };
        let relay = self.relay.as_ref().map(|_| {
            Value::Object(object([
                ("name", text(&self.relay)),
                ("relay_dns", self.relay_dns.map(Value::from)),
            ]))
        });
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
            ("relay", relay),
        ]);
        object([
            ("name", text(&self.name)),
            ("autostart", self.autostart.map(Value::from)),
            ("gateway", text(&self.gateway)),
            ("nameserver", text(&self.nameserver)),
            ("snat_address", text(&self.snat_address)),
            ("mtu", self.mtu.map(Value::from)),
            ("network_interfaces", Some(json!([interface]))),
        ])
    }
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
        assert_eq!(line.args.spec(), *expected);
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
                "--allowed-domain",
                "api.example.com,*.github.com",
                "--allowed-domain",
                "example.org",
                "--allowed-cidr",
                "10.0.0.0/8,192.0.2.0/24",
                "--allowed-cidr",
                "::/0",
                "--tap-owner",
                "7",
                "--bandwidth",
                "50",
                "--bandwidth-in",
                "1gbit",
                "--limit-flows",
                "7",
                "--denied-cidr",
                "",
                "--audit",
                "--mtu",
                "1400",
                "--snat-address",
                "198.51.100.7",
                "--no-netns",
            ],
            &json!({"network_interfaces": [{"tap_owner": 7}], "bandwidth": "50", "mtu": 1400,
                "snat_address": "198.51.100.7", "bandwidth_in": "1gbit", "limits": {"flows": 7}, "audit": true,
                "denied_cidrs": [], "allowed_domains": ["api.example.com", "*.github.com", "example.org"],
                "allowed_cidrs": ["10.0.0.0/8", "192.0.2.0/24", "::/0"]}),
        );
        check(
            &["--relay", "gw-eth0"],
            &json!({"network_interfaces": [{"relay": {"name": "gw-eth0"}}]}),
        );
        check(
            &["--relay", "gw-eth0", "--relay-dns", "false"],
            &json!({"network_interfaces": [{"relay": {"name": "gw-eth0", "relay_dns": false}}]}),
        );
        assert!(Line::try_parse_from(["create", "--relay-dns"]).is_err());
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
