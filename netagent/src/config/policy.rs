//! `[policy]`: what holds for every instance, whatever its own policy says (P-5, P-12).

use std::collections::BTreeSet;

use ipnet::IpNet;
use netagent_common::publish::HOST_PORTS_MAX;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::Value;

use crate::config::{ConfigError, check};
use crate::spec::cidr;
use crate::spec::publish::ExposedPort;

/// What may be opened: link-local addresses and those of cloud metadata. Loopback, multicast and broadcast lead nowhere
/// that a guest could be let to, and IPv6's link-local ones are of each link.
const OPENABLE: [&str; 3] = ["169.254.0.0/16", "100.100.100.200/32", "fd00:ec2::254/128"];

/// `[policy]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "netagent.example.toml describes every key")]
pub struct Policy {
    pub deny_private: bool,
    pub vm_to_vm: VmToVm,
    pub quarantine_pps: Option<u32>,
    #[serde(deserialize_with = "read_networks")]
    pub open: Vec<IpNet>,
    #[serde(deserialize_with = "read_ports")]
    pub allow_host_ports: BTreeSet<ExposedPort>,
}

/// Whether instances reach each other's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmToVm {
    /// They do not.
    #[default]
    Off,
    /// Those of one account do.
    Account,
}

impl Policy {
    /// Checks every value.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check::check(
            "policy.quarantine_pps",
            self.quarantine_pps != Some(0),
            || {
                "0 would let no guest send anything: write a number of packets, or leave it out"
                    .into()
            },
        )?;
        let closed = self.open.iter().find(|network| !is_openable(network));
        check::check("policy.open", closed.is_none(), || {
            let network = closed.map(ToString::to_string).unwrap_or_default();
            format!(
                "{network} cannot be opened: only what lies in {} can",
                OPENABLE.join(", ")
            )
        })
    }
}

fn is_openable(network: &IpNet) -> bool {
    let outer = OPENABLE
        .iter()
        .filter_map(|text| text.parse::<IpNet>().ok());
    outer.into_iter().any(|outer| outer.contains(network))
}

fn read_networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let networks = texts.iter().map(|text| cidr::network_or_address(text));
    networks.collect::<Result<_, _>>().map_err(D::Error::custom)
}

/// Ports as `exposed_ports` has them. One that is named twice is open as one that is named once.
fn read_ports<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeSet<ExposedPort>, D::Error> {
    let entries = Vec::<Value>::deserialize(deserializer)?;
    let ports = entries.iter().map(|entry| {
        let wrong = |fault| D::Error::custom(format!("entry {entry} of allow_host_ports: {fault}"));
        ExposedPort::parse(entry).map_err(wrong)
    });
    let ports: BTreeSet<ExposedPort> = ports.collect::<Result<_, _>>()?;
    if ports.len() > HOST_PORTS_MAX as usize {
        let error = format!("allow_host_ports names more than {HOST_PORTS_MAX} ports");
        return Err(D::Error::custom(error));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, toml::de::Error> {
        toml::from_str(text)
    }

    #[track_caller]
    fn check_refused(text: &str, expected: &str) {
        let error = policy(text).unwrap().check().unwrap_err();
        assert_eq!(error.to_string(), format!("configuration key {expected}"));
    }

    #[test]
    fn link_local_and_metadata_addresses_can_be_opened_and_nothing_else() {
        let open = r#"open = ["169.254.169.254", "169.254.0.0/16", "100.100.100.200/32", "fd00:ec2::254"]"#;
        let opened = policy(open).unwrap();
        opened.check().unwrap();
        let texts: Vec<String> = opened.open.iter().map(ToString::to_string).collect();
        let expected = [
            "169.254.169.254/32",
            "169.254.0.0/16",
            "100.100.100.200/32",
            "fd00:ec2::254/128",
        ];
        assert_eq!(texts, expected);
        for closed in [
            "127.0.0.0/8",
            "127.0.0.1/32",
            "224.0.0.0/4",
            "255.255.255.255/32",
            "0.0.0.0/0",
            "169.254.0.0/15",
            "100.100.100.0/24",
            "fe80::/10",
            "fe80::1/128",
            "::1/128",
            "ff02::1/128",
            "fd00:ec2::/64",
            "10.0.0.0/8",
        ] {
            check_refused(
                &format!("open = [\"{closed}\"]"),
                &format!(
                    "policy.open: {closed} cannot be opened: only what lies in 169.254.0.0/16, 100.100.100.200/32, \
                     fd00:ec2::254/128 can"
                ),
            );
        }
        let error = policy(r#"open = ["metadata"]"#).unwrap_err().to_string();
        assert!(
            error.contains("Invalid CIDR format: \"metadata\""),
            "{error}"
        );
    }

    #[test]
    fn p7_ports_of_the_host_are_numbers_or_texts_and_may_be_named_twice() {
        let text = r#"allow_host_ports = [8080, "53/udp", "443", "8080/tcp", "53/udp", 53]"#;
        let ports = policy(text).unwrap().allow_host_ports;
        let shown: Vec<String> = ports.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["53/tcp", "53/udp", "443/tcp", "8080/tcp"]);
        assert_eq!(policy("").unwrap().allow_host_ports, BTreeSet::new());
        for (entry, reason) in [
            ("0", "'0' is no port: use 1 to 65535"),
            ("65536", "'65536' is no port: use 1 to 65535"),
            ("-1", "'-1' is no port: use 1 to 65535"),
            ("true", "'true' is no port: use 1 to 65535"),
            (r#""080""#, "'080' is no port: use 1 to 65535"),
            (r#""8080-8090""#, "'8080-8090' is no port: use 1 to 65535"),
            (
                r#""53/sctp""#,
                "protocol 'sctp' is not known: use tcp or udp",
            ),
            (
                r#""127.0.0.1:53""#,
                "use <port>, with /tcp or /udp behind it",
            ),
            (r#""""#, "use <port>, with /tcp or /udp behind it"),
        ] {
            let error = policy(&format!("allow_host_ports = [80, {entry}]"));
            let error = error.unwrap_err().to_string();
            let expected = format!("entry {entry} of allow_host_ports: {reason}");
            assert!(error.contains(&expected), "{error}");
        }
        let many: Vec<u32> = (1..=HOST_PORTS_MAX + 1).collect();
        let error = policy(&format!("allow_host_ports = {many:?}"));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("allow_host_ports names more than 1024 ports"),
            "{error}"
        );
        policy(&format!("allow_host_ports = {:?}", &many[1..])).unwrap();
    }

    #[test]
    fn p12_instances_reach_each_other_in_an_account_or_not_at_all() {
        for (text, expected) in [
            (r#"vm_to_vm = "off""#, VmToVm::Off),
            (r#"vm_to_vm = "account""#, VmToVm::Account),
            ("", VmToVm::Off),
        ] {
            let policy = policy(text).unwrap();
            policy.check().unwrap();
            assert_eq!(policy.vm_to_vm, expected, "{text}");
        }
        assert!(policy(r#"vm_to_vm = "on""#).is_err());
    }
}
