//! What a guest must set to be the relay of others: it forwards, and takes no offence at packets that come back by
//! the way they went.

use crate::guest::{GuestConfig, GuestInterface};

/// The kernel's settings with their values, in the order in which they are to be set; none where the guest is no relay.
pub(crate) fn settings(guest: &GuestConfig) -> Vec<(String, u8)> {
    let relays: Vec<&GuestInterface> = guest.interfaces.iter().filter(|one| one.relay).collect();
    if relays.is_empty() {
        return Vec::new();
    }
    let devices = || {
        let names = relays.iter().map(|interface| interface.device());
        std::iter::once("all".to_owned()).chain(names)
    };
    let mut settings = vec![("net.ipv4.ip_forward".to_owned(), 1)];
    for setting in ["rp_filter", "send_redirects"] {
        settings.extend(devices().map(|device| (format!("net.ipv4.conf.{device}.{setting}"), 0)));
    }
    let with_v6 = relays.iter().filter(|interface| interface.v6.is_some());
    let with_v6: Vec<String> = with_v6.map(|interface| interface.device()).collect();
    if !with_v6.is_empty() {
        // Who forwards believes router advertisements only where this is said, and said before: else the default route
        // that one brought goes with the first word of forwarding.
        let accepts = |device| (format!("net.ipv6.conf.{device}.accept_ra"), 2);
        settings.extend(with_v6.into_iter().map(accepts));
        settings.push(("net.ipv6.conf.all.forwarding".to_owned(), 1));
    }
    settings
}
