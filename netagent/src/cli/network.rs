//! `network`: what the guest of an instance that exists may reach, what may reach it, and how much of both.

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgGroup, Args};
use hyper::Method;
use serde_json::{Map, Value};

use crate::cli::Client;
use crate::cli::client::{call, instance_path};
use crate::cli::flags::{LimitFlags, PolicyFlags, PortFlags};
use crate::cli::instances::{port_table, settings, warn_of_error};
use crate::cli::table::{print, print_json};

/// What the list of words says.
pub(super) const ABOUT_SHORT: &str =
    "Replace the policy, the published and exposed ports, or the limits of an instance";

/// What its own help and page say.
pub(super) const ABOUT: &str = "Replace the policy, the published and exposed ports, or the limits of an instance

Each of the three that a flag belongs to is replaced whole, on a running instance too: what no flag names has its default \
afterwards, and the other two stay as they are. Connections that the change permits go on. Several are replaced one after \
the other, policy, ports, limits; one that is refused ends that, and changes nothing. Where the instance is in error \
afterwards, the changes are stored and may not be in force: the reason is on standard error, and the exit status is 1.";

/// One of these at least. A group cannot stand in another, and all others need one of these.
const CHANGES: [&str; 12] = [
    "network_policy",
    "allowed_domain",
    "allowed_cidr",
    "denied_cidr",
    "publish_port",
    "exposed_port",
    "no_ports",
    "bandwidth",
    "bandwidth_in",
    "limit_pps",
    "limit_flows",
    "no_limits",
];

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("changes").args(CHANGES).required(true).multiple(true))]
pub(super) struct NetworkArgs {
    /// Id or name of the instance
    instance: String,
    #[command(flatten)]
    policy: PolicyFlags,
    #[command(flatten)]
    ports: PortFlags,
    /// Publish and expose nothing
    #[arg(long, conflicts_with = "port_flags")]
    no_ports: bool,
    #[command(flatten)]
    limits: LimitFlags,
    /// Limit nothing
    #[arg(long, conflicts_with = "limit_flags")]
    no_limits: bool,
    #[command(flatten)]
    client: Client,
}

pub(super) fn network(args: &NetworkArgs) -> Result<ExitCode> {
    let instance = instance_path(&args.instance)?;
    let client = &args.client;
    for (part, members) in args.changes() {
        let path = format!("{instance}/{part}");
        let body = Value::Object(members).to_string().into_bytes();
        call(&client.socket, Method::PUT, &path, body)?;
    }
    let changed = call(&client.socket, Method::GET, &instance, Vec::new())?;
    if client.json {
        print_json(&changed)?;
    } else {
        let ports = port_table(&changed);
        let apart = if ports.is_empty() { "" } else { "\n\n" };
        print(&format!("{}{apart}{ports}", settings(&changed).trim_end()))?;
    }
    Ok(if warn_of_error(&changed) {
        eprintln!("netagent: the changes are stored, and may not be in force");
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

impl NetworkArgs {
    /// The parts to be replaced, and with what.
    fn changes(&self) -> Vec<(&'static str, Map<String, Value>)> {
        let parts = [
            ("policy", self.policy.members(), false),
            ("publish", self.ports.members(), self.no_ports),
            ("limits", self.limits.members(), self.no_limits),
        ];
        let named = parts
            .into_iter()
            .filter(|(_, members, emptied)| *emptied || !members.is_empty());
        named.map(|(part, members, _)| (part, members)).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        args: NetworkArgs,
    }

    fn check(line: &[&str], expected: &[(&str, Value)]) {
        let parsed = Line::try_parse_from([&["network", "a"], line].concat()).unwrap();
        let found = parsed.args.changes().into_iter();
        let found: Vec<(&str, Value)> = found
            .map(|(part, members)| (part, Value::Object(members)))
            .collect();
        assert_eq!(found, expected, "{line:?}");
    }

    fn check_refused(line: &[&str]) {
        let parsed = Line::try_parse_from([&["network", "a"], line].concat());
        assert!(parsed.is_err(), "{line:?}: {parsed:?}");
    }

    #[test]
    fn each_part_that_is_named_is_replaced_whole_and_no_other() {
        check(
            &["--network-policy", "deny-all"],
            &[("policy", json!({"network_policy": "deny-all"}))],
        );
        check(
            &[
                "--network-policy",
                "custom",
                "--allowed-cidr",
                "10.0.0.0/8,::/0",
                "--audit",
            ],
            &[(
                "policy",
                json!({"network_policy": "custom", "allowed_cidrs": ["10.0.0.0/8", "::/0"], "audit": true}),
            )],
        );
        check(
            &[
                "--denied-cidr",
                "10.0.0.0/8",
                "--bandwidth",
                "50mbit",
                "--limit-pps",
                "5",
                "--no-ports",
            ],
            &[
                ("policy", json!({"denied_cidrs": ["10.0.0.0/8"]})),
                ("publish", json!({})),
                (
                    "limits",
                    json!({"bandwidth": "50mbit", "limits": {"pps": 5}}),
                ),
            ],
        );
        check(
            &[
                "--allowed-domain",
                "api.example.com,*.github.com",
                "--allowed-domain",
                "example.org",
            ],
            &[(
                "policy",
                json!({"allowed_domains": ["api.example.com", "*.github.com", "example.org"]}),
            )],
        );
        check(
            &["--bandwidth-in", "1gbit", "--limit-flows", "9"],
            &[(
                "limits",
                json!({"bandwidth_in": "1gbit", "limits": {"flows": 9}}),
            )],
        );
        check(&["--no-limits"], &[("limits", json!({}))]);
    }

    #[test]
    fn p2_an_empty_list_can_be_named() {
        let empty = [("policy", json!({"allowed_domains": []}))];
        check(&["--allowed-domain", ""], &empty);
        let empty = [("policy", json!({"allowed_cidrs": []}))];
        check(&["--allowed-cidr", ""], &empty);
        check(&["--allowed-cidr="], &empty);
        // A comma too many is no empty list, and no network.
        let wrong = [("policy", json!({"allowed_cidrs": ["10.0.0.0/8", ""]}))];
        check(&["--allowed-cidr", "10.0.0.0/8,"], &wrong);
    }

    #[test]
    fn both_lists_of_ports_are_replaced() {
        check(
            &[
                "--publish-port",
                "8080:80,53/udp",
                "--publish-from",
                "10.0.0.0/8",
            ],
            &[(
                "publish",
                json!({"publish": ["8080:80 from 10.0.0.0/8", "53/udp from 10.0.0.0/8"]}),
            )],
        );
        check(
            &["--publish-port", "80 from 10.0.0.0/8, fd00::/8,10.1.1.1,90"],
            &[(
                "publish",
                json!({"publish": ["80 from 10.0.0.0/8, fd00::/8,10.1.1.1", "90"]}),
            )],
        );
        check(
            &["--exposed-port", "80"],
            &[("publish", json!({"exposed_ports": ["80"]}))],
        );
        check(&["--no-ports"], &[("publish", json!({}))]);
    }

    #[test]
    fn what_is_replaced_must_be_meant() {
        check_refused(&[]);
        check_refused(&["--json"]);
        check_refused(&["--audit"]);
        check_refused(&["--no-ports", "--exposed-port", "80"]);
        check_refused(&["--publish-from", "10.0.0.0/8"]);
        check_refused(&["--no-limits", "--bandwidth", "5"]);
    }
}
