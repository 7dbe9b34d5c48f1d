//! Waits for changes of links, addresses and routes.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::MulticastGroup;

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

/// What the kernel says unasked.
pub struct Events {
    /// The connection ends with its last handle.
    _handle: rtnetlink::Handle,
    messages: BoxStream<'static, ()>,
}

impl Events {
    /// Subscribes; its task runs on the current tokio runtime.
    ///
    /// # Errors
    /// Where the kernel gives no socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(NetlinkError::Open)?;
        tokio::spawn(connection);
        // An overrun of the socket is a message too: something changed, and a full look finds what.
        Ok(Self { _handle: handle, messages: messages.map(|_| ()).boxed() })
    }

    /// Waits for a change, and takes every other that has come with it. Events stay in the queue while
    /// nobody waits.
    pub async fn changed(&mut self) {
        if self.messages.next().await.is_none() {
            self.reopen().await;
            return;
        }
        while let Some(Some(())) = futures_util::FutureExt::now_or_never(self.messages.next()) {}
    }

    /// After a gap everything may have changed.
    async fn reopen(&mut self) {
        loop {
            match Self::open() {
                Ok(fresh) => {
                    *self = fresh;
                    return;
                }
                Err(error) => tracing::warn!(%error, "netlink events are lost until the socket is open again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
