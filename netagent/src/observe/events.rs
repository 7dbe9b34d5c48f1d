//! Waits for changes of links, addresses and routes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::MulticastGroup;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::netlink::NetlinkError;

/// Pause before a broken connection is opened again.
const RETRY: Duration = Duration::from_secs(1);

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// What the kernel says unasked: that something changed, not what. However much came while nobody waited, it
/// is one change.
#[derive(Debug)]
pub struct Events {
    changed: Arc<Notify>,
    listener: JoinHandle<()>,
}

impl Events {
    /// Subscribes; its task runs on the current tokio runtime.
    ///
    /// # Errors
    /// Where the kernel gives no socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let changed = Arc::new(Notify::new());
        let subscription = subscribe()?;
        let listener = tokio::spawn(listen(subscription, Arc::clone(&changed)));
        Ok(Self { changed, listener })
    }

    /// Waits for a change. Dropping the future loses none.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// The connection ends with its last handle.
type Subscription = (BoxStream<'static, ()>, rtnetlink::Handle);

fn subscribe() -> Result<Subscription, NetlinkError> {
    let (connection, handle, messages) =
        rtnetlink::new_multicast_connection(&GROUPS).map_err(NetlinkError::Open)?;
    tokio::spawn(connection);
    // An overrun of the socket is a message too: something changed, and a full look finds what.
    Ok((messages.map(|_| ()).boxed(), handle))
}

/// Tells of every message; a connection that broke is opened anew, and in the gap everything may have changed.
async fn listen(mut subscription: Subscription, changed: Arc<Notify>) {
    loop {
        while subscription.0.next().await.is_some() {
            changed.notify_one();
        }
        tracing::warn!("the netlink socket for events broke; it is opened again");
        tokio::time::sleep(RETRY).await;
        match subscribe() {
            Ok(fresh) => subscription = fresh,
            Err(error) => {
                tracing::warn!(%error, "netlink events are lost until the socket is open again")
            }
        }
        changed.notify_one();
    }
}
