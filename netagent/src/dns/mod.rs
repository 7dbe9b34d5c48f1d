//! The resolver that guests find at their gateway addresses (D-1), and at every address where a list of names steers
//! them to it (D-2): it forwards the queries that the list allows, and opens what the answers lead to before the guest
//! sees them (D-4).
//!
//! It is given sockets in the services namespace, where the source address of a query says who asks, and a directory
//! that reads such an address. Its own sockets, to the upstream servers, are made where it runs: in the host's
//! namespace.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

pub mod answer;
pub mod message;
pub mod places;
pub mod strip;
pub mod upstream;

mod cache;
mod exchange;
mod frames;
mod name;
mod steer;
mod tcp;
mod udp;

use crate::dns::cache::Cache;
use crate::dns::places::{ALL, Counters, Places};
use crate::dns::upstream::Upstreams;
use crate::spec::domain::Domains;

/// Pause where the kernel has no packet or connection to give, for want of memory or descriptors.
const RETRY: Duration = Duration::from_millis(100);
/// How long things may take.
const TIMES: Times = Times {
    patience: Duration::from_millis(400),
    attempt: Duration::from_secs(2),
    whole: Duration::from_secs(6),
    idle: Duration::from_secs(10),
    life: Duration::from_secs(120),
};

/// Knows who is behind the source address of a query.
pub trait Directory: Send + Sync + 'static {
    /// The guest with this address; `None` where it is nobody's, or no longer: nothing is answered then.
    fn client(&self, address: IpAddr) -> Option<Asker>;

    /// Whether a guest never reaches an address, whatever its policy says (P-5): no answer tells it of such a one (D-6).
    fn is_forbidden(&self, asker: &Asker, address: IpAddr) -> bool;
}

/// What an asker may ask for (D-2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Every name.
    All,
    /// No name.
    None,
    /// The names of a list; what they lead to is learned.
    Listed(Arc<Domains>),
    /// Every name; what those of the list lead to is learned, and the others are counted (P-14).
    Audited(Arc<Domains>),
}

/// The start of an instance: its number, and the generation of the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Start {
    /// Number of the instance.
    pub instance: u32,
    /// Generation of its start.
    pub generation: u32,
}

/// Opens what answers lead to (D-4).
pub trait Learner: Send + Sync + 'static {
    /// Opens the addresses that an allowed name led to, for the instance that asked, before it hears of them. A name is
    /// lower case and has no dot at its end.
    ///
    /// # Errors
    /// Where not all of them are open: then the answer is not given.
    fn learn(&self, start: Start, name: &str, addresses: &[(IpAddr, Duration)]) -> io::Result<()>;
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its instance: all its interfaces share what it may take of the resolver (D-8).
    pub start: Start,
    /// The name server that the instance brought; it is asked alone.
    pub upstream: Option<IpAddr>,
    /// What it may ask for.
    pub permission: Permission,
    /// MTU of the interface, bytes: longer answers go by TCP.
    pub mtu: u32,
}

/// Where guests are answered.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Bound to port 53.
    pub udp: Vec<UdpSocket>,
    /// Listening on port 53.
    pub tcp: Vec<TcpListener>,
}

/// The running resolver; it ends where this is dropped, with all that it has begun.
#[derive(Debug)]
#[must_use = "the resolver ends where this is dropped"]
pub struct Server {
    places: Arc<Places>,
    _tasks: JoinSet<()>,
}

/// What every task of the resolver needs.
#[derive(Clone)]
struct Shared {
    directory: Arc<dyn Directory>,
    learner: Arc<dyn Learner>,
    upstreams: Arc<Upstreams>,
    places: Arc<Places>,
    cache: Arc<Cache>,
    times: Times,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// One server to answer, before the next is asked beside it.
    patience: Duration,
    /// One server to answer, or to accept a connection.
    attempt: Duration,
    /// A query to be answered, whatever the number of servers.
    whole: Duration,
    /// A connection without a whole message either way, and one write to it.
    idle: Duration,
    /// A connection.
    life: Duration,
}

/// Answers guests on these sockets. Needs a runtime.
pub fn serve(
    sockets: Sockets,
    directory: Arc<dyn Directory>,
    learner: Arc<dyn Learner>,
    upstreams: Arc<Upstreams>,
) -> Server {
    serve_with(
        sockets,
        Shared {
            directory,
            learner,
            upstreams,
            places: Arc::new(Places::new(ALL)),
            cache: Arc::new(Cache::new(cache::BOUNDS)),
            times: TIMES,
        },
    )
}

fn serve_with(sockets: Sockets, shared: Shared) -> Server {
    let mut tasks = JoinSet::new();
    for socket in sockets.udp {
        tasks.spawn(udp::serve(Arc::new(socket), shared.clone()));
    }
    for listener in sockets.tcp {
        tasks.spawn(tcp::serve(listener, shared.clone()));
    }
    Server {
        places: shared.places,
        _tasks: tasks,
    }
}

impl Server {
    /// What became of the queries of an instance; `None` where it never asked since the agent started.
    #[must_use]
    pub fn counters(&self, start: Start) -> Option<Counters> {
        self.places.counters(start)
    }
}

#[cfg(test)]
mod made;
#[cfg(test)]
mod tests;
