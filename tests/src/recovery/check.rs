//! The one question after every crash: do notes, API, database, kernel and pins say the same?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use netagent_common::{names, vm};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::deadline::{Deadline, SOON, wait_for};
use crate::netns::NetNs;
use crate::recovery::book::Entry;
use crate::recovery::database::{self, Row};
use crate::recovery::kernel::{self, Link};
use crate::recovery::shown::Shown;

/// Longer than an agent without work takes to be settled.
const LONG: Duration = Duration::from_secs(3_600);

/// Waits until the agent has nothing to do; what it lists then.
///
/// # Panics
/// When it has still something to do after [`SOON`].
pub fn settled(agent: &Agent) -> Vec<Shown> {
    let deadline = Deadline::after(SOON);
    wait_for("the agent settles", LONG, || {
        let (plan, shown) = (plan(agent), Shown::list(agent));
        let is_settled = plan == json!({ "steps": [], "problems": [] })
            && shown
                .iter()
                .all(|one| matches!(one.status.as_str(), "running" | "stopped"));
        assert!(
            is_settled || deadline.remaining().is_some(),
            "the agent does not settle: {plan} {shown:?}\n{}",
            agent.log()
        );
        is_settled.then_some(shown)
    })
}

/// What the agent would change.
///
/// # Panics
/// When it does not answer.
#[must_use]
pub fn plan(agent: &Agent) -> Value {
    let answer = agent.api("GET", "/v1/plan", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Checks that everything that was acknowledged holds, what was on its way holds entirely or not at all, and
/// that API, database, kernel and pins agree. `entries` are all instances of the agent; `others` are the links
/// of the host that are not the agent's.
///
/// # Panics
/// Where they do not.
pub fn check<'a>(
    agent: &Agent,
    (host, uplink, others): (&NetNs, &str, &[&str]),
    entries: impl IntoIterator<Item = &'a mut Entry>,
) {
    let shown = settled(agent);
    let rows = database::read(agent.state_dir());
    let listed: Vec<&Shown> = rows.iter().map(|row| &row.shown).collect();
    assert_eq!(
        shown.iter().collect::<Vec<_>>(),
        listed,
        "API and database differ"
    );
    check_unique(&rows);
    let links = kernel::links(host);
    let taps = check_taps(&rows, &links, (uplink, others));
    check_pins(agent, &taps, (host.ifindex(uplink), way_to_servers(&links)));
    let mut unknown: BTreeMap<&str, &Shown> =
        shown.iter().map(|one| (one.name.as_str(), one)).collect();
    for entry in entries {
        let one = unknown.remove(entry.name());
        entry.settle(one);
        let nics = one.into_iter().flat_map(|one| &one.nics);
        let own = nics
            .filter_map(|nic| taps.get_key_value(nic.tap_name.as_str()))
            .map(|(name, link)| ((*name).to_owned(), link.ifindex));
        entry.keep_ifindexes(own.collect());
    }
    assert!(unknown.is_empty(), "nobody asked for {unknown:?}");
}

/// No address, TAP, hardware address, slot, name or id is there twice.
fn check_unique(rows: &[Row]) {
    let mut seen = BTreeSet::new();
    let mut add = |kind: &'static str, value: String| {
        let is_new = seen.insert((kind, value.clone()));
        assert!(is_new, "{kind} {value} is there twice: {rows:#?}");
    };
    for row in rows {
        add("instance", row.shown.name.clone());
        add("id", row.shown.id.clone());
        for (nic, place) in row.shown.nics.iter().zip(&row.places) {
            add("slot", place.slot.to_string());
            add("id", nic.id.clone());
            add("interface", nic.name.clone());
            add("TAP", nic.tap_name.clone());
            add("address", without_prefix(&nic.ip).to_owned());
            add("address", nic.tap_ip.clone());
            add("MAC", nic.mac.clone());
            if let Some(ip6) = &nic.ip6 {
                add("address", ip6.clone());
            }
        }
    }
}

/// The links of the host are its own, and one for every interface of what runs, each as the database has it.
/// Returns the latter by name.
fn check_taps<'a>(
    rows: &[Row],
    links: &'a [Link],
    (uplink, others): (&str, &[&str]),
) -> BTreeMap<&'a str, &'a Link> {
    let is_the_hosts = |link: &&Link| {
        let name = link.name.as_str();
        name == "lo" || name == uplink || others.contains(&name) || link.leads_to_servers()
    };
    let taps: BTreeMap<&str, &Link> = links
        .iter()
        .filter(|link| !is_the_hosts(link))
        .map(|link| (link.name.as_str(), link))
        .collect();
    let mut wanted = BTreeSet::new();
    for row in rows.iter().filter(|row| row.shown.status == "running") {
        for (nic, place) in row.shown.nics.iter().zip(&row.places) {
            wanted.insert(nic.tap_name.as_str());
            let link = taps.get(nic.tap_name.as_str());
            let link = link.unwrap_or_else(|| panic!("no TAP of {nic:?} among {taps:?}"));
            let alias = link.alias.as_deref().unwrap_or_default();
            let mut parts = alias.split(':').skip(1);
            let (store, id) = (parts.next(), parts.next());
            assert_eq!(store, Some(row.store_id.as_str()), "{link:?} of {row:?}");
            assert_eq!(id, Some(nic.id.as_str()), "{link:?} of {row:?}");
            assert_eq!(link.ifindex, place.ifindex, "{link:?} of {row:?}");
            assert_eq!(vm::slot(link.ifindex), place.slot, "{link:?} of {row:?}");
            let [v4] = &link.v4[..] else {
                panic!("one address: {link:?} of {row:?}");
            };
            assert_eq!(without_prefix(v4), nic.tap_ip, "{link:?} of {row:?}");
        }
    }
    let found: BTreeSet<&str> = taps.keys().copied().collect();
    assert_eq!(found, wanted, "TAPs without an interface, or the reverse");
    taps
}

/// Index of the one link that leads to the agent's own servers.
fn way_to_servers(links: &[Link]) -> u32 {
    let ways: Vec<&Link> = links
        .iter()
        .filter(|link| link.leads_to_servers())
        .collect();
    let [way] = ways[..] else {
        panic!("one way to the servers: {links:?}");
    };
    way.ifindex
}

/// Links of programs are pinned for the TAPs, the uplink and the way to the servers, and for nothing else.
fn check_pins(agent: &Agent, taps: &BTreeMap<&str, &Link>, (uplink, way): (u32, u32)) {
    let set =
        |names: &[&str]| -> BTreeSet<String> { names.iter().map(|&name| name.into()).collect() };
    let mut wanted: BTreeMap<u32, BTreeSet<String>> = taps
        .values()
        .map(|link| (link.ifindex, set(&[names::FROM_VM, names::TO_VM])))
        .collect();
    wanted.insert(uplink, set(&[names::FROM_UPLINK]));
    wanted.insert(way, set(&[names::FROM_SERVICES]));
    assert_eq!(kernel::pinned_links(agent), wanted, "pins of links");
}

fn without_prefix(network: &str) -> &str {
    network
        .split_once('/')
        .map_or(network, |(address, _)| address)
}
