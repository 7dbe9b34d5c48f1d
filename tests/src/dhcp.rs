//! A DHCP client of raw frames (RFC 2131): requests made and answers read by code of our own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use netagent_common::net::GATEWAY_MAC;

use crate::deadline::{Deadline, SOON};
use crate::guest::Nic;
use crate::neighbour::BROADCAST;
use crate::packet::{self, Ends, Packet, hex};

/// Values of option 53.
pub mod kind {
    /// Who serves?
    pub const DISCOVER: u8 = 1;
    /// The server could.
    pub const OFFER: u8 = 2;
    /// The client wants this address.
    pub const REQUEST: u8 = 3;
    /// The client found the address in use.
    pub const DECLINE: u8 = 4;
    /// It is the client's.
    pub const ACK: u8 = 5;
    /// It is not.
    pub const NAK: u8 = 6;
    /// The client gives it back.
    pub const RELEASE: u8 = 7;
    /// The client has an address, and asks for the rest.
    pub const INFORM: u8 = 8;
}

/// Numbers of options.
pub mod option {
    /// Subnet mask.
    pub const MASK: u8 = 1;
    /// Router.
    pub const ROUTER: u8 = 3;
    /// Name servers.
    pub const DNS: u8 = 6;
    /// Host name.
    pub const HOST_NAME: u8 = 12;
    /// MTU of the interface.
    pub const MTU: u8 = 26;
    /// The address that the client wants.
    pub const WANTED: u8 = 50;
    /// Lease time, s.
    pub const LEASE: u8 = 51;
    /// Kind of the message.
    pub const KIND: u8 = 53;
    /// The server's address.
    pub const SERVER: u8 = 54;
    /// Options that the client asks for.
    pub const LIST: u8 = 55;
    /// Time after which the client asks this server again, s.
    pub const RENEWAL: u8 = 58;
    /// Time after which it asks anybody, s.
    pub const REBINDING: u8 = 59;
    /// The client's identity.
    pub const CLIENT: u8 = 61;
    /// Classless routes (RFC 3442).
    pub const ROUTES: u8 = 121;
}

const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
const OPTIONS: usize = 240;
const BROADCAST_FLAG: u16 = 0x8000;

/// What the client asks for, as most clients do.
const WANTED_OPTIONS: [u8; 6] = [
    option::MASK,
    option::ROUTER,
    option::DNS,
    option::HOST_NAME,
    option::MTU,
    option::ROUTES,
];

/// A message of either side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// 1 asks, 2 answers.
    pub op: u8,
    /// Hops over relays.
    pub hops: u8,
    /// Number of the exchange.
    pub xid: u32,
    /// The broadcast flag alone.
    pub flags: u16,
    /// `ciaddr`, `yiaddr`, `siaddr`, `giaddr`.
    pub addresses: [[u8; 4]; 4],
    /// `chaddr`.
    pub mac: [u8; 6],
    /// Options by number.
    pub options: BTreeMap<u8, Vec<u8>>,
}

impl Message {
    /// A question of a client that asks for the usual options.
    #[must_use]
    pub fn question(mac: [u8; 6], kind: u8, xid: u32) -> Self {
        let options = [
            (option::KIND, vec![kind]),
            (option::LIST, WANTED_OPTIONS.to_vec()),
        ];
        Self {
            op: 1,
            xid,
            mac,
            options: options.into(),
            ..Self::default()
        }
    }

    /// With one more option.
    #[must_use]
    pub fn with(mut self, number: u8, value: impl Into<Vec<u8>>) -> Self {
        self.options.insert(number, value.into());
        self
    }

    /// With an option that is an address.
    #[must_use]
    pub fn with_address(self, number: u8, address: Ipv4Addr) -> Self {
        self.with(number, address.octets())
    }

    /// With the client's own address.
    #[must_use]
    pub fn from(mut self, own: Ipv4Addr) -> Self {
        self.addresses[0] = own.octets();
        self
    }

    /// With the wish that the answer goes to everybody.
    #[must_use]
    pub fn broadcast(mut self) -> Self {
        self.flags = BROADCAST_FLAG;
        self
    }

    /// As it stands in a datagram.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.op, 1, 6, self.hops];
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.addresses.as_flattened());
        bytes.extend(self.mac);
        bytes.resize(OPTIONS - COOKIE.len(), 0);
        bytes.extend(COOKIE);
        for (number, value) in &self.options {
            let length = u8::try_from(value.len()).expect("a short option");
            bytes.extend([*number, length]);
            bytes.extend(value);
        }
        bytes.push(255);
        bytes
    }

    /// Reads a datagram, strictly: every byte must be in its place.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let address = |at: usize| bytes.get(at..at + 4)?.try_into().ok();
        let is_ours = bytes.get(1..3)? == [1, 6] && bytes.get(236..OPTIONS)? == COOKIE;
        let mut options = BTreeMap::new();
        let mut rest = bytes.get(OPTIONS..)?;
        while rest.first()? != &255 {
            let (number, length) = (*rest.first()?, usize::from(*rest.get(1)?));
            let value = rest.get(2..2 + length)?;
            if options.insert(number, value.to_vec()).is_some() {
                return None;
            }
            rest = &rest[2 + length..];
        }
        is_ours.then_some(Self {
            op: *bytes.first()?,
            hops: *bytes.get(3)?,
            xid: u32::from_be_bytes(address(4)?),
            flags: word(10)?,
            addresses: [address(12)?, address(16)?, address(20)?, address(24)?],
            mac: bytes.get(28..34)?.try_into().ok()?,
            options,
        })
    }

    /// Option 53; 0 where there is none.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.options
            .get(&option::KIND)
            .map_or(0, |value| if value.len() == 1 { value[0] } else { 0 })
    }

    /// `yiaddr`.
    #[must_use]
    pub fn given(&self) -> Ipv4Addr {
        self.addresses[1].into()
    }

    /// An option that is one address.
    #[must_use]
    pub fn address(&self, number: u8) -> Option<Ipv4Addr> {
        let value: [u8; 4] = self.options.get(&number)?.as_slice().try_into().ok()?;
        Some(value.into())
    }

    /// An option that is a number.
    #[must_use]
    pub fn number(&self, number: u8) -> Option<u32> {
        let value = self.options.get(&number)?;
        Some(
            value
                .iter()
                .fold(0, |sum, byte| sum << 8 | u32::from(*byte)),
        )
    }

    /// An option that is text.
    #[must_use]
    pub fn text(&self, number: u8) -> Option<String> {
        let value = self.options.get(&number)?;
        String::from_utf8(value.clone()).ok()
    }
}

/// An answer with the addresses of its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the frame and the packet.
    pub ends: Ends,
    /// What it says.
    pub message: Message,
    /// Bytes of the message.
    pub length: usize,
}

/// Whom a client asks, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Its own address, unspecified where it has none yet.
    pub src: Ipv4Addr,
    /// Whom it asks.
    pub dst: Ipv4Addr,
}

impl Way {
    /// A client without an address asks everybody.
    pub const NEW: Self = Self {
        src: Ipv4Addr::UNSPECIFIED,
        dst: Ipv4Addr::BROADCAST,
    };
}

/// The client on one interface.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    nic: &'a Nic,
}

impl<'a> Client<'a> {
    /// The guest's own.
    #[must_use]
    pub fn new(nic: &'a Nic) -> Self {
        Self { nic }
    }

    /// A question of this client.
    #[must_use]
    pub fn question(&self, kind: u8, xid: u32) -> Message {
        Message::question(self.nic.mac, kind, xid)
    }

    /// The frame of a message.
    #[must_use]
    pub fn frame(&self, way: Way, message: &[u8]) -> Vec<u8> {
        let dst_mac = if way.dst.is_broadcast() {
            BROADCAST
        } else {
            GATEWAY_MAC
        };
        let ends = Ends {
            src_mac: self.nic.mac,
            dst_mac,
            src: way.src.into(),
            dst: way.dst.into(),
            ttl: 64,
        };
        packet::udp(&ends, (68, 67), message)
    }

    /// Sends bytes to everybody, as a client without an address.
    pub fn send_bytes(&self, message: &[u8]) {
        self.nic.tap.send_bytes(self.frame(Way::NEW, message));
    }

    /// Sends a message.
    pub fn send(&self, way: Way, message: &Message) {
        self.nic
            .tap
            .send_bytes(self.frame(way, &message.to_bytes()));
    }

    /// The next answer, whatever it answers.
    ///
    /// # Panics
    /// When none comes, or it is not whole.
    #[must_use]
    pub fn answer(&self) -> Answer {
        self.nic.tap.receive_where(Deadline::after(SOON), |frame| {
            read_answer(&frame.completed())
        })
    }

    /// Sends a message and takes the next answer, which must be to it.
    ///
    /// # Panics
    /// When it is to another one: what was sent before should not have been answered.
    pub fn ask(&self, way: Way, message: &Message) -> Answer {
        self.send(way, message);
        let answer = self.answer();
        assert_eq!(answer.message.xid, message.xid, "{answer:?}");
        answer
    }

    /// Gets the address as a new client does; the offer and the acknowledgement.
    ///
    /// # Panics
    /// Where it is not given.
    pub fn take(&self, xid: u32) -> (Answer, Answer) {
        let offer = self.ask(Way::NEW, &self.question(kind::DISCOVER, xid));
        assert_eq!(offer.message.kind(), kind::OFFER, "{offer:?}");
        let server = offer.message.address(option::SERVER);
        let request = self
            .question(kind::REQUEST, xid + 1)
            .with_address(option::WANTED, offer.message.given())
            .with_address(option::SERVER, server.expect("an offer says whose it is"));
        let answer = self.ask(Way::NEW, &request);
        assert_eq!(answer.message.kind(), kind::ACK, "{answer:?}");
        (offer, answer)
    }

    /// Checks that nothing that was sent before is answered: the next answer is to this question.
    pub fn check_silence(&self, xid: u32) {
        let answer = self.ask(Way::NEW, &self.question(kind::DISCOVER, xid));
        assert_eq!(answer.message.kind(), kind::OFFER, "{answer:?}");
    }
}

/// The answer in a frame; `None` where it is another packet.
///
/// # Panics
/// Where it comes from port 67 and is not whole.
#[must_use]
pub fn read_answer(bytes: &[u8]) -> Option<Answer> {
    let packet = Packet::parse(bytes)?;
    if packet.protocol != 17 || packet.ports != (67, 68) {
        return None;
    }
    packet::assert_checksums(bytes);
    let message = Message::parse(&packet.payload);
    let message = message.unwrap_or_else(|| panic!("no DHCP message: {}", hex(&packet.payload)));
    assert_eq!(message.op, 2, "{message:?}");
    Some(Answer {
        ends: packet.ends,
        message,
        length: packet.payload.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let message = Message::question([2, 0, 0, 0, 0, 1], kind::INFORM, 7)
            .from(Ipv4Addr::new(10, 0, 0, 2))
            .broadcast()
            .with(option::CLIENT, [1, 2, 3]);
        let bytes = message.to_bytes();
        assert_eq!(Message::parse(&bytes), Some(message));
        assert_eq!(Message::parse(&bytes[..bytes.len() - 1]), None);
    }
}
