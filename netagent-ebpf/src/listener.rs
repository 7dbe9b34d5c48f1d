//! Listeners of the host that the configuration opens to guests (P-7, `policy.allow_host_ports`), at their gateway and at
//! every address of the host. What is sent there is the host's own, and no address changes.

use netagent_common::drop::DropReason;
use netagent_common::flow::FlowKey;
use netagent_common::publish::HostPortKey;
use netagent_common::services::port;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::{conntrack, maps, policy, publish};

/// Whether the guest may open a flow to a listener of the host: a function of its own beside
/// [`crate::opening::provide`]'s others. Its policy allowed it to open something.
///
/// # Errors
/// Why not.
#[inline(never)]
pub fn judge_opening<A: Family>(interface: &Interface, key: &FlowKey<A>) -> Result<(), DropReason> {
    // Answers to any other address would go astray. The gateway that the guest was told may be anybody's.
    let is_answered = if A::is_on_tap(interface, key.remote) {
        A::guest(interface) == Some(key.guest)
    } else {
        conntrack::is_the_hosts(key.remote) && A::is_routed(interface, key.guest)
    };
    if !is_answered {
        return Err(closed(interface, key));
    }
    judge(interface, key)
}

/// Whether the port is open to guests, nothing is published there, and the lists of the instance say nothing against the
/// address as it is written (P-3).
///
/// # Errors
/// Why not.
#[inline(always)]
pub fn judge<A: Family>(interface: &Interface, key: &FlowKey<A>) -> Result<(), DropReason> {
    let host_port = HostPortKey {
        port: key.remote_port,
        protocol: key.protocol as u8,
        reserved: 0,
    };
    let asked = (key.remote, key.remote_port);
    // At the gateway names are the resolver's.
    if A::is_gateway(interface, key.remote) && key.remote_port == port::DNS.to_be_bytes() {
        return Err(closed(interface, key));
    }
    if !maps::is_host_port(&host_port) || publish::find(asked, key.protocol as u8).is_some() {
        return Err(closed(interface, key));
    }
    policy::judge(interface, key)
}

/// What the guest is told where no listener is open to it.
#[inline(always)]
pub fn closed<A: Family>(interface: &Interface, key: &FlowKey<A>) -> DropReason {
    if A::is_gateway(interface, key.remote) {
        DropReason::GatewayClosed
    } else {
        DropReason::HostAddress
    }
}
