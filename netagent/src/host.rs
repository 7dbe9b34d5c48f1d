//! The border to the machine: what the agent asks of the host. A fake one stands in for it in tests.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use netagent_common::drop::DropReason;
use netagent_common::timeouts::Timeouts;
use netagent_common::vm::Traffic;
use serde::Deserialize;
use uuid::Uuid;

use crate::instance::Before;
use crate::learned::table::Table;
use crate::plan::{Observed, Step};
use crate::publish::{Leads, ReserveError, Reserved};
use crate::spec::publish::HostPort;

/// The machine that the agent works on: it is looked at, and changed one step at a time.
pub trait Host: Send + 'static {
    /// Looks at links, addresses, routes, neighbours, pinned maps and attached programs.
    fn observe(&mut self) -> impl Future<Output = Result<Observed, HostError>> + Send;

    /// Looks at some interfaces alone and corrects what `observed` says of them (S-1).
    fn observe_interfaces(
        &mut self,
        observed: &mut Observed,
        places: &[Place],
    ) -> impl Future<Output = Result<(), HostError>> + Send;

    /// Looks at links, addresses and routes, and corrects what `observed` says of them; maps and programs are
    /// taken to be as they were.
    fn observe_host(
        &mut self,
        observed: &mut Observed,
    ) -> impl Future<Output = Result<(), HostError>> + Send;

    /// How a link is now, so that it can be given back; `None` where there is none of this name.
    fn before(
        &mut self,
        name: &str,
    ) -> impl Future<Output = Result<Option<Before>, HostError>> + Send;

    /// Applies one step. Applying it twice does no harm. An error names the step as it prints itself.
    fn apply(&mut self, step: &Step) -> impl Future<Output = Result<(), HostError>> + Send;

    /// The steps of this round are done: what they share (expedited RCU) is let go, since the whole machine pays for
    /// it. The next step takes it again.
    fn settle(&mut self) -> impl Future<Output = ()> + Send;

    /// Reads the counters of the interface in `slot`; all zero where nothing was counted.
    fn counters(&mut self, slot: u32) -> impl Future<Output = Result<Counters, HostError>> + Send;

    /// Frames that came from every TAP so far, by interface index, those that were dropped too; a super-frame is one.
    fn sent(&mut self) -> impl Future<Output = Result<BTreeMap<u32, u64>, HostError>> + Send;

    /// Waits until links, addresses or routes changed, and says which. The agent drops the future and asks again,
    /// so a change between two calls must not be lost.
    fn changed(&mut self) -> impl Future<Output = Changes> + Send;

    /// Removes every link that agents of this store made, and every pin under the BPF directory. A lent TAP is
    /// freed and stays.
    fn clean(&mut self) -> impl Future<Output = Result<Cleaned, HostError>> + Send;

    /// The sockets that [`Step::ServeGuests`] made, once: they hold the servers' namespace.
    fn take_sockets(&mut self) -> Option<ServiceSockets>;

    /// Takes a port of the host, so that nobody else can. It is held as long as its sockets.
    ///
    /// # Errors
    /// Where somebody has it, or the host has not that address.
    fn reserve(&mut self, at: &HostPort) -> Result<Reserved, ReserveError>;

    /// Who has a port, as `nginx (pid 123)`; `None` where that cannot be seen. It takes a moment.
    fn owner(&mut self, at: &HostPort) -> Option<String>;

    /// Tells the programs which sockets of the agent lead to guests.
    fn leads(&self) -> Arc<dyn Leads>;

    /// Runs one round of the flow collection pass; without a datapath, does nothing. True where it saw every flow.
    fn collect(&mut self) -> impl Future<Output = Result<bool, HostError>> + Send;

    /// The tables of what names led to; `None` where the datapath is not loaded.
    ///
    /// # Errors
    /// Where they cannot be opened.
    fn learned(&mut self) -> Result<Option<Box<dyn Table>>, HostError>;
}

/// Sockets in the servers' namespace: bound, and not blocking.
#[derive(Debug)]
pub struct ServiceSockets {
    /// UDP port 67.
    pub dhcp: UdpSocket,
    /// Raw ICMPv6, for router solicitations and advertisements; `None` where the kernel has no IPv6.
    pub router: Option<UdpSocket>,
    /// UDP port 53, one for each family.
    pub dns_udp: Vec<UdpSocket>,
    /// TCP port 53, one for each family.
    pub dns_tcp: Vec<TcpListener>,
}

/// Where one interface is, or should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the TAP.
    pub tap_name: String,
    /// Its index; 0 where it never had one.
    pub ifindex: u32,
    /// Its slot; `None` where only the name is asked for.
    pub slot: Option<u32>,
}

impl Place {
    /// Whatever has this name.
    #[must_use]
    pub fn named(tap_name: &str) -> Self {
        Self {
            tap_name: tap_name.to_owned(),
            ifindex: 0,
            slot: None,
        }
    }
}

/// What changed on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Interface indices of links that changed, or whose addresses or routes did.
    pub links: BTreeSet<u32>,
    /// Something changed that is not a TAP of ours: routes, the uplink, other links.
    pub network: bool,
    /// Messages were lost: anything may have changed.
    pub overrun: bool,
}

impl Changes {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && !self.network && !self.overrun
    }

    /// Takes in others.
    pub fn add(&mut self, mut others: Self) {
        self.links.append(&mut others.links);
        self.network |= others.network;
        self.overrun |= others.overrun;
    }

    /// Keeps so many links, and hands back the others.
    #[must_use]
    pub fn split_off_links(&mut self, count: usize) -> Self {
        let first = self.links.iter().nth(count).copied();
        let links = first.map_or_else(BTreeSet::new, |first| self.links.split_off(&first));
        Self {
            links,
            ..Self::default()
        }
    }
}

/// What the kernel's own host needs to know from the start.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Directory of the pins, on a BPF file system.
    pub bpf_dir: PathBuf,
    /// Directory of the agent's own files.
    pub state_dir: PathBuf,
    /// Names the links that are the agent's.
    pub store_id: Uuid,
    /// How programs are attached.
    pub attach: Attach,
    /// Whether RCU is expedited while steps are applied (design, decision 15).
    pub expedite_rcu: bool,
    /// Flows of the host, for each family.
    pub flows_max: u32,
    /// Instances of the host.
    pub instances_max: u32,
    /// First port of the NAT range, and the number of ports.
    pub nat_ports: (u16, u16),
    /// External ports by endpoint-independent mappings that one instance may have; 0 for none.
    pub eim_ports: u16,
    /// Whether whoever sends to such a port reaches its guest.
    pub filters_nobody: bool,
    /// Times after which flows are removed.
    pub timeouts: Timeouts,
    /// Mark of redirected frames; never 0.
    pub mark: u32,
}

/// How programs are attached to links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// tcx where the kernel has it, else clsact.
    #[default]
    Auto,
    /// tcx links, from kernel 6.6 on.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// What the programs counted for one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Packets dropped, by reason; reasons that never happened may be absent.
    pub drops: BTreeMap<DropReason, u64>,
    /// Packets that the policy would have dropped and that passed in audit mode, by reason (P-14).
    pub audited: BTreeMap<DropReason, u64>,
    /// Packets and bytes both ways.
    pub traffic: Traffic,
    /// Flows that the interface's instance has open. Read by `Interface::instance`, which is the slot of
    /// the instance's first interface.
    pub open_flows: u64,
}

/// What [`Host::clean`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Names of the links.
    pub links: Vec<String>,
    /// Number of pins.
    pub pins: usize,
}

/// What the host refused.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// An action failed in the kernel.
    #[error("{action}")]
    Failed {
        /// What was tried, with the object's name: `create TAP tap0`.
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The host lacks something that the operator can mend.
    #[error("{what}: {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// How to mend it.
        remedy: String,
    },
}

impl HostError {
    /// An action that failed, with its cause.
    pub fn failed(
        action: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Failed {
            action: action.into(),
            source: source.into(),
        }
    }

    /// Something that the operator can mend, and how.
    pub fn missing(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Missing {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// An error and its causes, on one line.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
pub(crate) mod fake;
