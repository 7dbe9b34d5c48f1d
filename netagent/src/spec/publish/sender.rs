//! Who may use a published port: networks, with the texts of P-10.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::spec::publish::{ALLOW_FROM_MAX, PortFault};

/// The networks of a list; never none.
pub(super) fn networks<'a>(
    texts: impl Iterator<Item = &'a str>,
) -> Result<BTreeSet<IpNet>, PortFault> {
    let mut networks = BTreeSet::new();
    for text in texts {
        networks.insert(network(text)?);
        if networks.len() > ALLOW_FROM_MAX {
            return Err(PortFault::Senders);
        }
    }
    if networks.is_empty() {
        return Err(PortFault::NoSender);
    }
    Ok(networks)
}

/// A network, or a single address. What stands behind the prefix is left away.
fn network(text: &str) -> Result<IpNet, PortFault> {
    let malformed = || PortFault::Cidr(text.to_owned());
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok().ok_or_else(malformed)?;
    // A packet never has it: the programs see the IPv4 address.
    if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return Err(malformed());
    }
    let Some(prefix) = prefix else {
        return Ok(IpNet::from(address));
    };
    let plain = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (prefix.len() > 1 && prefix.starts_with('0')) {
        return Err(malformed());
    }
    let too_long = || PortFault::CidrPrefix(prefix.to_owned());
    let length = prefix.parse().ok().ok_or_else(too_long)?;
    let network = IpNet::new(address, length).ok().ok_or_else(too_long)?;
    Ok(network.trunc())
}
