//! The servers that guests reach: DHCP, router advertisements, DNS. They work on sockets in a namespace of their own
//! (`apply/services.rs`), and know who asks by the source address that `from_vm` gave the request.

use std::io;
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

mod dhcp;
mod directory;
mod forbidden;
mod router;

pub use directory::{Directory, Guest};
pub use forbidden::{Forbidden, published_for_guests};

use crate::dns::places::Counters;
use crate::dns::upstream::Upstreams;
use crate::dns::{self, Start};
use crate::host::ServiceSockets;

/// The largest datagram that is read whole.
const DATAGRAM_MAX: usize = 65_536;

/// The servers, at work until this is dropped.
#[derive(Debug)]
pub struct Servers {
    _tasks: JoinSet<()>,
    dns: dns::Server,
}

impl Servers {
    /// Starts them on these sockets. Needs a tokio runtime.
    ///
    /// # Errors
    /// Where the runtime takes a socket not.
    pub fn start(
        sockets: ServiceSockets,
        directory: &Arc<Directory>,
        learner: Arc<dyn dns::Learner>,
        upstreams: &Arc<Upstreams>,
    ) -> io::Result<Self> {
        let mut tasks = JoinSet::new();
        let dhcp = UdpSocket::from_std(sockets.dhcp)?;
        tasks.spawn(dhcp::serve(dhcp, Arc::clone(directory)));
        if let Some(router) = sockets.router {
            let router = Arc::new(UdpSocket::from_std(router)?);
            tasks.spawn(router::answer(Arc::clone(&router), Arc::clone(directory)));
            tasks.spawn(router::advertise(router, Arc::clone(directory)));
        }
        let udp = sockets.dns_udp.into_iter().map(UdpSocket::from_std);
        let tcp = sockets.dns_tcp.into_iter().map(TcpListener::from_std);
        let sockets = dns::Sockets {
            udp: udp.collect::<io::Result<_>>()?,
            tcp: tcp.collect::<io::Result<_>>()?,
        };
        let upstreams = Arc::clone(upstreams);
        let dns = dns::serve(sockets, Arc::clone(directory) as _, learner, upstreams);
        Ok(Self { _tasks: tasks, dns })
    }

    /// What became of the queries of an instance since its start, or since the servers began if that is later.
    #[must_use]
    pub fn dns_counters(&self, start: Start) -> Counters {
        self.dns.counters(start).unwrap_or_default()
    }
}
