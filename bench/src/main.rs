//! `bench [datapath | reverse | gso | flows | full | limit | limit-cost | policy | neighbour | collect | create | start | dhcp | dns | storm | drop-all | relay | all] [--rounds <n>]`: see `cargo xtask bench`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::process::ExitCode;

use netagent_bench::figures::print_machine;
use netagent_bench::{
    catalogue::ALL, collect, create, dhcp, dns, drop_all, full, limit, neighbour, policy, relay,
    session::Session, start, storm,
};

/// Rounds where the command line names none.
const ROUNDS: u32 = 7;

/// A round of a thousand starts takes its time.
const START_ROUNDS_MAX: u32 = 3;

const USAGE: &str = "usage: bench [datapath | reverse | gso | flows | full | limit | limit-cost | policy | neighbour | collect | create | start | dhcp | dns | storm | drop-all | all]... [--rounds <n>]";

const NAMES: [&str; 18] = [
    "datapath",
    "reverse",
    "gso",
    "flows",
    "full",
    "limit",
    "limit-cost",
    "policy",
    "neighbour",
    "collect",
    "create",
    "start",
    "dhcp",
    "dns",
    "storm",
    "drop-all",
    "relay",
    "all",
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut names, mut rounds) = (Vec::new(), ROUNDS);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => match arguments.next().and_then(|number| number.parse().ok()) {
                Some(number @ 1..) => rounds = number,
                Some(0) | None => return refuse("--rounds wants a number"),
            },
            name if NAMES.contains(&name) => names.push(argument),
            "-h" | "--help" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => return refuse(&format!("unknown argument '{other}'")),
        }
    }
    let is_wanted = |name: &str| {
        names.is_empty() || names.iter().any(|wanted| wanted == name || wanted == "all")
    };
    print_machine("before");
    measure_the_agent(&is_wanted, rounds);
    measure_packets(&is_wanted, rounds);
    print_machine("after");
    ExitCode::SUCCESS
}

fn measure_the_agent(is_wanted: &dyn Fn(&str) -> bool, rounds: u32) {
    if is_wanted("collect") {
        collect::run(rounds);
    }
    if is_wanted("create") {
        create::run();
    }
    if is_wanted("start") {
        start::run(rounds.min(START_ROUNDS_MAX));
    }
    if is_wanted("dhcp") {
        dhcp::run(rounds);
    }
    if is_wanted("dns") {
        dns::run(rounds);
    }
    if is_wanted("storm") {
        storm::run(rounds.min(START_ROUNDS_MAX));
    }
}

fn measure_packets(is_wanted: &dyn Fn(&str) -> bool, rounds: u32) {
    let mut session = Session::begin(false, Some(rounds));
    for benchmark in ALL {
        if is_wanted(benchmark.name) {
            (benchmark.run)(&mut session);
        }
    }
    if is_wanted("full") {
        full::run(rounds);
    }
    if is_wanted("limit") {
        limit::run();
    }
    if is_wanted("limit-cost") {
        limit::cost(rounds);
    }
    if is_wanted("policy") {
        policy::run(rounds);
    }
    if is_wanted("neighbour") {
        neighbour::run(rounds);
    }
    if is_wanted("drop-all") {
        drop_all::run(rounds);
    }
    if is_wanted("relay") {
        relay::run(rounds);
        relay::share(rounds);
    }
}

fn refuse(reason: &str) -> ExitCode {
    eprintln!("bench: {reason}\n{USAGE}");
    ExitCode::from(2)
}
