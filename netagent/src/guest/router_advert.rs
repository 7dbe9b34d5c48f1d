//! Router advertisements, RFC 4861 and RFC 8106: what a guest needs to configure its IPv6. Pure (G-1, M-8).

use netagent_common::drop::DropReason;
use netagent_common::net::GATEWAY_MAC;

use super::{GuestInterface, GuestV6};

/// ICMPv6 type of a solicitation.
const SOLICITATION: u8 = 133;
/// ICMPv6 type of an advertisement.
const ADVERTISEMENT: u8 = 134;
/// Length of a solicitation before its options.
const SOLICITATION_LEN: usize = 8;
/// Option: link-layer address of the sender.
const SOURCE_ADDRESS: u8 = 1;
/// Option: a prefix.
const PREFIX: u8 = 3;
/// Option: the MTU.
const MTU: u8 = 5;
/// Option: name servers, RFC 8106 5.1.
const NAMESERVERS: u8 = 25;

/// Hop limit that hosts shall use.
const HOP_LIMIT: u8 = 64;
/// How long the gateway and the name servers hold without another advertisement, s: the most that can be said of a
/// router (RFC 8319), so that the guest keeps its routes while the agent is down.
const LIFETIME_S: u16 = 65_535;
/// How long a prefix holds: without end. The network is the interface's as long as there is one, so a guest that
/// hears nothing for days loses no connection.
const FOREVER: [u8; 4] = [0xff; 4];
/// A prefix for addresses of the guest's own making (A), all of whose traffic goes through the gateway (no L).
const AUTONOMOUS: u8 = 0x40;
/// The prefix length that such addresses need, RFC 4862 5.5.3.
const AUTONOMOUS_LEN: u8 = 64;
/// The least MTU of IPv6.
const MTU_MIN: u32 = 1_280;
/// Name servers in one advertisement: with all else they fit into 1,280 bytes.
const NAMESERVERS_MAX: usize = 64;

/// Why a router solicitation is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Shorter than its fixed part.
    #[error("router solicitation of {len} bytes: it has at least 8")]
    TooShort {
        /// Its length.
        len: usize,
    },
    /// Something else.
    #[error("ICMPv6 type {kind} code {code} is no router solicitation, which is type 133 code 0")]
    NoSolicitation {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// An option of length 0, or longer than the message.
    #[error("option {option} of a router solicitation is empty, or runs over its end")]
    OptionLength {
        /// Type of the option.
        option: u8,
    },
    /// A link-layer address without a network address that it would belong to.
    #[error("router solicitation from :: with a link-layer address")]
    AddressOfNobody,
    /// The link-layer address of another.
    #[error("router solicitation with another link-layer address than the interface's")]
    ForeignAddress,
}

impl Refusal {
    /// What it counts as.
    #[must_use]
    pub const fn reason(&self) -> DropReason {
        match self {
            Self::TooShort { .. }
            | Self::NoSolicitation { .. }
            | Self::OptionLength { .. }
            | Self::AddressOfNobody
            | Self::ForeignAddress => DropReason::MalformedRouterSolicit,
        }
    }
}

/// Whether these bytes, from the ICMPv6 header on, are a solicitation of the guest with this MAC address (RFC 4861
/// 6.1.1). The checksum and the hop limit are looked at before.
///
/// # Errors
///
/// The message breaks a rule.
pub fn check_solicitation(
    body: &[u8],
    source_is_unspecified: bool,
    mac: [u8; 6],
) -> Result<(), Refusal> {
    let too_short = Refusal::TooShort { len: body.len() };
    let Some((&[kind, code, ..], mut options)) = body.split_first_chunk::<SOLICITATION_LEN>()
    else {
        return Err(too_short);
    };
    if kind != SOLICITATION || code != 0 {
        return Err(Refusal::NoSolicitation { kind, code });
    }
    while let Some((&option, after)) = options.split_first() {
        let wrong = Refusal::OptionLength { option };
        let len = after.first().map_or(0, |&units| usize::from(units) * 8);
        let Some((whole, rest)) = options.split_at_checked(len) else {
            return Err(wrong);
        };
        let Some(value) = whole.get(2..) else {
            return Err(wrong);
        };
        if option == SOURCE_ADDRESS {
            if source_is_unspecified {
                return Err(Refusal::AddressOfNobody);
            }
            if value != mac {
                return Err(Refusal::ForeignAddress);
            }
        }
        options = rest;
    }
    Ok(())
}

/// The advertisement for an interface, from the ICMPv6 header on, its checksum left to the kernel; `None` where the
/// interface has no IPv6 or its MTU is less than IPv6's least.
#[must_use]
pub fn advertisement(interface: &GuestInterface) -> Option<Vec<u8>> {
    let v6 = interface.v6.as_ref()?;
    if interface.mtu < MTU_MIN {
        return None;
    }
    let lifetime_s = if v6.gateway.is_some() { LIFETIME_S } else { 0 };
    let mut body = vec![ADVERTISEMENT, 0, 0, 0];
    // Neither M nor O: there is no DHCPv6. Reachable time and retransmission timer are left to the guest.
    body.extend([HOP_LIMIT, 0]);
    body.extend(lifetime_s.to_be_bytes());
    body.extend([0; 8]);

    body.extend([SOURCE_ADDRESS, 1]);
    body.extend(GATEWAY_MAC);
    body.extend([MTU, 1, 0, 0]);
    body.extend(interface.mtu.to_be_bytes());
    add_prefix(&mut body, v6);
    add_nameservers(&mut body, v6);
    Some(body)
}

/// The network, where all of it is the guest's. A single address is not the guest's to make others from.
fn add_prefix(body: &mut Vec<u8>, v6: &GuestV6) {
    if !v6.whole_network || v6.address.prefix_len() != AUTONOMOUS_LEN {
        return;
    }
    body.extend([PREFIX, 4, AUTONOMOUS_LEN, AUTONOMOUS]);
    body.extend(FOREVER);
    body.extend(FOREVER);
    body.extend([0; 4]);
    body.extend(v6.address.network().octets());
}

fn add_nameservers(body: &mut Vec<u8>, v6: &GuestV6) {
    let told = v6.nameservers.iter().take(NAMESERVERS_MAX);
    // In units of 8 bytes: one for the fixed part, two for each address.
    let units = told.clone().fold(1u8, |units, _| units.saturating_add(2));
    if units == 1 {
        return;
    }
    body.extend([NAMESERVERS, units, 0, 0]);
    body.extend(u32::from(LIFETIME_S).to_be_bytes());
    for nameserver in told {
        body.extend(nameserver.octets());
    }
}

#[cfg(test)]
mod tests;
