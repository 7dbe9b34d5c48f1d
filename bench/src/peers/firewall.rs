//! Rules of a host that forwards for guests, as nftables and as iptables are told them.

use std::net::SocketAddr;

use netagent_tests::netns::NetNs;

/// Who is told the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firewall {
    /// nftables.
    Nft,
    /// iptables as nftables carries it.
    IptablesNft,
    /// iptables as it was.
    IptablesLegacy,
}

/// What holds of a packet.
#[derive(Clone, Debug)]
pub(crate) enum Match {
    /// It came in by this device.
    From(&'static str),
    /// It leaves by this device.
    To(&'static str),
    /// Its source is this address, or in this network.
    Source(String),
    /// Its destination is this address, or in this network.
    Destination(String),
    /// Its protocol is this one, and it is for this port.
    Port(&'static str, u16),
}

/// The rules of one family: of each, all matches hold.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) is_v4: bool,
    /// What connections are not tracked of.
    pub(crate) untracked: Vec<Vec<Match>>,
    /// What goes to a guest, and where there.
    pub(crate) published: Vec<(Vec<Match>, SocketAddr)>,
    /// What leaves under the address of the device.
    pub(crate) masqueraded: Vec<Vec<Match>>,
    /// What is forwarded, after what belongs to a connection.
    pub(crate) accepted: Vec<Vec<Match>>,
    /// Whether nothing else is.
    pub(crate) is_closed: bool,
}

impl Rules {
    /// None, but that nothing is forwarded without a connection.
    pub(crate) const fn closed() -> Self {
        Self {
            is_v4: true,
            untracked: Vec::new(),
            published: Vec::new(),
            masqueraded: Vec::new(),
            accepted: Vec::new(),
            is_closed: true,
        }
    }

    fn has_nat(&self) -> bool {
        !(self.published.is_empty() && self.masqueraded.is_empty())
    }

    fn nft(&self) -> String {
        let family = if self.is_v4 { "ip" } else { "ip6" };
        let rule = |matches: &[Match], verdict: &str| {
            let words = matches.iter().map(|one| one.nft(family));
            words.collect::<Vec<_>>().join(" ") + " " + verdict
        };
        let policy = if self.is_closed { "drop" } else { "accept" };
        let forward = format!("filter hook forward priority filter; policy {policy};");
        let mut text = format!("table {family} guests {{\n");
        let mut chain = |name: &str, kind: &str, rules: Vec<String>| {
            let rules = rules.join("\n    ");
            text += &format!("  chain {name} {{\n    type {kind}\n    {rules}\n  }}\n");
        };
        let all = |of: &[Vec<Match>], verdict| -> Vec<String> {
            of.iter().map(|matches| rule(matches, verdict)).collect()
        };
        if !self.untracked.is_empty() {
            let kind = "filter hook prerouting priority raw; policy accept;";
            chain("untracked", kind, all(&self.untracked, "notrack"));
        }
        if self.has_nat() {
            let published = self.published.iter();
            let published = published.map(|(of, to)| rule(of, &format!("dnat to {to}")));
            let kind = "nat hook prerouting priority dstnat; policy accept;";
            chain("prerouting", kind, published.collect());
            let kind = "nat hook postrouting priority srcnat; policy accept;";
            chain("postrouting", kind, all(&self.masqueraded, "masquerade"));
        }
        let mut accepted = all(&self.accepted, "accept");
        accepted.insert(0, "ct state established,related accept".to_owned());
        chain("forward", &forward, accepted);
        text + "}\n"
    }

    fn iptables(&self) -> String {
        let rule = |chain: &str, matches: &[Match], verdict: &str| {
            let words: Vec<String> = matches.iter().map(Match::iptables).collect();
            format!("-A {chain} {} -j {verdict}\n", words.join(" "))
        };
        let mut text = String::new();
        if !self.untracked.is_empty() {
            text += "*raw\n";
            for matches in &self.untracked {
                text += &rule("PREROUTING", matches, "CT --notrack");
            }
            text += "COMMIT\n";
        }
        if self.has_nat() {
            text += "*nat\n";
            for (matches, to) in &self.published {
                let verdict = format!("DNAT --to-destination {to}");
                text += &rule("PREROUTING", matches, &verdict);
            }
            for matches in &self.masqueraded {
                text += &rule("POSTROUTING", matches, "MASQUERADE");
            }
            text += "COMMIT\n";
        }
        let policy = if self.is_closed { "DROP" } else { "ACCEPT" };
        text += &format!("*filter\n:FORWARD {policy}\n");
        text += "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n";
        for matches in &self.accepted {
            text += &rule("FORWARD", matches, "ACCEPT");
        }
        text + "COMMIT\n"
    }
}

impl Match {
    fn nft(&self, family: &str) -> String {
        match self {
            Self::From(device) => format!("iifname {device}"),
            Self::To(device) => format!("oifname {device}"),
            Self::Source(network) => format!("{family} saddr {network}"),
            Self::Destination(network) => format!("{family} daddr {network}"),
            Self::Port(protocol, port) => format!("{protocol} dport {port}"),
        }
    }

    fn iptables(&self) -> String {
        match self {
            Self::From(device) => format!("-i {device}"),
            Self::To(device) => format!("-o {device}"),
            Self::Source(network) => format!("-s {network}"),
            Self::Destination(network) => format!("-d {network}"),
            Self::Port(protocol, port) => format!("-p {protocol} --dport {port}"),
        }
    }
}

impl Firewall {
    /// Types the rules in.
    pub(crate) fn load(self, host: &NetNs, families: &[Rules]) {
        let variant = match self {
            Self::Nft => {
                let text: String = families.iter().map(Rules::nft).collect();
                return host.feed("nft -f -", &text);
            }
            Self::IptablesNft => "nft",
            Self::IptablesLegacy => "legacy",
        };
        for rules in families {
            let program = if rules.is_v4 { "iptables" } else { "ip6tables" };
            host.feed(&format!("{program}-{variant}-restore"), &rules.iptables());
        }
    }
}
