//! What a guest reaches of the host itself: its gateway, and listeners at ports that are open to guests.

use netagent_common::drop::DropReason;
use netagent_common::services::port;

use crate::policy::explain::{Judge, Packet, Refusal, Rule, Service};
use crate::spec::publish::ExposedPort;

impl Judge<'_> {
    pub(super) fn judge_gateway(&mut self) -> Result<Rule, Refusal> {
        let service = match self.packet {
            Packet::Echo => Service::Echo,
            Packet::ToPort(_, port::DNS) => {
                self.judge_any()?;
                self.dns_service()
            }
            Packet::ToPort(..) => {
                self.judge_any()?;
                let rule = Rule::Gateway(Service::Nothing);
                let port = self.host_port();
                let port = port.ok_or((DropReason::GatewayClosed, rule))?;
                return self.judge_host_port(port);
            }
        };
        Ok(Rule::Gateway(service))
    }

    /// The port, where it is one of the host that is open to guests. The resolver's stays the resolver's at the gateway,
    /// and a published one is published.
    pub(super) fn host_port(&self) -> Option<ExposedPort> {
        let Packet::ToPort(protocol, port) = self.packet else {
            return None;
        };
        let is_resolvers = port == port::DNS && self.is_gateway();
        let port = ExposedPort { port, protocol };
        let is_open = self.in_force.host_ports.contains(&port);
        // The gateway that the guest was told may be anybody's.
        let is_the_hosts = !self.is_gateway() || self.is_on_tap();
        let is_listeners = !is_resolvers && is_the_hosts && self.in_force.behind.is_none();
        (is_open && is_listeners).then_some(port)
    }

    pub(super) fn judge_host_port(&mut self, port: ExposedPort) -> Result<Rule, Refusal> {
        self.judge_lists()?;
        Ok(Rule::HostPort(port))
    }
}
