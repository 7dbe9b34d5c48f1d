//! The kernel's side, seen without the agent: links with their aliases and addresses, and pinned links.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::agent::Agent;
use crate::netns::NetNs;

/// A link of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Alias, where it has one.
    pub alias: Option<String>,
    /// IPv4 addresses with their prefixes.
    pub v4: Vec<String>,
}

/// All links of a namespace, in the order of their indices.
///
/// # Panics
/// Where `ip` prints something else.
#[must_use]
pub fn links(host: &NetNs) -> Vec<Link> {
    let mut addresses = addresses(host);
    let shown = host.json("ip -json link show");
    let shown = shown.as_array().expect("ip prints a list");
    let mut links: Vec<Link> = shown
        .iter()
        .map(|link| {
            let ifindex = number(&link["ifindex"]);
            Link {
                ifindex,
                name: text(&link["ifname"]),
                alias: link["ifalias"].as_str().map(str::to_owned),
                v4: addresses.remove(&ifindex).unwrap_or_default(),
            }
        })
        .collect();
    links.sort_by_key(|link| link.ifindex);
    links
}

impl Link {
    /// Whether it leads to the agent's own servers: it comes and goes with the agent.
    #[must_use]
    pub fn leads_to_servers(&self) -> bool {
        let alias = self.alias.as_deref().unwrap_or_default();
        alias.ends_with(":services")
    }
}

/// The links that outlive the agent.
///
/// # Panics
/// Where `ip` prints something else.
#[must_use]
pub fn lasting_links(host: &NetNs) -> Vec<Link> {
    let mut links = links(host);
    links.retain(|link| !link.leads_to_servers());
    links
}

fn addresses(host: &NetNs) -> BTreeMap<u32, Vec<String>> {
    let shown = host.json("ip -json -4 address show");
    let shown = shown.as_array().expect("ip prints a list");
    let of = |link: &Value| {
        let addresses = link["addr_info"].as_array().into_iter().flatten();
        let addresses = addresses
            .filter(|address| address["local"].is_string())
            .map(|address| format!("{}/{}", text(&address["local"]), address["prefixlen"]));
        addresses.collect()
    };
    let links = shown.iter().filter(|link| link["ifindex"].is_u64());
    links
        .map(|link| (number(&link["ifindex"]), of(link)))
        .collect()
}

/// Programs of the pinned links by interface index.
///
/// # Panics
/// Where a pin has a name of another form.
#[must_use]
pub fn pinned_links(agent: &Agent) -> BTreeMap<u32, BTreeSet<String>> {
    let mut pinned: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for pin in agent.pins().pins() {
        let directory = pin.parent().and_then(|directory| directory.file_name());
        if directory.is_none_or(|name| name != "links") {
            continue;
        }
        let name = pin.file_name().expect("a file").to_string_lossy();
        let parts = name.split_once('-');
        let (ifindex, program) = parts.unwrap_or_else(|| panic!("a pin of the name {name}"));
        let ifindex = ifindex.parse().expect("it begins with the index");
        pinned
            .entry(ifindex)
            .or_default()
            .insert(program.to_owned());
    }
    pinned
}

fn number(value: &Value) -> u32 {
    let number = value.as_u64().expect("a number");
    u32::try_from(number).expect("an interface index")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
