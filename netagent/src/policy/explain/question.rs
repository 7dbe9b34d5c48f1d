//! What is asked, parsed once: a name, or an address and what is sent there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use netagent_common::net::protocol;

use crate::spec::domain::Domain;
use crate::spec::publish::PortProtocol;

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A packet.
    Packet(Question),
    /// A name that the guest asks for: lower case, without a dot at its end.
    Name(String),
}

/// What a guest would send, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Address of the other end.
    pub address: IpAddr,
    /// What is sent.
    pub packet: Packet,
}

/// What would open a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// An echo request: what is asked where no port is named.
    Echo,
    /// To a port.
    ToPort(PortProtocol, u16),
}

/// What is wrong with a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Nothing that an address or a name could be.
    #[error(
        "'{0}' is no IP address and no name: use 192.0.2.1, 192.0.2.1:443, 2001:db8::1, [2001:db8::1]:443 or example.org"
    )]
    Address(String),
    /// A name, and what is sent.
    #[error(
        "'{0}' is a name, which has neither port nor protocol: ask for the name alone, and then for an address that it leads to"
    )]
    PacketOfName(String),
    /// Port 0, above 65535, or no number.
    #[error("'{0}' is no port: use 1 to 65535")]
    Port(String),
    /// A port behind the address, and another one.
    #[error("the port is named twice: once behind the address is enough")]
    TwoPorts,
    /// Another protocol.
    #[error("protocol '{0}' is not known: use tcp, udp or icmp")]
    Protocol(String),
    /// TCP or UDP to no port.
    #[error("{0} needs a port")]
    NoPort(PortProtocol),
    /// Echo to a port.
    #[error("icmp has no ports: leave the port out")]
    PortOfEcho,
}

impl Subject {
    /// Reads the name, or the address with or without its port, and what else was said.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(
        text: &str,
        port: Option<&str>,
        protocol: Option<&str>,
    ) -> Result<Self, QuestionError> {
        let unread = match Question::parse(text, port, protocol) {
            Ok(question) => return Ok(Self::Packet(question)),
            Err(QuestionError::Address(text)) => QuestionError::Address(text),
            Err(other) => return Err(other),
        };
        match (name(text), text.rsplit_once(':')) {
            (Some(name), _) if port.or(protocol).is_none() => Ok(Self::Name(name)),
            (Some(name), _) => Err(QuestionError::PacketOfName(shown(&name))),
            (None, Some((before, _))) => {
                Err(name(before).map_or(unread, |name| QuestionError::PacketOfName(shown(&name))))
            }
            (None, None) => Err(unread),
        }
    }
}

/// One name as it is asked for, where the text is one.
fn name(text: &str) -> Option<String> {
    let domain = Domain::parse(text).ok()?;
    (!text.starts_with('*')).then(|| domain.to_string())
}

impl Question {
    /// Reads the address, with or without its port, and what else was said.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(
        address: &str,
        port: Option<&str>,
        protocol: Option<&str>,
    ) -> Result<Self, QuestionError> {
        let (address, behind) = split(address)?;
        let port = match (behind, port) {
            (Some(_), Some(_)) => return Err(QuestionError::TwoPorts),
            (behind, port) => behind.or(port),
        };
        let port = port.map(number).transpose()?;
        let packet = match (protocol, port) {
            (None | Some("icmp"), None) => Packet::Echo,
            (Some("icmp"), Some(_)) => return Err(QuestionError::PortOfEcho),
            (None, Some(port)) => Packet::ToPort(PortProtocol::Tcp, port),
            (Some(text), port) => {
                let unknown = || QuestionError::Protocol(shown(text));
                let protocol = PortProtocol::parse(text).ok_or_else(unknown)?;
                Packet::ToPort(protocol, port.ok_or(QuestionError::NoPort(protocol))?)
            }
        };
        Ok(Self { address, packet })
    }
}

/// The address, and the text behind its colon.
fn split(text: &str) -> Result<(IpAddr, Option<&str>), QuestionError> {
    let wrong = || QuestionError::Address(shown(text));
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(text).parse() {
        return Ok((address, None));
    }
    let (_, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (before, _) = text.split_at(text.len() - port.len());
    // The standard library knows which addresses are to stand in brackets.
    let address: SocketAddr = format!("{before}1").parse().ok().ok_or_else(wrong)?;
    Ok((address.ip(), Some(port)))
}

fn number(text: &str) -> Result<u16, QuestionError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && *number != 0);
    number.ok_or_else(|| QuestionError::Port(shown(text)))
}

/// As errors show what came from outside: not longer than a name.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

impl Packet {
    /// Its port, where it has one.
    #[must_use]
    pub const fn port(self) -> Option<u16> {
        match self {
            Self::Echo => None,
            Self::ToPort(_, port) => Some(port),
        }
    }

    /// Name of its protocol.
    #[must_use]
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Echo => "icmp",
            Self::ToPort(protocol, _) => protocol.as_str(),
        }
    }

    pub(super) const fn is_udp_to(self, asked: u16) -> bool {
        match self {
            Self::Echo => false,
            Self::ToPort(kind, port) => kind.number() == protocol::UDP && port == asked,
        }
    }
}

/// As it is asked on the command line, with what is sent.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.packet {
            Packet::Echo => write!(f, "{} (icmp)", self.address),
            Packet::ToPort(protocol, port) => {
                write!(f, "{}/{protocol}", SocketAddr::new(self.address, port))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(asked: (&str, Option<&str>, Option<&str>), expected: Result<&str, &str>) {
        let (address, port, protocol) = asked;
        let found = Question::parse(address, port, protocol);
        let found = found.map(|question| question.to_string());
        let found = found.map_err(|error| error.to_string());
        assert_eq!(
            found.as_deref().map_err(String::as_str),
            expected,
            "{asked:?}"
        );
    }

    #[test]
    fn every_way_of_writing_is_read() {
        check(("192.0.2.1", None, None), Ok("192.0.2.1 (icmp)"));
        check(("192.0.2.1:443", None, None), Ok("192.0.2.1:443/tcp"));
        check(
            ("192.0.2.1", Some("53"), Some("udp")),
            Ok("192.0.2.1:53/udp"),
        );
        check(
            ("2001:db8::1", None, Some("icmp")),
            Ok("2001:db8::1 (icmp)"),
        );
        check(("[2001:db8::1]", None, None), Ok("2001:db8::1 (icmp)"));
        check(
            ("[2001:db8::1]:443", None, None),
            Ok("[2001:db8::1]:443/tcp"),
        );
    }

    #[test]
    fn what_is_no_address_is_a_name_or_refused() {
        let parse = |text: &str| Subject::parse(text, None, None);
        for (text, expected) in [
            ("example.org", "example.org"),
            ("API.Example.org.", "api.example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(parse(text), Ok(Subject::Name(expected.to_owned())));
        }
        let packet = Question::parse("192.0.2.1:443", None, None).unwrap();
        assert_eq!(parse("192.0.2.1:443"), Ok(Subject::Packet(packet)));
        for text in [
            "",
            "[::1",
            "1.2.3",
            "*.example.org",
            "exa mple.org",
            "2001:db8:1",
        ] {
            let expected = Err(QuestionError::Address(text.to_owned()));
            assert_eq!(parse(text), expected, "{text}");
        }
        let of_name = Err(QuestionError::PacketOfName("example.org".to_owned()));
        assert_eq!(parse("example.org:443"), of_name);
        let apart = Subject::parse("example.org", Some("443"), None);
        assert_eq!(apart, of_name);
        let apart = Subject::parse("example.org", None, Some("udp"));
        assert_eq!(apart, of_name);
        let port = Err(QuestionError::Port("0".to_owned()));
        assert_eq!(parse("192.0.2.1:0"), port);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        check(
            ("192.0.2.1:443", Some("443"), None),
            Err("the port is named twice: once behind the address is enough"),
        );
        for port in ["0", "65536", "+1", "", "http"] {
            let text = format!("'{port}' is no port: use 1 to 65535");
            check(("192.0.2.1", Some(port), None), Err(&text));
            check((&format!("192.0.2.1:{port}"), None, None), Err(&text));
        }
        check(
            ("192.0.2.1", Some("1"), Some("sctp")),
            Err("protocol 'sctp' is not known: use tcp, udp or icmp"),
        );
        check(("192.0.2.1", None, Some("udp")), Err("udp needs a port"));
        check(
            ("192.0.2.1:7", None, Some("icmp")),
            Err("icmp has no ports: leave the port out"),
        );
    }
}
