//! DHCP for a guest, RFC 2131: a server with one reserved address for one client. Pure: bytes in, bytes out (G-1).
//!
//! Nothing is kept. The address is the interface's whether it is asked for or not, so there are no leases to
//! remember, to lose in a crash or to run out of.

use netagent_common::drop::DropReason;

use super::GuestInterface;

mod options;
mod reply;
mod request;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

use reply::Reply;
use request::{Kind, Request};

/// A DHCP answer and whom it is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The message, for UDP from port 67 to port 68.
    pub bytes: Vec<u8>,
    /// To everybody on the link, since the client has no address that it would listen to; otherwise to the
    /// guest's address.
    pub broadcast: bool,
}

/// Why a DHCP message is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It breaks the rules of RFC 2131.
    #[error("malformed DHCP message: {0}")]
    Malformed(#[from] Malformed),
    /// It came, or says it came, through a relay; a guest's link has none.
    #[error("relayed DHCP message: the guest's own interface asks without a relay")]
    Relayed,
    /// It asks for another hardware address, or informs about another address, than the interface's.
    #[error("DHCP message of another client than the interface's")]
    ForeignClient,
    /// It takes the offer of another server.
    #[error("DHCP message to another server than the interface's gateway")]
    ForeignServer,
}

/// Which rule a message breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than the fixed part.
    #[error("{len} bytes do not hold the 240 of the fixed part")]
    TooShort {
        /// Length of the message.
        len: usize,
    },
    /// Not from a client.
    #[error("op is {op}, and a client's is 1")]
    NoRequest {
        /// Its `op`.
        op: u8,
    },
    /// No Ethernet address.
    #[error("no Ethernet address: htype must be 1 and hlen 6, not {len}")]
    Hardware {
        /// Its `hlen`.
        len: u8,
    },
    /// Plain BOOTP, or no DHCP at all.
    #[error("no magic cookie before the options")]
    NoCookie,
    /// An option is longer than its field.
    #[error("option {code} runs over the end of its field")]
    RunsOver {
        /// Its number.
        code: u8,
    },
    /// The list of options does not end.
    #[error("a field of options without option 255 at its end")]
    NoEnd,
    /// An option has a length that it cannot have.
    #[error("option {code} cannot be {len} bytes long")]
    OptionLength {
        /// Its number.
        code: u8,
        /// Its length, all of its parts together.
        len: usize,
    },
    /// Option 52 names no field.
    #[error("option 52 is {value}, and may be 1, 2 or 3")]
    Overload {
        /// Its value.
        value: u8,
    },
    /// No option 53.
    #[error("no option 53, the type of the message")]
    NoMessageType,
    /// Option 53 is nothing that a client sends.
    #[error("type {number} is no client's")]
    MessageType {
        /// Its value.
        number: u8,
    },
    /// It names no address where one is due.
    #[error("neither option 50 nor ciaddr names an address")]
    NoAddress,
    /// It names two.
    #[error("option 50 and ciaddr name different addresses")]
    TwoAddresses,
}

impl Refusal {
    /// What it counts as.
    #[must_use]
    pub const fn reason(&self) -> DropReason {
        match self {
            Self::Malformed(_) | Self::Relayed => DropReason::MalformedDhcp,
            Self::ForeignClient | Self::ForeignServer => DropReason::ForeignDhcp,
        }
    }
}

/// The answer to a message of the interface's guest, whose host name is `hostname`; `Ok(None)` where none is due.
///
/// # Errors
///
/// The message breaks the rules, or is not for this server.
pub fn answer(
    hostname: &str,
    interface: &GuestInterface,
    message: &[u8],
) -> Result<Option<Answer>, Refusal> {
    let request = Request::read(message)?;
    if request.mac != interface.mac {
        return Err(Refusal::ForeignClient);
    }
    let reserved = interface.address.addr();
    let reply = Reply {
        hostname,
        interface,
        request: &request,
    };
    match request.kind {
        Kind::Discover { rapid: false } => Ok(Some(reply.offer())),
        Kind::Discover { rapid: true } => Ok(Some(reply.ack_at_once())),
        Kind::Request {
            server: Some(server),
            ..
        } if server != interface.host => Err(Refusal::ForeignServer),
        Kind::Request { wanted, .. } if wanted != reserved => Ok(Some(reply.nak())),
        Kind::Request { .. } => Ok(Some(reply.ack())),
        Kind::Inform { address } if address != reserved => Err(Refusal::ForeignClient),
        Kind::Inform { .. } => Ok(Some(reply.inform())),
        Kind::Farewell => Ok(None),
    }
}
