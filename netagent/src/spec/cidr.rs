//! Networks as requests write them, with the texts of P-10.

use std::net::IpAddr;

use ipnet::IpNet;

/// Characters of what a request says that an error repeats.
const SHOWN_MAX: usize = 128;

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrFault {
    /// Anything but an address, `/` and a number.
    #[error("Invalid CIDR format: \"{0}\". Expected format: x.x.x.x/y")]
    Format(String),
    /// A number above the bits of an address.
    #[error("Invalid CIDR prefix length: {0}")]
    Prefix(String),
}

/// A network. Bits behind its prefix are left away.
pub(crate) fn network(text: &str) -> Result<IpNet, CidrFault> {
    if text.contains('/') {
        network_or_address(text)
    } else {
        Err(CidrFault::Format(shown(text)))
    }
}

/// A network, or a single address.
pub(crate) fn network_or_address(text: &str) -> Result<IpNet, CidrFault> {
    let malformed = || CidrFault::Format(shown(text));
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok().ok_or_else(malformed)?;
    // A packet never has it: the programs see the IPv4 address.
    if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return Err(malformed());
    }
    let Some(prefix) = prefix else {
        return Ok(IpNet::from(address));
    };
    let plain = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (prefix.len() > 1 && prefix.starts_with('0')) {
        return Err(malformed());
    }
    let too_long = || CidrFault::Prefix(shown(prefix));
    let length = prefix.parse().ok().ok_or_else(too_long)?;
    let network = IpNet::new(address, length).ok().ok_or_else(too_long)?;
    Ok(network.trunc())
}

/// What a request says, as an error repeats it: on one line, and not longer than one.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(network(text).unwrap().to_string(), expected, "{text}");
    }

    fn check_format(text: &str) {
        let expected = format!("Invalid CIDR format: \"{text}\". Expected format: x.x.x.x/y");
        assert_eq!(network(text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn networks_of_both_families_lose_what_stands_behind_their_prefix() {
        check("10.0.0.0/8", "10.0.0.0/8");
        check("10.1.2.3/8", "10.0.0.0/8");
        check("10.1.2.3/32", "10.1.2.3/32");
        check("0.0.0.0/0", "0.0.0.0/0");
        check("255.255.255.255/0", "0.0.0.0/0");
        check("::/0", "::/0");
        check("2001:db8::1/32", "2001:db8::/32");
        check("2001:DB8::1/128", "2001:db8::1/128");
        check("::/64", "::/64");
    }

    #[test]
    fn p10_what_is_no_network_is_named() {
        for text in [
            "",
            "/",
            "/8",
            "a/8",
            "everybody",
            "0.0.0.0",
            "10.0.0.1",
            "::",
            "2001:db8::1",
            "1.2.3/8",
            "1.2.3.4.5/8",
            "1.2.3.256/8",
            "010.0.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/08",
            "10.0.0.0/00",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "10.0.0.0/8 ",
            " 10.0.0.0/8",
            "10.0.0.0 /8",
            "10.0.0.0/ 8",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/8,11.0.0.0/8",
            "fe80::1%eth0/64",
            "2001:db8:::/32",
            "[2001:db8::]/32",
            "::ffff:10.0.0.0/104",
            "::ffff:0:0/96",
            "::ffff:1.2.3.4/128",
            "10.0.0.0/٨",
        ] {
            check_format(text);
        }
    }

    #[test]
    fn p10_a_prefix_has_no_more_bits_than_its_family() {
        for (text, length) in [
            ("10.0.0.0/33", "33"),
            ("10.0.0.0/129", "129"),
            ("::/129", "129"),
            ("10.0.0.0/256", "256"),
            ("::/99999999999999999999", "99999999999999999999"),
        ] {
            let expected = format!("Invalid CIDR prefix length: {length}");
            assert_eq!(network(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn an_error_repeats_a_line_and_no_more() {
        let text = format!("a\n{}", "b".repeat(1_000));
        let error = network(&text).unwrap_err().to_string();
        let expected = format!("\"a {}...\"", "b".repeat(SHOWN_MAX - 2));
        assert!(error.contains(&expected), "{error}");
    }
}
