//! What the users of the kernel's own forwarding type in for a guest: forwarding, masquerade, a filter that lets this
//! guest out and answers in, and one published port.

use std::io::Write;
use std::process::Stdio;

use super::host::{GUEST_PORT, GUEST_V4, PUBLISHED};
use super::way::Way;
use netagent_tests::netns::NetNs;
use netagent_tests::world::UPLINK;

/// Runs a command line inside, with something to read.
///
/// # Panics
/// When it fails.
pub fn feed(netns: &NetNs, line: &str, input: &str) {
    let mut words = line.split_whitespace();
    let mut command = netns.command(words.next().expect("a command line"));
    command.args(words).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin
        .write_all(input.as_bytes())
        .expect("the program reads");
    drop(stdin);
    let output = child.wait_with_output().expect("a child of ours");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{line}: {}: {complaint}\n{input}",
        output.status
    );
}

/// Switches forwarding on and types the rules of this way in, if it has any.
pub fn set_up(host: &NetNs, way: Way, tap: &str) {
    host.sysctl("net/ipv4/ip_forward", "1");
    match way {
        Way::Nft => feed(host, "nft -f -", &nft(tap)),
        Way::IptablesNft => feed(host, "iptables-nft-restore", &iptables(tap)),
        Way::IptablesLegacy => feed(host, "iptables-legacy-restore", &iptables(tap)),
        Way::Netagent | Way::Redirect | Way::Route | Way::Bridge | Way::Passt => {}
    }
}

fn nft(tap: &str) -> String {
    format!(
        "table ip nat {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    iifname {UPLINK} tcp dport {PUBLISHED} dnat to {GUEST_V4}:{GUEST_PORT}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr {GUEST_V4} oifname {UPLINK} masquerade
  }}
}}
table ip filter {{
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname {tap} oifname {UPLINK} accept
    oifname {tap} ip daddr {GUEST_V4} tcp dport {GUEST_PORT} accept
  }}
}}
"
    )
}

fn iptables(tap: &str) -> String {
    format!(
        "*nat
-A PREROUTING -i {UPLINK} -p tcp --dport {PUBLISHED} -j DNAT --to-destination {GUEST_V4}:{GUEST_PORT}
-A POSTROUTING -s {GUEST_V4} -o {UPLINK} -j MASQUERADE
COMMIT
*filter
:FORWARD DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i {tap} -o {UPLINK} -j ACCEPT
-A FORWARD -o {tap} -d {GUEST_V4} -p tcp --dport {GUEST_PORT} -j ACCEPT
COMMIT
"
    )
}
