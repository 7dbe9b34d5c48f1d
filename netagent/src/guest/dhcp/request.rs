//! A DHCP request: read once from a guest's bytes into a type that cannot be wrong (RFC 2131 4.3, table 5).

use std::net::Ipv4Addr;

use dhcproto::Decodable as _;
use dhcproto::v4::{Flags, HType, MAGIC, Message, MessageType, Opcode, OptionCode};

use super::options::{HEADER_LEN, Options};
use super::{Malformed, Refusal};

/// Bytes of a datagram that every client takes, RFC 2131 2; option 57 cannot say less.
pub(super) const DATAGRAM_MIN: u16 = 576;

/// A request of a client on this very link.
#[derive(Debug)]
pub(super) struct Request {
    /// Transaction of the client, said back.
    pub(super) xid: u32,
    /// Flags, said back.
    pub(super) flags: Flags,
    /// Hardware address of the client.
    pub(super) mac: [u8; 6],
    /// The address that the client has and answers ARP for.
    pub(super) current: Option<Ipv4Addr>,
    /// What it asks.
    pub(super) kind: Kind,
    /// Its identifier, said back (RFC 6842).
    pub(super) client_id: Option<Vec<u8>>,
    /// Options that it asks for; `None` where it leaves them to the server.
    pub(super) asked: Option<Vec<OptionCode>>,
    /// Longest datagram that it takes.
    pub(super) datagram_max: u16,
}

/// What a client asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Who is there? With `rapid`, the answer may be final (RFC 4039).
    Discover {
        /// Option 80 is there.
        rapid: bool,
    },
    /// This address.
    Request {
        /// Option 50 while selecting or after a reboot, `ciaddr` while renewing or rebinding (RFC 2131 4.3.2).
        /// One address is reserved, so the four differ in nothing else.
        wanted: Ipv4Addr,
        /// The server whose offer is taken: there while selecting, and only then.
        server: Option<Ipv4Addr>,
    },
    /// Everything but the address, which it has.
    Inform {
        /// `ciaddr`.
        address: Ipv4Addr,
    },
    /// It gives the address back, or will not have it. The reservation stays and nobody is answered.
    Farewell,
}

impl Request {
    /// The request in these bytes.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let header = read_header(bytes)?;
        let options = Options::read(bytes)?;
        // A relay is another host, and the guest's link has none: what it would add is a lie about who asks.
        if header.hops() != 0
            || !header.giaddr().is_unspecified()
            || options.has(OptionCode::RelayAgentInformation)
        {
            return Err(Refusal::Relayed);
        }
        let mac = header
            .chaddr()
            .first_chunk::<6>()
            .copied()
            .ok_or(Malformed::Hardware { len: header.hlen() })?;
        let current = Some(header.ciaddr()).filter(|address| !address.is_unspecified());
        let datagram_max = options
            .array(OptionCode::MaxMessageSize)?
            .map_or(DATAGRAM_MIN, u16::from_be_bytes)
            .max(DATAGRAM_MIN);
        Ok(Self {
            xid: header.xid(),
            flags: header.flags(),
            mac,
            current,
            kind: Kind::read(&options, current)?,
            client_id: options.client_id()?,
            asked: options.asked()?,
            datagram_max,
        })
    }

    /// Whether the client wants to be told this option.
    pub(super) fn asks_for(&self, code: OptionCode) -> bool {
        self.asked.as_ref().is_none_or(|list| list.contains(&code))
    }
}

/// The fixed part. dhcproto reads it alone, without options, and does not check the cookie; its `chaddr()` may be
/// called after the check of the length only.
fn read_header(bytes: &[u8]) -> Result<Message, Malformed> {
    let too_short = Malformed::TooShort { len: bytes.len() };
    let Some((fixed, _)) = bytes.split_at_checked(HEADER_LEN) else {
        return Err(too_short);
    };
    if !fixed.ends_with(&MAGIC) {
        return Err(Malformed::NoCookie);
    }
    let Ok(header) = Message::from_bytes(fixed) else {
        return Err(too_short);
    };
    if header.opcode() != Opcode::BootRequest {
        return Err(Malformed::NoRequest {
            op: header.opcode().into(),
        });
    }
    if header.htype() != HType::Eth || header.hlen() != 6 {
        return Err(Malformed::Hardware { len: header.hlen() });
    }
    Ok(header)
}

impl Kind {
    fn read(options: &Options, current: Option<Ipv4Addr>) -> Result<Self, Malformed> {
        let requested = options.address(OptionCode::RequestedIpAddress)?;
        let server = options.address(OptionCode::ServerIdentifier)?;
        let [number] = options
            .array(OptionCode::MessageType)?
            .ok_or(Malformed::NoMessageType)?;
        let kind = MessageType::from(number);
        if kind == MessageType::Discover {
            let rapid = options.array::<0>(OptionCode::RapidCommit)?.is_some();
            return Ok(Self::Discover { rapid });
        }
        if kind == MessageType::Request {
            let wanted = match (requested, current) {
                (Some(one), Some(other)) if one != other => return Err(Malformed::TwoAddresses),
                (Some(wanted), _) | (None, Some(wanted)) => wanted,
                (None, None) => return Err(Malformed::NoAddress),
            };
            return Ok(Self::Request { wanted, server });
        }
        if kind == MessageType::Inform {
            let address = current.ok_or(Malformed::NoAddress)?;
            return Ok(Self::Inform { address });
        }
        if kind == MessageType::Release || kind == MessageType::Decline {
            return Ok(Self::Farewell);
        }
        Err(Malformed::MessageType { number })
    }
}
