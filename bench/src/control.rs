//! What changes cost beside scripts of `ip` and `nft` (B10): a guest's network made and taken away, and a long policy
//! replaced.

use std::fmt::Write;

use serde_json::json;

use crate::figures::Figures;
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::now;
use netagent_tests::netns::NetNs;
use netagent_tests::world::{UPLINK, World};

const ROUNDS: u32 = 7;
/// Networks of a guest's policy when it is made.
const NETWORKS: u32 = 10;
/// Networks of a long policy.
const MANY: u32 = 10_000;
/// The guest that a script makes.
const TAP: &str = "tap1";

/// Measures both, in new namespaces for each round.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("control", rounds);
    let mut made: [Figures; 4] = Default::default();
    let mut taken: [Figures; 4] = Default::default();
    let mut replaced: [Figures; 2] = Default::default();
    for round in 0..rounds {
        let world = World::new();
        let agent = world.agent("");
        let scripts = World::new();
        prepare(&scripts.host);
        // The first one of each pays for what is loaded once.
        for is_counted in [false, true] {
            let figures = [
                by_api(&agent),
                by_command(&agent),
                by_script(&scripts.host, Firewall::Nft),
                by_script(&scripts.host, Firewall::Iptables),
            ];
            for (index, (create, delete)) in figures.into_iter().enumerate() {
                if is_counted {
                    made[index].add(create);
                    taken[index].add(delete);
                }
            }
        }
        for (figures, took) in replaced.iter_mut().zip([
            replace_by_api(&agent, round),
            replace_by_nft(&scripts.host, round),
        ]) {
            figures.add(took);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let ways = [
        "netagent",
        "netagent, command line",
        "ip + nft",
        "ip + iptables",
    ];
    let unit = ("ms", Better::Lower);
    let title = format!("A guest's network made: TAP, NAT, a policy of {NETWORKS} networks");
    let mut table = Table::new("control/create", &title, unit);
    add(&mut table, &ways, &made);
    table.note("ip + nft, ip + iptables: a shell script: a TAP with its address, forwarding both ways, masquerade, the networks denied; nft by one file, iptables by a command for each rule. No address is chosen, nothing is stored, nothing is put back after a reboot.");
    session.add(table);
    let mut table = Table::new("control/delete", "The same taken away", unit);
    add(&mut table, &ways, &taken);
    session.add(table);
    let title = format!("A policy of {MANY} networks replaced by another one");
    let mut table = Table::new("control/policy", &title, unit);
    add(&mut table, &["netagent", "nft set"], &replaced);
    table.note(
        "nft: the elements of an interval set, flushed and added in one transaction from a file.",
    );
    session.add(table);
}

fn add(table: &mut Table, ways: &[&str], figures: &[Figures]) {
    for (way, figures) in ways.iter().zip(figures) {
        table.add(way, figures);
    }
}

/// Milliseconds that something took.
fn timed(work: impl FnOnce()) -> f64 {
    let started = now();
    work();
    started.elapsed().as_secs_f64() * 1e3
}

/// So many networks; another round has others.
fn networks(count: u32, round: u32) -> Vec<String> {
    (0..count)
        .map(|number| {
            let number = number + round * count;
            format!("10.{}.{}.0/24", number >> 8 & 0xff, number & 0xff)
        })
        .collect()
}

fn by_api(agent: &Agent) -> (f64, f64) {
    let spec = json!({
        "name": "made",
        "network_policy": "custom",
        "denied_cidrs": networks(NETWORKS, 0),
    });
    let create = timed(|| {
        let answer = agent.create(&spec);
        assert_eq!(answer["status"], "running");
    });
    (create, timed(|| agent.delete("made")))
}

fn by_command(agent: &Agent) -> (f64, f64) {
    let denied = networks(NETWORKS, 0).join(",");
    let arguments = [
        "--name",
        "made",
        "--network-policy",
        "custom",
        "--denied-cidr",
        &denied,
    ];
    let create = timed(|| drop(agent.cli("create", &arguments)));
    (create, timed(|| drop(agent.cli("rm", &["made"]))))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Firewall {
    Nft,
    Iptables,
}

/// What is there once for all guests.
fn prepare(host: &NetNs) {
    host.sysctl("net/ipv4/ip_forward", "1");
    let nft = "table ip vms {
  set denied { type ipv4_addr; flags interval; }
  chain forward { type filter hook forward priority filter; policy drop; }
  chain postrouting { type nat hook postrouting priority srcnat; }
}
";
    host.feed("nft -f -", nft);
}

fn by_script(host: &NetNs, firewall: Firewall) -> (f64, f64) {
    let (up, down) = scripts(firewall);
    let create = timed(|| host.feed("sh -e", &up));
    assert!(host.find_ifindex(TAP).is_some(), "the script made the TAP");
    let delete = timed(|| host.feed("sh -e", &down));
    assert!(host.find_ifindex(TAP).is_none(), "the script took it away");
    (create, delete)
}

fn scripts(firewall: Firewall) -> (String, String) {
    let mut up = format!(
        "ip tuntap add {TAP} mode tap
ip address add 172.16.9.1/30 dev {TAP}
ip link set {TAP} up
"
    );
    let mut down = String::new();
    let denied = networks(NETWORKS, 0);
    let chain = format!("vm-{TAP}");
    let mut say = |up_line: &str, down_line: &str| {
        writeln!(up, "{up_line}").expect("a string grows");
        writeln!(down, "{down_line}").expect("a string grows");
    };
    match firewall {
        Firewall::Nft => {
            let networks = denied.join(", ");
            let rules = [
                "nft -f - <<END".to_owned(),
                format!("add chain ip vms {chain}"),
                format!("add rule ip vms {chain} ip daddr {{ {networks} }} drop"),
                format!("add rule ip vms {chain} oifname {UPLINK} accept"),
                format!("add rule ip vms forward iifname {TAP} jump {chain}"),
                format!(
                    "add rule ip vms forward oifname {TAP} ct state established,related accept"
                ),
                format!(
                    "add rule ip vms postrouting ip saddr 172.16.9.2 oifname {UPLINK} masquerade"
                ),
                "END".to_owned(),
            ];
            say(&rules.join("\n"), "nft -f - <<END");
            say("", "flush chain ip vms forward");
            say("", "flush chain ip vms postrouting");
            say("", &format!("delete chain ip vms {chain}\nEND"));
        }
        Firewall::Iptables => {
            say(&format!("iptables -N {chain}"), "");
            for network in &denied {
                say(&format!("iptables -A {chain} -d {network} -j DROP"), "");
            }
            say(&format!("iptables -A {chain} -o {UPLINK} -j ACCEPT"), "");
            for rule in [
                format!("FORWARD -i {TAP} -j {chain}"),
                format!("FORWARD -o {TAP} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"),
                format!("POSTROUTING -t nat -s 172.16.9.2 -o {UPLINK} -j MASQUERADE"),
            ] {
                say(
                    &format!("iptables -A {rule}"),
                    &format!("iptables -D {rule}"),
                );
            }
            say("", &format!("iptables -F {chain}"));
            say("", &format!("iptables -X {chain}"));
        }
    }
    say("", &format!("ip link delete {TAP}"));
    (up, down)
}

fn replace_by_api(agent: &Agent, round: u32) -> f64 {
    agent.create(&json!({ "name": "policed" }));
    let body = |round| {
        let denied = networks(MANY, round);
        json!({ "denied_cidrs": denied }).to_string()
    };
    let bodies = [body(2 * round), body(2 * round + 1)];
    let replace = |body: &str| {
        let answer = agent.api("PUT", "/v1/instances/policed/policy", body);
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    replace(&bodies[0]);
    timed(|| replace(&bodies[1]))
}

fn replace_by_nft(host: &NetNs, round: u32) -> f64 {
    let file = |round| {
        let elements = networks(MANY, round).join(", ");
        format!("flush set ip vms denied\nadd element ip vms denied {{ {elements} }}\n")
    };
    let files = [file(2 * round), file(2 * round + 1)];
    host.feed("nft -f -", &files[0]);
    timed(|| host.feed("nft -f -", &files[1]))
}
