//! Where the queries of guests are forwarded to (D-1).

use std::net::{IpAddr, SocketAddr};

use netagent_common::services::port;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// `[dns]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// The servers in the order in which they are tried; none: the host's own resolvers.
    #[serde(deserialize_with = "read_servers")]
    pub upstream: Vec<SocketAddr>,
}

fn read_servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let server = |text: &String| {
        parse_server(text).ok_or_else(|| {
            D::Error::custom(format!(
                "'{text}' is no address of a DNS server: write one such as \"9.9.9.9\", \"127.0.0.1:5353\" or \
                 \"[2001:db8::1]:53\""
            ))
        })
    };
    texts.iter().map(server).collect()
}

/// An address with its port, or without: then the port is DNS's own.
fn parse_server(text: &str) -> Option<SocketAddr> {
    let bare = text
        .parse()
        .map(|address: IpAddr| SocketAddr::new(address, port::DNS));
    let server = bare.or_else(|_| text.parse()).ok()?;
    let one_host = !server.ip().is_unspecified() && !server.ip().is_multicast();
    (one_host && server.port() != 0).then_some(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let expected = expected.map(|expected| expected.parse().unwrap());
        assert_eq!(parse_server(text), expected, "{text}");
    }

    #[test]
    fn the_port_of_a_server_may_be_left_out() {
        check("9.9.9.9", Some("9.9.9.9:53"));
        check("127.0.0.1:5353", Some("127.0.0.1:5353"));
        check("2001:db8::1", Some("[2001:db8::1]:53"));
        check("[2001:db8::1]:54", Some("[2001:db8::1]:54"));
    }

    #[test]
    fn what_cannot_be_asked_is_no_server() {
        for text in [
            "",
            "ns1",
            "9.9.9",
            "9.9.9.9:0",
            "9.9.9.9:",
            "0.0.0.0",
            "[::]:53",
            "224.0.0.251",
        ] {
            check(text, None);
        }
    }
}
