//! Waits for changes of links, addresses and routes, and gathers which they were.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the enums are the kernel's, and open"
)]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use netagent_common::services::WAY_INDEX_FIRST;
use netagent_common::vm;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::sys::AsyncSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::host::Changes;
use crate::netlink::NetlinkError;

/// Pause before a broken connection is opened again.
const RETRY: Duration = Duration::from_secs(1);
/// Receive buffer, bytes: room for some thousand messages, those of a burst of new TAPs.
const RECEIVE_BUFFER: usize = 8 << 20;

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// What the kernel says unasked. However much came while nobody waited, it is told at once.
#[derive(Debug)]
pub struct Events {
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    changes: Mutex<Changes>,
    changed: Notify,
}

impl Shared {
    fn add(&self, changes: Changes) {
        if !changes.is_empty() {
            self.lock().add(changes);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// Subscribes; its task runs on the current tokio runtime.
    ///
    /// # Errors
    /// Where the kernel gives no socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let shared = Arc::new(Shared::default());
        let subscription = subscribe()?;
        let listener = tokio::spawn(listen(subscription, Arc::clone(&shared)));
        Ok(Self { shared, listener })
    }

    /// Waits for a change. Dropping the future loses none.
    pub async fn changed(&self) -> Changes {
        loop {
            let changes = std::mem::take(&mut *self.shared.lock());
            if !changes.is_empty() {
                return changes;
            }
            self.shared.changed.notified().await;
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// The connection ends with its last handle.
type Subscription = (BoxStream<'static, Changes>, rtnetlink::Handle);

fn subscribe() -> Result<Subscription, NetlinkError> {
    let (mut connection, handle, messages) =
        rtnetlink::new_multicast_connection(&GROUPS).map_err(NetlinkError::Open)?;
    let socket = connection.socket_mut().socket_mut();
    socket
        .set_rx_buf_sz(RECEIVE_BUFFER)
        .map_err(NetlinkError::Open)?;
    tokio::spawn(connection);
    Ok((messages.map(|(message, _)| what(&message)).boxed(), handle))
}

/// What a message says that changed.
fn what(message: &NetlinkMessage<RouteNetlinkMessage>) -> Changes {
    let inner = match &message.payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        NetlinkPayload::Overrun(_) => {
            return Changes {
                overrun: true,
                ..Changes::default()
            };
        }
        _ => return Changes::default(),
    };
    match inner {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            of_device(link.header.index)
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            of_device(address.header.index)
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            of_device(device_of(route).unwrap_or(0))
        }
        _ => Changes::default(),
    }
}

/// Indices that agents choose for TAPs are above those that the kernel counts up; only the way to the servers is above
/// them.
fn of_device(ifindex: u32) -> Changes {
    let is_tap = (vm::ifindex(0, 0)..WAY_INDEX_FIRST).contains(&ifindex);
    Changes {
        links: [ifindex].into(),
        network: !is_tap,
        overrun: false,
    }
}

fn device_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(ifindex) = attribute {
            Some(*ifindex)
        } else {
            None
        }
    })
}

/// Gathers every message; a connection that broke is opened anew, and in the gap everything may have changed.
async fn listen(mut subscription: Subscription, shared: Arc<Shared>) {
    loop {
        while let Some(changes) = subscription.0.next().await {
            shared.add(changes);
        }
        tracing::warn!("the netlink socket for events broke; it is opened again");
        tokio::time::sleep(RETRY).await;
        match subscribe() {
            Ok(fresh) => subscription = fresh,
            Err(error) => {
                tracing::warn!(%error, "netlink events are lost until the socket is open again");
            }
        }
        shared.add(Changes {
            overrun: true,
            ..Changes::default()
        });
    }
}
