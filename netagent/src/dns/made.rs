//! Answers for tests, written by hand: no reader judges what it has written itself.

use std::net::IpAddr;

/// A record: its owner, its type, its time to live, its data.
#[derive(Clone, Debug)]
pub(super) struct Made(pub(super) Vec<u8>);

/// A name as it stands in a message, uncompressed.
pub(super) fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

pub(super) fn raw(owner: &str, kind: u16, ttl: u32, data: &[u8]) -> Made {
    let len = u16::try_from(data.len()).unwrap();
    Made(
        [
            name(owner).as_slice(),
            &kind.to_be_bytes(),
            &[0, 1],
            &ttl.to_be_bytes(),
            &len.to_be_bytes(),
            data,
        ]
        .concat(),
    )
}

pub(super) fn address(owner: &str, ttl: u32, text: &str) -> Made {
    match text.parse().unwrap() {
        IpAddr::V4(v4) => raw(owner, 1, ttl, &v4.octets()),
        IpAddr::V6(v6) => raw(owner, 28, ttl, &v6.octets()),
    }
}

pub(super) fn alias(owner: &str, ttl: u32, target: &str) -> Made {
    raw(owner, 5, ttl, &name(target))
}

/// An HTTPS record with hints.
pub(super) fn service(
    owner: &str,
    ttl: u32,
    (priority, target): (u16, &str),
    hints: &[&str],
) -> Made {
    let mut data = [priority.to_be_bytes().as_slice(), &name(target)].concat();
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for hint in hints {
        match hint.parse().unwrap() {
            IpAddr::V4(address) => v4.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => v6.extend_from_slice(&address.octets()),
        }
    }
    // Another parameter stands before: the protocols.
    let params: [(u16, &[u8]); 3] = [(1, b"\x02h2"), (4, &v4), (6, &v6)];
    for (key, value) in params {
        if !value.is_empty() {
            data.extend_from_slice(&key.to_be_bytes());
            data.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
            data.extend_from_slice(value);
        }
    }
    raw(owner, 65, ttl, &data)
}

pub(super) fn authority(owner: &str, ttl: u32, minimum: u32) -> Made {
    let mut data = [name("ns.example"), name("admin.example"), vec![0; 16]].concat();
    data.extend_from_slice(&minimum.to_be_bytes());
    raw(owner, 6, ttl, &data)
}

/// The signature over the records of a type.
pub(super) fn signature(owner: &str, covered: u16) -> Made {
    raw(
        owner,
        46,
        300,
        &[covered.to_be_bytes().as_slice(), &[7; 30]].concat(),
    )
}

/// A query for `kind`, in class IN, with recursion.
pub(super) fn question(asked: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(name(asked));
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

/// The answer to a query without further records, with these in its three sections.
pub(super) fn response(query: &[u8], sections: [&[Made]; 3]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut bytes = query[..end].to_vec();
    bytes[2] |= 0x80;
    bytes[3] |= 0x80;
    for (index, section) in sections.into_iter().enumerate() {
        let count = u16::try_from(section.len()).unwrap();
        bytes[6 + 2 * index..8 + 2 * index].copy_from_slice(&count.to_be_bytes());
        for record in section {
            bytes.extend_from_slice(&record.0);
        }
    }
    bytes
}
