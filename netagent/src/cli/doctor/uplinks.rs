//! The uplinks: whether they are there, and whose programs stand between them and the agent's.

use std::process::Command;

use netagent_common::names::FROM_UPLINK;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use crate::agent::uplink::{self, Uplinks};
use crate::apply::attach::others;
use crate::cli::doctor::{Check, Verdict};
use crate::cli::run;
use crate::config::Config;
use crate::netlink::{Netlink, NetlinkError};
use crate::observe::{links, routes};
use crate::plan::Observed;

/// What the host says of its links.
struct Seen {
    observed: Observed,
    /// Index of a link, and id of the XDP program on it.
    xdp: Vec<(u32, u32)>,
}

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let seen = run::runtime().map(|runtime| runtime.block_on(look()));
    let seen = match seen {
        Ok(Ok(seen)) => seen,
        Ok(Err(error)) => return vec![unreadable(error.to_string())],
        Err(error) => return vec![unreadable(error.to_string())],
    };
    match uplink::choose(&config.uplink, &seen.observed) {
        Ok(uplinks) => {
            let programs = programs(&uplinks, &seen.xdp);
            vec![found(&uplinks, &seen.observed), programs]
        }
        Err(error) => {
            let check = Check {
                name: "uplink",
                verdict: Verdict::Bad,
                found: error.to_string(),
                fix: "see `uplink` in the configuration".to_owned(),
            };
            vec![check]
        }
    }
}

fn unreadable(error: String) -> Check {
    Check::note("uplink", error, "run as root")
}

async fn look() -> Result<Seen, NetlinkError> {
    let netlink = Netlink::open()?;
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = netlink.dump(question).await?;
    let xdp = answers.iter().filter_map(program_on).collect();
    let observed = Observed {
        links: links::read(&netlink).await?,
        routes: routes::read(&netlink).await?,
        ..Observed::default()
    };
    Ok(Seen { observed, xdp })
}

/// The link of an answer, and the XDP program on it.
fn program_on(answer: &RouteNetlinkMessage) -> Option<(u32, u32)> {
    let RouteNetlinkMessage::NewLink(link) = answer else {
        return None;
    };
    let xdp = link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::Xdp(xdp) = attribute else {
            return None;
        };
        xdp.iter().find_map(|one| {
            let LinkXdp::ProgId(id) = one else {
                return None;
            };
            (*id != 0).then_some(*id)
        })
    })?;
    Some((link.header.index, xdp))
}

fn found(uplinks: &Uplinks, observed: &Observed) -> Check {
    let names: Vec<&str> = uplinks.found.values().map(String::as_str).collect();
    let mtu = uplinks.mtu(observed).unwrap_or(0);
    let found = format!("{}, MTU {mtu}", names.join(" "));
    if uplinks.missing.is_empty() {
        return Check::good("uplink", found);
    }
    let missing: Vec<&str> = uplinks.missing.iter().map(String::as_str).collect();
    Check::note(
        "uplink",
        format!("{found}; not there: {}", missing.join(" ")),
        "nothing leads through what is not there: bring it back, or take it out of `uplink`",
    )
}

/// What `tc` shows of the filters of a device.
fn filters(device: &str, direction: &str) -> String {
    let words = ["filter", "show", "dev", device, direction];
    let output = Command::new("tc").args(words).output();
    output.map_or_else(
        |_| String::new(),
        |out| String::from_utf8_lossy(&out.stdout).into_owned(),
    )
}

/// Those that see guests' packets: on the way out all, and of what arrives those before the agent's own, where that is
/// a filter too; one by tcx comes before them all.
fn filters_ahead(listed: &str, direction: &str) -> Vec<String> {
    let is_ours = |line: &str| line.contains(FROM_UPLINK);
    let has_filter = listed.lines().any(is_ours);
    if direction == "ingress" && !has_filter {
        return Vec::new();
    }
    let ahead = listed.lines().take_while(|line| !is_ours(line));
    // Of a filter's two lines the second has what it does.
    let filters = ahead.filter(|line| line.contains(" handle ") || line.contains(" fh "));
    filters
        .filter_map(|line| line.split_once("pref "))
        .map(|(_, filter)| format!("pref {}", filter.trim()))
        .collect()
}

/// Others' programs that see the packets of guests on an uplink: before the agent's own, and on the way out.
fn programs(uplinks: &Uplinks, xdp: &[(u32, u32)]) -> Check {
    let mut found = Vec::new();
    for (ifindex, name) in &uplinks.found {
        let xdp = xdp.iter().filter(|(on, _)| on == ifindex);
        found.extend(xdp.map(|(_, id)| format!("{name}: XDP {}", others::name_of(*id))));
        let ahead = others::ahead_of_ours(name).into_iter();
        found.extend(ahead.map(|program| format!("{name}: tcx ingress {program}")));
        let out = others::on_the_way_out(name).into_iter();
        found.extend(out.map(|program| format!("{name}: tcx egress {program}")));
        for direction in ["ingress", "egress"] {
            let listed = filters(name, direction);
            let filters = filters_ahead(&listed, direction).into_iter();
            found.extend(filters.map(|filter| format!("{name}: tc {direction} {filter}")));
        }
    }
    if found.is_empty() {
        return Check::good("uplink programs", "none but netagent's".into());
    }
    Check::note(
        "uplink programs",
        found.join(", "),
        "they see guests' packets first: what they drop, redirect or end with TCX_PASS (0) never comes to netagent. Let \
         them pass it (XDP_PASS, TCX_NEXT), or take them off: `ip link set dev <uplink> xdp off`, `bpftool link list`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "\
filter protocol all pref 10 bpf chain 0
filter protocol all pref 10 bpf chain 0 handle 0x1 shaper direct-action not_in_hw id 5 tag 3b185187f1855c4c
filter protocol all pref 50 bpf chain 0
filter protocol all pref 50 bpf chain 0 handle 0x6e61 from_uplink direct-action not_in_hw id 6 tag aa
filter protocol ip pref 60 u32 chain 0
filter protocol ip pref 60 u32 chain 0 fh 800: ht divisor 1
";

    #[test]
    fn of_filters_those_count_that_see_packets_before_ours_or_after_they_left() {
        let shaper = "pref 10 bpf chain 0 handle 0x1 shaper direct-action not_in_hw id 5 tag 3b185187f1855c4c";
        assert_eq!(filters_ahead(LISTED, "ingress"), [shaper]);
        let foreign: String = LISTED.replace(FROM_UPLINK, "other");
        assert_eq!(filters_ahead(&foreign, "ingress"), [""; 0]);
        let all = filters_ahead(&foreign, "egress");
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[2].starts_with("pref 60 u32"));
    }
}
