//! `ip=` words for the kernel's command line (Documentation/admin-guide/nfs/nfsroot.rst). They know IPv4 alone: IPv6
//! comes by router advertisements, and the MTU by DHCP or from the device. What a relay must set stands behind them as
//! `sysctl.` words (Linux 5.8), which the kernel takes before it starts init.

use std::net::Ipv4Addr;

use crate::guest::format::FormatError;
use crate::guest::{DefaultRoute, GuestConfig, GuestInterface, forwarding};

/// Name servers that one word has room for.
const SERVERS_MAX: usize = 2;

/// One line. The interface with the default route comes last: the kernel itself believes the last word alone, while
/// dracut takes them all.
pub(crate) fn print(guest: &GuestConfig) -> Result<String, FormatError> {
    let (last, first): (Vec<_>, Vec<_>) = guest
        .configured()
        .partition(|interface| interface.route.is_some());
    let words = first.into_iter().chain(last);
    let words: Vec<String> = words
        .map(|interface| word(&guest.hostname, interface))
        .collect::<Result<_, _>>()?;
    let sysctls = forwarding::settings(guest).into_iter();
    let sysctls = sysctls.map(|(name, value)| format!("sysctl.{name}={value}"));
    let words: Vec<String> = words.into_iter().chain(sysctls).collect();
    Ok(words.join(" ") + "\n")
}

/// `ip=<client>:<boot server>:<gateway>:<netmask>:<hostname>:<device>:<autoconf>:<dns0>:<dns1>`
fn word(hostname: &str, interface: &GuestInterface) -> Result<String, FormatError> {
    let route = interface.route.map(|route| gateway(interface, route));
    let gateway = route.transpose()?.map(|gateway| gateway.to_string());
    let mut word = format!(
        "ip={}::{}:{}:{hostname}:{}:off",
        interface.address.addr(),
        gateway.unwrap_or_default(),
        interface.address.netmask(),
        interface.device(),
    );
    for server in interface.nameservers_v4().take(SERVERS_MAX) {
        word.push_str(&format!(":{server}"));
    }
    Ok(word)
}

/// The kernel refuses a gateway outside the network. The host's end forwards just as well, where it lies within.
fn gateway(interface: &GuestInterface, route: DefaultRoute) -> Result<Ipv4Addr, FormatError> {
    let candidates = [route.gateway, interface.host];
    let found = candidates
        .iter()
        .find(|one| interface.address.contains(*one));
    found.copied().ok_or_else(|| FormatError::GatewayOffLink {
        device: interface.device(),
        gateway: route.gateway,
        address: interface.address,
    })
}
