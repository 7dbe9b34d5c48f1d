//! The host's side of published ports (N-3): a socket on each holds the port against every other process, and passes
//! on what the programs do not see, which comes from interfaces that are no uplinks and from sockets bound to loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use ipnet::IpNet;
use netagent_common::publish::{Led, LedKey};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

mod datagram;
pub mod owner;
pub mod sockets;
mod tcp;
mod udp;

use crate::policy::Compiled;
use crate::spec::publish::{ExposedPort, HostPort};

/// How many connections and UDP sessions are passed on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// For one instance.
    pub own: usize,
    /// For all together: each takes two descriptors and two buffers.
    pub all: usize,
}

/// Those of the agent.
pub const BOUNDS: Bounds = Bounds {
    own: 1_024,
    all: 4_096,
};

/// Tells the programs that a socket of the agent may reach a guest.
pub trait Leads: Send + Sync + fmt::Debug {
    /// Notes what a socket asked for that leads to a guest.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn lead(&self, key: &LedKey, led: &Led) -> io::Result<()>;
}

/// Sockets on one port of the host: bound, not blocking, and nobody else's as long as they live.
#[derive(Debug, Default)]
pub struct Reserved {
    /// Listening.
    pub tcp: Vec<TcpListener>,
    /// Bound.
    pub udp: Vec<UdpSocket>,
}

/// Why a port cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// A process has it.
    #[error("Port {0} is already in use by another process")]
    InUse(ExposedPort),
    /// The address is another host's.
    #[error(
        "Address {0} cannot be published on: it is not one of this host's; add it with 'ip address add', or name another"
    )]
    NotOurs(IpAddr),
    /// Anything else that the kernel says.
    #[error("Port {port} cannot be taken: {source}")]
    Failed {
        /// The port.
        port: ExposedPort,
        /// What it says.
        source: io::Error,
    },
}

/// Where a published port leads now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aim {
    /// Number of the instance.
    pub instance: u32,
    /// Generation of its interface.
    pub generation: u32,
    /// The guest, for clients of each family; not there where it has no address of that family.
    pub guest_v4: SocketAddr,
    /// As `guest_v4`.
    pub guest_v6: Option<SocketAddr>,
    /// Who may use it; `None` where everybody may.
    pub allow_from: Option<BTreeSet<IpNet>>,
    /// The policy of the instance, whose denied networks may not (P-3).
    pub policy: Option<Arc<Compiled>>,
}

/// The ports of the host that are held, and what passes through them.
#[derive(Debug)]
pub struct Listeners {
    leads: Arc<dyn Leads>,
    held: BTreeMap<HostPort, Listening>,
    bounds: Bounds,
    all: Arc<Semaphore>,
    /// By instance; they go with the last port that uses them.
    places: BTreeMap<u32, Weak<Semaphore>>,
    /// What served ports that were given back, and may still have their sockets open.
    ending: Vec<JoinSet<()>>,
}

#[derive(Debug)]
struct Listening {
    target: watch::Sender<Option<Target>>,
    tasks: JoinSet<()>,
}

/// An aim, and the places of the instance behind it.
#[derive(Clone, Debug)]
struct Target {
    aim: Aim,
    places: Arc<Semaphore>,
}

/// What the tasks of one port share.
#[derive(Clone, Debug)]
struct Shared {
    at: HostPort,
    target: watch::Receiver<Option<Target>>,
    leads: Arc<dyn Leads>,
    all: Arc<Semaphore>,
}

/// A place taken, until it is dropped: one of the instance's and one of all.
#[derive(Debug)]
struct Place {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// A client that may pass, and where to.
#[derive(Debug)]
struct Admitted {
    aim: Aim,
    guest: SocketAddr,
    place: Place,
}

impl Listeners {
    /// None yet.
    #[must_use]
    pub fn new(leads: Arc<dyn Leads>, bounds: Bounds) -> Self {
        Self {
            leads,
            held: BTreeMap::new(),
            bounds,
            all: Arc::new(Semaphore::new(bounds.all)),
            places: BTreeMap::new(),
            ending: Vec::new(),
        }
    }

    /// Whether this port is held.
    #[must_use]
    pub fn has(&self, at: &HostPort) -> bool {
        self.held.contains_key(at)
    }

    /// Whether a port is held that this one cannot be bound beside.
    #[must_use]
    pub fn clash(&self, at: &HostPort) -> bool {
        self.held.keys().any(|held| held.clashes(at))
    }

    /// Holds a port from now on; it leads nowhere until it is [aimed](Self::aim). Needs a tokio runtime.
    ///
    /// # Errors
    /// Where the runtime does not take a socket.
    pub fn hold(&mut self, at: HostPort, reserved: Reserved) -> io::Result<()> {
        let (target, watched) = watch::channel(None);
        let shared = Shared {
            at,
            target: watched,
            leads: Arc::clone(&self.leads),
            all: Arc::clone(&self.all),
        };
        let mut tasks = JoinSet::new();
        for listener in reserved.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(tcp::serve(listener, shared.clone()));
        }
        for socket in reserved.udp {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tasks.spawn(udp::serve(socket, shared.clone()));
        }
        let listening = Listening { target, tasks };
        self.held.insert(at, listening);
        Ok(())
    }

    /// Lets a port lead there. What passes through it and may still do so goes on; the rest ends.
    pub fn aim(&mut self, at: &HostPort, aim: Option<Aim>) {
        let Some(listening) = self.held.get(at) else {
            return;
        };
        let now = listening
            .target
            .borrow()
            .as_ref()
            .map(|one| one.aim.clone());
        if now == aim {
            return;
        }
        let places = &mut self.places;
        places.retain(|_, one| one.strong_count() > 0);
        let target = aim.map(|aim| {
            let known = places.get(&aim.instance).and_then(Weak::upgrade);
            let own = known.unwrap_or_else(|| Arc::new(Semaphore::new(self.bounds.own)));
            places.insert(aim.instance, Arc::downgrade(&own));
            Target { aim, places: own }
        });
        listening.target.send_replace(target);
    }

    /// Gives back every port that is not wanted any more; what passes through them ends. They are free when this is
    /// [settled](Self::settle).
    pub fn retain(&mut self, wanted: impl Fn(&HostPort) -> bool) {
        let unwanted = self.held.extract_if(.., |at, _| !wanted(at));
        self.ending
            .extend(unwanted.map(|(_, listening)| listening.tasks));
    }

    /// Waits until ports that were given back are free.
    pub async fn settle(&mut self) {
        for mut tasks in std::mem::take(&mut self.ending) {
            tasks.shutdown().await;
        }
    }
}

impl Aim {
    /// Where a client of this address is led, where it may pass.
    fn leads(&self, client: IpAddr) -> Option<SocketAddr> {
        let may = |networks: &BTreeSet<IpNet>| networks.iter().any(|one| one.contains(&client));
        // A loopback address is a process of the host, and those are not bound by it elsewhere either.
        let is_refused = !self.allow_from.as_ref().is_none_or(may)
            || self.policy.as_ref().is_some_and(|policy| {
                let entry = policy.entry(client);
                entry.is_none_or(|(_, verdict)| verdict.denies_peers())
            });
        if !client.is_loopback() && is_refused {
            return None;
        }
        match client {
            IpAddr::V4(_) => Some(self.guest_v4),
            IpAddr::V6(_) => self.guest_v6,
        }
    }
}

impl Shared {
    /// A place for this client, where it may pass and one is free.
    fn admit(&self, client: IpAddr) -> Option<Admitted> {
        let Target { aim, places } = self.target.borrow().clone()?;
        let guest = aim.leads(client)?;
        let place = Place {
            _own: places.try_acquire_owned().ok()?,
            _of_all: Arc::clone(&self.all).try_acquire_owned().ok()?,
        };
        Some(Admitted { aim, guest, place })
    }

    /// Resolves when a client that was admitted may no longer pass, or leads elsewhere.
    async fn expelled(&self, client: IpAddr, admitted: (&Aim, SocketAddr)) {
        let (then, guest) = admitted;
        let mut target = self.target.clone();
        let stays = |target: &Option<Target>| {
            target.as_ref().is_some_and(|target| {
                let now = &target.aim;
                let same = (now.instance, now.generation) == (then.instance, then.generation);
                same && now.leads(client) == Some(guest)
            })
        };
        // One whose sender is gone is no longer published.
        drop(target.wait_for(|target| !stays(target)).await);
    }

    /// Lets a socket of the agent reach the guest, before its first packet.
    fn lead(&self, socket: impl AsFd, aim: &Aim, guest: SocketAddr) -> io::Result<()> {
        let key = LedKey {
            cookie: rustix::net::sockopt::socket_cookie(socket)?,
            guest: sixteen(guest.ip()),
            port: guest.port().to_be_bytes(),
            protocol: self.at.protocol.number(),
            reserved: [0; 5],
        };
        let led = Led {
            generation: aim.generation,
            port: self.at.port.to_be_bytes(),
            reserved: [0; 2],
            address: self.at.address.map_or([0; 16], sixteen),
        };
        self.leads.lead(&key, &led)
    }
}

/// An address in sixteen bytes, an IPv4 one in the first four.
fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests;
