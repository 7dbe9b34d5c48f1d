//! Rules of each virtual machine, one at a time and many at once.

use netagent_tests::netns::NetNs;
use netagent_tests::world::UPLINK;

use super::vm::Vm;

/// Tables and chains of nftables that the rules of each go into.
pub(super) const NFT_CHAINS: &str = "table ip guests {
  chain postrouting { type nat hook postrouting priority srcnat; policy accept; }
  chain forward { type filter hook forward priority filter; policy accept; }
}
";

/// As Firecracker's guide adds them: chain, and rule.
pub(super) fn nft(vm: &Vm) -> [String; 3] {
    let Vm { tap, v4, .. } = vm;
    [
        format!("add rule ip guests postrouting ip saddr {v4} oifname {UPLINK} counter masquerade"),
        format!("add rule ip guests forward iifname {tap} oifname {UPLINK} accept"),
        format!(
            "add rule ip guests forward iifname {UPLINK} oifname {tap} ct state established,related accept"
        ),
    ]
}

/// What vmsan has the host do for each: table, and rule.
pub(super) fn iptables(vm: &Vm) -> [(&'static str, String); 5] {
    let Vm { tap, v4, .. } = vm;
    [
        ("filter", format!("-I OUTPUT 1 -d {v4} -j ACCEPT")),
        ("filter", format!("-I INPUT 1 -s {v4} -j ACCEPT")),
        (
            "nat",
            format!("-A POSTROUTING -s {v4}/30 -o {UPLINK} -j MASQUERADE"),
        ),
        (
            "filter",
            format!("-A FORWARD -i {tap} -o {UPLINK} -s {v4}/30 -j ACCEPT"),
        ),
        (
            "filter",
            format!(
                "-A FORWARD -i {UPLINK} -o {tap} -d {v4}/30 -m state --state RELATED,ESTABLISHED -j ACCEPT"
            ),
        ),
    ]
}

/// All of nftables at once.
pub(super) fn load_nft(host: &NetNs, vms: &[Vm]) {
    let lines: Vec<String> = vms.iter().flat_map(nft).collect();
    host.feed("nft -f -", &(lines.join("\n") + "\n"));
}

/// All of iptables at once, beside those that are there.
pub(super) fn load_iptables(host: &NetNs, variant: &str, vms: &[Vm]) {
    let mut text = String::new();
    for table in ["nat", "filter"] {
        text += &format!("*{table}\n");
        for (of, rule) in vms.iter().flat_map(iptables) {
            if of == table {
                text += &rule;
                text += "\n";
            }
        }
        text += "COMMIT\n";
    }
    host.feed(&format!("iptables-{variant}-restore --noflush"), &text);
}
