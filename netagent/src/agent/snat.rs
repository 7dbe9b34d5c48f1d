//! The address under which an instance leaves towards the world, where it asked for one (N-8).

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::agent::registry::{Held, Key};
use crate::agent::{Agent, RequestError};
use crate::host::{Host, HostError};
use crate::instance::{Instance, Life};
use crate::plan::{self, interfaces::lacks_address};
use crate::spec::SpecError;

/// How often, and how far apart, the route of an address that was just added is looked for: a second and a half.
const ROUTE_TRIES: u32 = 30;
const ROUTE_PAUSE: Duration = Duration::from_millis(50);

impl<H: Host> Agent<H> {
    /// Why an instance cannot leave under this address. One that was added a moment ago is there, whether the kernel's
    /// news of it were read or not.
    pub(crate) async fn refuse_snat(
        &mut self,
        address: Option<IpAddr>,
    ) -> Result<Option<RequestError>, HostError> {
        let Some(address) = address else {
            return Ok(None);
        };
        if !self.is_on_uplink(address) {
            self.host.observe_host(&mut self.observed).await?;
            self.wait_for_route(address).await?;
            if self.is_on_uplink(address) {
                // Before the instance's first packet.
                self.host_round().await;
                self.host.settle().await;
            }
        }
        let mut never = plan::routes::always_denied();
        never.extend(self.guest_prefixes());
        Ok(if never.iter().any(|prefix| prefix.contains(&address)) {
            Some(SpecError::snat(&address.to_string()).into())
        } else if self.is_on_uplink(address) {
            None
        } else {
            let uplink = self.uplinks.found.values().next();
            let uplink = uplink.cloned().unwrap_or_default();
            Some(RequestError::SnatNotOurs { address, uplink })
        })
    }

    /// The kernel uses an IPv6 address a moment after it shows it: the route comes once nobody else has answered for it.
    async fn wait_for_route(&mut self, address: IpAddr) -> Result<(), HostError> {
        for _ in 0..ROUTE_TRIES {
            if !self.is_on_uplink(address) || !lacks_address(&self.observed, address) {
                break;
            }
            tokio::time::sleep(ROUTE_PAUSE).await;
            self.host.observe_host(&mut self.observed).await?;
        }
        Ok(())
    }

    /// Whether a network holds an address under which an instance leaves, be it the host's at the moment or not: once it is
    /// a guest's, it is the host's no more.
    pub(crate) fn holds_snat(&self, network: IpNet) -> bool {
        let all = self.registry.all();
        let mut own = all.filter_map(|(_, held)| held.instance.snat_address);
        own.any(|address| network.contains(&address))
    }

    fn is_on_uplink(&self, address: IpAddr) -> bool {
        let uplinks = self.uplinks.found.keys();
        let mut links = uplinks.filter_map(|ifindex| self.observed.links.get(ifindex));
        links.any(|link| link.addresses.iter().any(|own| own.addr() == address))
    }

    /// Instances whose address came or went since they were last looked at.
    pub(crate) fn with_other_snat(&self) -> impl Iterator<Item = Key> {
        let changed =
            |(_, held): &(Key, &Held)| self.lacks_snat(&held.instance) != held.trouble.is_some();
        let running = self.registry.all().filter(|(_, held)| {
            held.instance.life == Life::Running && held.instance.snat_address.is_some()
        });
        running.filter(changed).map(|(key, _)| key)
    }

    fn lacks_snat(&self, instance: &Instance) -> bool {
        let address = instance.snat_address;
        address.is_some_and(|address| lacks_address(&self.observed, address))
    }
}

/// What `ip address add` is to be told. A preferred IPv6 address would become that of the host's own connections, and
/// of the other guests' too.
pub(crate) fn to_be_added(address: IpAddr, uplink: &str) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}/32 dev {uplink}"),
        IpAddr::V6(address) => format!("{address}/128 dev {uplink} preferred_lft 0"),
    }
}
