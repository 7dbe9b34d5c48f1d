//! The ways by which a guest is connected.

use crate::peers::Firewall;

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// netagent, with NAT and every check.
    Netagent,
    /// A tcx program of four instructions at each end that redirects to the other.
    Redirect,
    /// The kernel's forwarding, without NAT.
    Route,
    /// nftables: masquerade and a forward filter.
    Nft,
    /// iptables on nftables: the same rules.
    IptablesNft,
    /// iptables as it was: the same rules.
    IptablesLegacy,
    /// TAP and uplink as ports of a bridge; the guest has an address of the uplink's network.
    Bridge,
    /// passt on a stream socket: connections of its own in place of the guest's.
    Passt,
}

impl Way {
    /// All of them, in the order in which a round measures them.
    pub const ALL: [Self; 8] = [
        Self::Netagent,
        Self::Redirect,
        Self::Route,
        Self::Nft,
        Self::IptablesNft,
        Self::IptablesLegacy,
        Self::Bridge,
        Self::Passt,
    ];

    /// As it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Netagent => "netagent",
            Self::Redirect => "tcx redirect",
            Self::Route => "kernel route",
            Self::Nft => "nft masquerade",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Bridge => "linux bridge",
            Self::Passt => "passt",
        }
    }

    /// Whether the world sees the host's address in place of the guest's.
    #[must_use]
    pub const fn has_nat(self) -> bool {
        match self {
            Self::Netagent | Self::Nft | Self::IptablesNft | Self::IptablesLegacy | Self::Passt => {
                true
            }
            Self::Redirect | Self::Route | Self::Bridge => false,
        }
    }

    /// Who is told rules, where there are any.
    pub(crate) const fn firewall(self) -> Option<Firewall> {
        match self {
            Self::Nft => Some(Firewall::Nft),
            Self::IptablesNft => Some(Firewall::IptablesNft),
            Self::IptablesLegacy => Some(Firewall::IptablesLegacy),
            Self::Netagent | Self::Redirect | Self::Route | Self::Bridge | Self::Passt => None,
        }
    }

    /// Whether the guest's network is the uplink's.
    #[must_use]
    pub const fn is_on_link(self) -> bool {
        matches!(self, Self::Redirect | Self::Bridge)
    }

    /// The program without which there is no such way.
    #[must_use]
    pub const fn program(self) -> Option<&'static str> {
        match self {
            Self::Netagent | Self::Redirect | Self::Route | Self::Bridge => None,
            Self::Nft => Some("nft"),
            Self::IptablesNft => Some("iptables-nft-restore"),
            Self::IptablesLegacy => Some("iptables-legacy-restore"),
            Self::Passt => Some("passt"),
        }
    }

    /// Whether this machine has what it needs.
    #[must_use]
    pub fn is_here(self) -> bool {
        self.program().is_none_or(|program| {
            ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"]
                .iter()
                .any(|directory| std::path::Path::new(directory).join(program).exists())
        })
    }
}
