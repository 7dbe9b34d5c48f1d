//! Who may use a published port: networks, with the texts of P-10.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::spec::cidr;
use crate::spec::publish::{ALLOW_FROM_MAX, PortFault};

/// The networks of a list; never none.
pub(super) fn networks<'a>(
    texts: impl Iterator<Item = &'a str>,
) -> Result<BTreeSet<IpNet>, PortFault> {
    let mut networks = BTreeSet::new();
    for text in texts {
        networks.insert(cidr::network_or_address(text)?);
        if networks.len() > ALLOW_FROM_MAX {
            return Err(PortFault::Senders);
        }
    }
    if networks.is_empty() {
        return Err(PortFault::NoSender);
    }
    Ok(networks)
}
