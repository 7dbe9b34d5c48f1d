//! The MTU of an interface (M-7): the one that was asked for, or the uplink's, which is followed.

use std::ops::RangeInclusive;

use crate::agent::create::custom_tap;
use crate::agent::{Agent, RequestError};
use crate::host::Host;
use crate::instance::Interface;
use crate::spec::InterfaceSpec;

/// What a TAP takes: the kernel's bounds, 68 and 65535 without the Ethernet header.
const TAP: RangeInclusive<u32> = 68..=65_521;

impl<H: Host> Agent<H> {
    /// The uplink's MTU is taken as far as a TAP takes it.
    pub(crate) fn mtu_of(&self, interface: &Interface) -> u32 {
        let followed = self.mtu.clamp(*TAP.start(), *TAP.end());
        interface.mtu.unwrap_or(followed)
    }

    /// Why the device cannot have the MTU that is asked for. An existing one says itself what it takes.
    pub(crate) fn refuse_mtu(&self, interface: &InterfaceSpec) -> Option<RequestError> {
        let mtu = interface.mtu?;
        let name = custom_tap(interface);
        let existing = name.and_then(|name| {
            let mut links = self.observed.links.values();
            links.find(|link| link.name == name)
        });
        let range = existing.and_then(|link| link.mtu_range.clone());
        let range = range.unwrap_or(TAP);
        if range.contains(&mtu) {
            return None;
        }
        let device = name.map_or_else(
            || "a TAP device".to_owned(),
            |name| format!("TAP device '{name}'"),
        );
        let (lowest, highest) = (range.start(), range.end());
        let text = format!("Invalid mtu '{mtu}': {device} takes {lowest} to {highest}");
        Some(RequestError::Invalid(text))
    }
}
