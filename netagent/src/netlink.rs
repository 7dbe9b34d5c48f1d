//! One connection to the kernel's rtnetlink: a dump, a change, and errors by number.

use futures_util::StreamExt;
use nix::errno::Errno;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;

/// Times that a dump is taken anew because the kernel's list changed meanwhile.
const DUMP_TRIES: u32 = 16;

/// What the kernel answered instead of what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened.
    #[error("open a netlink socket")]
    Open(#[source] std::io::Error),
    /// The connection's task has ended.
    #[error("the netlink connection is closed")]
    Closed(#[source] rtnetlink::Error),
    /// The kernel refused the request.
    #[error(transparent)]
    Refused(Errno),
    /// The list changed under every one of many dumps.
    #[error("the kernel's list changed during each of {DUMP_TRIES} dumps")]
    Unsteady,
}

impl NetlinkError {
    /// Whether the kernel refused with this number.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        matches!(self, Self::Refused(refused) if *refused == errno)
    }
}

/// A connection, kept open. It belongs to the network namespace in which it was opened.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens a connection; its task runs on the current tokio runtime until the last clone is dropped.
    ///
    /// # Errors
    /// Where the kernel gives no socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Opens a connection on which the kernel heeds what a dump is limited to (`NETLINK_GET_STRICT_CHK`, kernel 4.20).
    ///
    /// # Errors
    /// Where the kernel gives no socket.
    pub fn open_strict() -> Result<Self, NetlinkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(NetlinkError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Every entry that the kernel has of what `question` asks for.
    ///
    /// # Errors
    /// Where the kernel refuses, or its list never holds still.
    pub async fn dump(
        &self,
        question: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            let (answers, steady) = self.exchange(question.clone(), NLM_F_DUMP).await?;
            if steady {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Unsteady)
    }

    /// The one entry that `question` names.
    ///
    /// # Errors
    /// Where the kernel refuses: `ENODEV`, `ENOENT` and others.
    pub async fn get(
        &self,
        question: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        // The qdiscs' part of the kernel answers the one who asks only where an echo is wanted.
        let (answers, _) = self.exchange(question, NLM_F_ACK | NLM_F_ECHO).await?;
        Ok(answers.into_iter().next())
    }

    /// Changes something; `flags` are those of the request, `NLM_F_CREATE` and the like.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_ACK | flags).await.map(|_| ())
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut stream = self
            .handle
            .clone()
            .request(request)
            .map_err(NetlinkError::Closed)?;
        let mut answers = Vec::new();
        let mut steady = true;
        while let Some(answer) = stream.next().await {
            steady &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(NetlinkError::Refused(Errno::from_raw(
                        error.raw_code().abs(),
                    )));
                }
                // An acknowledgement, the end of a dump, or a padding message.
                NetlinkPayload::Error(_)
                | NetlinkPayload::Done(_)
                | NetlinkPayload::Noop
                | NetlinkPayload::Overrun(_) => {}
                // The enum is open; a kind that the crate learns later carries no answer of ours.
                _ => {}
            }
        }
        Ok((answers, steady))
    }
}
