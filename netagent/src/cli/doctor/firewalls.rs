//! Firewalls of the host: what they do not see, and the few places where they stand in the way.

use std::collections::BTreeSet;
use std::process::Command;

use crate::cli::doctor::{Check, read};
use crate::spec::publish::ExposedPort;

/// A table that nft lists, with its chains.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    family: String,
    name: String,
    chains: Vec<Chain>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Chain {
    name: String,
    /// What stands behind `type`; empty where the chain hangs on no hook.
    hook: String,
}

/// Who makes chains whose names begin so.
const OWNERS: [(&str, &str); 5] = [
    ("DOCKER", "Docker"),
    ("ufw", "ufw"),
    ("LIBVIRT", "libvirt"),
    ("KUBE", "Kubernetes"),
    ("cali", "Calico"),
];

pub(super) fn checks(host_ports: &BTreeSet<ExposedPort>) -> Vec<Check> {
    let output = Command::new("nft").args(["list", "chains"]).output();
    let listed = output.map_or_else(
        |_| String::new(),
        |out| String::from_utf8_lossy(&out.stdout).into_owned(),
    );
    let tables = parse(&listed);
    let mut checks = vec![unseen(&tables)];
    checks.extend(closed_to_the_host(&tables));
    checks.extend(closed_to_guests(&tables, host_ports));
    checks
}

/// Frames are redirected before the host's routing, so all rules are passed by: those of the netdev family's ingress
/// come after tc, and what tc redirects there is spared those of its egress.
fn unseen(tables: &[Table]) -> Check {
    let mut names: Vec<String> = tables.iter().map(Table::title).collect();
    for (file, word) in [
        ("ip_tables_names", "iptables"),
        ("ip6_tables_names", "ip6tables"),
    ] {
        let tables = read(&format!("/proc/net/{file}"));
        names.extend(tables.lines().map(|table| format!("{word} {table}")));
    }
    if names.is_empty() {
        return Check::good("firewalls", "none seen".into());
    }
    Check::note(
        "firewalls",
        names.join(", "),
        "their INPUT, FORWARD and NAT rules do not see guests' traffic, published ports included: write what guests \
         may do into netagent. They do see what goes to ports of `policy.allow_host_ports`",
    )
}

/// What the agent itself asks and what the host sends to guests leaves by its own output.
fn closed_to_the_host(tables: &[Table]) -> Option<Check> {
    let tables = tables.iter();
    let found: Vec<String> = tables.flat_map(|table| table.closed("output")).collect();
    if found.is_empty() {
        return None;
    }
    Some(Check::note(
        "output chain",
        found.join(", "),
        "accept there what the agent sends to the resolvers (`dns.upstream`, port 53), or guests' names are not \
         resolved; and what the host sends to the TAPs",
    ))
}

/// What guests send to listeners of the host comes in by its own input.
fn closed_to_guests(tables: &[Table], host_ports: &BTreeSet<ExposedPort>) -> Option<Check> {
    let tables = tables.iter();
    let found: Vec<String> = tables.flat_map(|table| table.closed("input")).collect();
    if found.is_empty() || host_ports.is_empty() {
        return None;
    }
    let ports: Vec<String> = host_ports.iter().map(ToString::to_string).collect();
    let fix = format!(
        "accept there what comes from the TAPs to {}, or guests do not reach these ports of the host, which \
         `policy.allow_host_ports` opens to them",
        ports.join(", ")
    );
    Some(Check::note("input chain", found.join(", "), &fix))
}

impl Table {
    /// Chains on what the host itself sends (`output`) or gets (`input`) that drop what no rule accepts.
    fn closed(&self, hook: &str) -> Vec<String> {
        let hook = format!(" hook {hook} ");
        let chains = self
            .chains
            .iter()
            .filter(|chain| chain.hook.contains(&hook) && chain.hook.contains("policy drop"));
        let titles = chains.map(|chain| {
            let (table, name) = (&self.name, &chain.name);
            format!("nft {} {table} {name}: {}", self.family, chain.hook)
        });
        titles.collect()
    }

    /// Its name, and whose it is where that can be told.
    fn title(&self) -> String {
        let owner = if self.name == "firewalld" {
            Some("firewalld")
        } else {
            let owns = |(start, _): &&(&str, &str)| {
                self.chains
                    .iter()
                    .any(|chain| chain.name.starts_with(start))
            };
            OWNERS.iter().find(owns).map(|(_, owner)| *owner)
        };
        let owner = owner.map_or_else(String::new, |owner| format!(" ({owner})"));
        format!("nft {} {}{owner}", self.family, self.name)
    }
}

/// Takes the list apart that `nft list chains` prints.
fn parse(listed: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["table", family, name, "{"] => tables.push(Table {
                family: family.to_owned(),
                name: name.to_owned(),
                chains: Vec::new(),
            }),
            ["chain", name, "{"] => {
                if let Some(table) = tables.last_mut() {
                    let name = name.to_owned();
                    table.chains.push(Chain {
                        name,
                        hook: String::new(),
                    });
                }
            }
            ["type", ..] => {
                let chains = tables.last_mut().map(|table| &mut table.chains);
                if let Some(chain) = chains.and_then(|chains| chains.last_mut()) {
                    chain.hook = line.trim().trim_end_matches(';').to_owned();
                }
            }
            _ => {}
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = r#"table ip filter {
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
	}
	chain DOCKER-USER {
	}
	chain OUT {
		type filter hook output priority 0; policy drop;
	}
}
table inet firewalld {
	chain filter_OUTPUT {
		type filter hook output priority filter + 10; policy accept;
	}
}
table netdev shaping {
	chain out {
		type filter hook egress devices = { eth0, eth1 } priority filter; policy drop;
	}
}
"#;

    #[test]
    fn tables_are_told_with_their_owners() {
        let tables = parse(LISTED);
        let found = unseen(&tables).found;
        let start = "nft ip filter (Docker), nft inet firewalld (firewalld), nft netdev shaping";
        assert!(found.starts_with(start), "{found}");
        assert!(unseen(&[]).fix.is_empty() || unseen(&[]).found.contains("iptables"));
    }

    #[test]
    fn an_output_chain_counts_where_it_drops_what_no_rule_accepts() {
        let found = closed_to_the_host(&parse(LISTED)).unwrap().found;
        assert_eq!(
            found,
            "nft ip filter OUT: type filter hook output priority 0; policy drop"
        );
        let open = LISTED.replace("policy drop", "policy accept");
        assert!(closed_to_the_host(&parse(&open)).is_none());
    }

    #[test]
    fn an_input_chain_counts_where_ports_of_the_host_are_open_to_guests() {
        let listed = LISTED.replace("hook forward", "hook input");
        let ports = ExposedPort::parse(&8_080.into()).unwrap();
        let ports = BTreeSet::from([ports]);
        let check = closed_to_guests(&parse(&listed), &ports).unwrap();
        assert_eq!(
            check.found,
            "nft ip filter FORWARD: type filter hook input priority filter; policy drop"
        );
        assert!(check.fix.contains(" to 8080/tcp, or"), "{}", check.fix);
        assert!(closed_to_guests(&parse(&listed), &BTreeSet::new()).is_none());
        assert!(closed_to_guests(&parse(LISTED), &ports).is_none());
    }
}
