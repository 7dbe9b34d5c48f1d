//! `namespace-guest <namespace> <program> <argument>...`: a guest without a VM. It opens the TAP of an interface as a VMM
//! does, in the network namespace of that path, and runs the program with our input and output in a namespace of its
//! own, where what crosses the TAP comes out of `eth0`. The interface comes as `netagent inspect --json` shows it, in
//! the variable `NA_INTERFACE`. When this process ends, so does the program with all of its children.
#![allow(
    clippy::indexing_slicing,
    reason = "a program of the tests: a panic is how it fails"
)]

use std::path::Path;
use std::process::ExitCode;

use netagent_tests::guest::Nic;
use netagent_tests::netns::NetNs;
use netagent_tests::stack::Stack;
use netagent_tests::tap::Header;

/// Kills what follows with this process, and with it, being the first process of its own, all others.
const TIED: [&str; 5] = ["--pdeathsig", "KILL", "unshare", "--pid", "--kill-child"];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (namespace, program) = words.split_first().expect("a network namespace");
    let interface = std::env::var("NA_INTERFACE").expect("the interface in NA_INTERFACE");
    let interface = serde_json::from_str(&interface).expect("the interface is JSON");
    let host = NetNs::open(Path::new(namespace));
    let stack = Stack::bare(vec![Nic::open(&host, &interface, Header::Vnet)]);
    let mut command = stack.netns.command("setpriv");
    command.args(TIED).arg("--fork").args(program);
    let status = command.status().expect("util-linux is there");
    if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
