//! The replies of the server, RFC 2131 4.3 table 3: what is always said, and what is said where it is asked for and
//! fits.

use std::net::Ipv4Addr;

use dhcproto::Encodable;
use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode};
use ipnet::Ipv4Net;

use super::Answer;
use super::options::HEADER_LEN;
use super::request::{DATAGRAM_MIN, Request};
use crate::guest::{DefaultRoute, GuestInterface};

/// How long the guest may use its address without an answer, s. Long: an agent that is down for a while takes no
/// address away, and nobody else waits for it.
const LEASE_S: u32 = 86_400;
/// When it asks for more time, s (T1). Short: a changed MTU or name server arrives within the hour.
const RENEW_S: u32 = 3_600;
/// When it asks everybody, s (T2): 7/8 of the lease, as RFC 2131 4.4.5 has it.
const REBIND_S: u32 = 75_600;
/// The least length of a message: old clients drop what is shorter than BOOTP's (RFC 1542 2.1).
const MESSAGE_MIN: usize = 300;
/// IPv4 and UDP headers of the datagram.
const HEADERS_LEN: u16 = 28;
/// The least MTU that can be told, RFC 2132 5.1.
const MTU_MIN: u16 = 68;
/// What a guest takes the MTU of Ethernet to be as long as nobody tells it.
const MTU_ASSUMED: u16 = 1_500;

/// A reply in the making.
#[derive(Clone, Copy)]
pub(super) struct Reply<'a> {
    pub(super) hostname: &'a str,
    pub(super) interface: &'a GuestInterface,
    pub(super) request: &'a Request,
}

impl Reply<'_> {
    /// The address is there to be asked for.
    pub(super) fn offer(self) -> Answer {
        let mut message = self.message(MessageType::Offer);
        message.set_yiaddr(self.interface.address.addr());
        self.finish(message, &[lease(), self.configuration()].concat())
    }

    /// The address is the client's.
    pub(super) fn ack(self) -> Answer {
        let mut message = self.message(MessageType::Ack);
        message.set_yiaddr(self.interface.address.addr());
        message.set_ciaddr(self.request.current.unwrap_or(Ipv4Addr::UNSPECIFIED));
        self.finish(message, &[lease(), self.configuration()].concat())
    }

    /// The address is the client's without another word (RFC 4039).
    pub(super) fn ack_at_once(self) -> Answer {
        let mut message = self.message(MessageType::Ack);
        message.set_yiaddr(self.interface.address.addr());
        message.opts_mut().insert(DhcpOption::RapidCommit);
        self.finish(message, &[lease(), self.configuration()].concat())
    }

    /// The configuration of a client that has its address from elsewhere: no address, no times (RFC 2131 4.3.5).
    pub(super) fn inform(self) -> Answer {
        let mut message = self.message(MessageType::Ack);
        message.set_ciaddr(self.request.current.unwrap_or(Ipv4Addr::UNSPECIFIED));
        self.finish(message, &self.configuration())
    }

    /// The client must not have the address that it asks for. Always to everybody: it may listen to no address of
    /// this network (RFC 2131 4.1).
    pub(super) fn nak(self) -> Answer {
        let message = self.message(MessageType::Nak);
        let why = DhcpOption::Message("another address is reserved for this interface".into());
        let mut answer = self.finish(message, &[why]);
        answer.broadcast = true;
        answer
    }

    /// What every reply has.
    fn message(self, kind: MessageType) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let request = self.request;
        let mut message =
            Message::new_with_id(request.xid, none, none, none, none, &self.interface.mac);
        message
            .set_opcode(Opcode::BootReply)
            .set_htype(HType::Eth)
            .set_flags(request.flags);
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(self.interface.host));
        if let Some(id) = &request.client_id {
            options.insert(DhcpOption::ClientIdentifier(id.clone()));
        }
        message
    }

    /// The configuration, the most important first: what does not fit is left out from the end.
    fn configuration(self) -> Vec<DhcpOption> {
        let interface = self.interface;
        let asks_for = |code| self.request.asks_for(code);
        // Unasked too: without its mask an address is of no use.
        let mut options = vec![DhcpOption::SubnetMask(interface.address.netmask())];
        if let Some(route) = interface.route {
            if asks_for(OptionCode::Router) {
                options.push(DhcpOption::Router(vec![route.gateway]));
            }
            // A client that asks for routers only may understand it all the same, as udhcpc does.
            if route.on_link
                && (asks_for(OptionCode::ClasslessStaticRoute) || asks_for(OptionCode::Router))
            {
                options.push(DhcpOption::ClasslessStaticRoute(classless_routes(route)));
            }
        }
        let mtu = u16::try_from(interface.mtu)
            .unwrap_or(u16::MAX)
            .max(MTU_MIN);
        // Unasked where the guest would assume another: its large packets would not arrive.
        if mtu != MTU_ASSUMED || asks_for(OptionCode::InterfaceMtu) {
            options.push(DhcpOption::InterfaceMtu(mtu));
        }
        if !interface.nameservers.is_empty() && asks_for(OptionCode::DomainNameServer) {
            let nameservers = interface.nameservers.clone();
            options.push(DhcpOption::DomainNameServer(nameservers));
        }
        if !self.hostname.is_empty() && asks_for(OptionCode::Hostname) {
            options.push(DhcpOption::Hostname(self.hostname.to_owned()));
        }
        options
    }

    /// The message with those of the options that fit, padded.
    fn finish(self, mut message: Message, options: &[DhcpOption]) -> Answer {
        let mut room = self.length_max().saturating_sub(encode(&message).len());
        for option in options {
            let len = encode(option).len();
            if len <= room {
                room -= len;
                message.opts_mut().insert(option.clone());
            }
        }
        let mut bytes = encode(&message);
        bytes.resize(bytes.len().max(MESSAGE_MIN), 0);
        let client_listens = self.request.current.is_some() || !self.request.flags.broadcast();
        Answer {
            bytes,
            broadcast: !client_listens,
        }
    }

    /// Longest message: what the client takes and what the link carries in one packet. Every host takes 576 bytes
    /// whatever it says (RFC 2131 2), and before it is configured also where its MTU shall become less.
    fn length_max(self) -> usize {
        let mtu = u16::try_from(self.interface.mtu).unwrap_or(u16::MAX);
        let datagram = self.request.datagram_max.min(mtu).max(DATAGRAM_MIN);
        usize::from(datagram - HEADERS_LEN)
    }
}

/// What every reply holds at most besides the configuration: type, server, client identifier, rapid commit, end.
const FIXED_MAX: usize = HEADER_LEN + 3 + 6 + (2 + 255) + 2 + 1;
/// The times of the lease and the mask.
const LEASE_LEN: usize = 3 * 6 + 6;
const _: () = assert!(
    FIXED_MAX + LEASE_LEN <= (DATAGRAM_MIN - HEADERS_LEN) as usize,
    "an address fits whatever identifier the client has"
);

/// The times of the lease: with every address, asked for or not.
fn lease() -> Vec<DhcpOption> {
    vec![
        DhcpOption::AddressLeaseTime(LEASE_S),
        DhcpOption::Renewal(RENEW_S),
        DhcpOption::Rebinding(REBIND_S),
    ]
}

/// RFC 3442: the gateway is on the link itself, and everything else behind it.
fn classless_routes(route: DefaultRoute) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let everything = Ipv4Net::default();
    vec![
        (Ipv4Net::from(route.gateway), Ipv4Addr::UNSPECIFIED),
        (everything, route.gateway),
    ]
}

fn encode(part: &impl Encodable) -> Vec<u8> {
    part.to_vec().expect(
        "memory takes all bytes, and neither names nor sname and file, which can fail, are written",
    )
}
