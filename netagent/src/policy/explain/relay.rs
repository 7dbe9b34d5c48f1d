//! What a relay makes of the way of a packet: in the order of `relay.rs` of the programs.

use std::net::IpAddr;

use netagent_common::drop::DropReason;
use netagent_common::policy::policy_flag;
use netagent_common::services::port;

use crate::policy::explain::{InForce, Judge, Packet, Refusal, Rule};

/// The relay of the interface by which a packet leaves.
#[derive(Clone, Copy, Debug)]
pub struct ByRelay<'a> {
    /// Name of its interface.
    pub name: &'a str,
    /// Why nothing passes there, where that is so.
    pub down: Option<&'a str>,
    /// Bits of [`policy_flag`] of the interface that has it.
    pub flags: u32,
}

impl ByRelay<'_> {
    /// Whether it has what is asked of the gateway's resolver.
    pub(super) const fn takes_dns(&self) -> bool {
        self.flags & (policy_flag::NAMES | policy_flag::DNS_STEERED) == 0
    }

    /// Why nothing of it passes.
    pub(super) fn down(&self) -> Option<Refusal> {
        let rule = Rule::RelayDown(self.name.to_owned(), self.down?.to_owned());
        Some((DropReason::RelayDown, rule))
    }
}

impl InForce<'_> {
    /// The relay, where that has the guest's queries for names.
    pub(super) fn relay_of_dns(&self) -> Option<&ByRelay<'_>> {
        self.relay.as_ref().filter(|relay| relay.takes_dns())
    }
}

impl Judge<'_> {
    /// What is allowed and goes through a relay passes while that is there.
    pub(super) fn judge_relay(&self, allowed: Rule) -> Result<Rule, Refusal> {
        let down = self.by_relay().and_then(ByRelay::down);
        down.map_or(Ok(allowed), Err)
    }

    /// The relay through which it goes: everything that is not between a guest and its gateway, or the resolver's.
    pub(super) fn by_relay(&self) -> Option<&ByRelay<'_>> {
        let relay = self.in_force.relay.as_ref()?;
        let is_dns = matches!(self.packet, Packet::ToPort(_, port::DNS));
        let asks_dhcp = self.address.is_ipv4() && self.packet.is_udp_to(port::DHCP_SERVER);
        let is_broadcast = matches!(self.address, IpAddr::V4(address) if address.is_broadcast());
        let goes = if self.is_gateway() {
            (is_dns && relay.takes_dns()) || self.host_port().is_some()
        } else {
            let stays = self.is_steered() || self.is_own();
            !(stays || (asks_dhcp && is_broadcast))
        };
        goes.then_some(relay)
    }
}
