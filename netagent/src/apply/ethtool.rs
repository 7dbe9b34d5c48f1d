//! Features of a device, by the kernel's generic netlink family `ethtool`: which are on, and switching them.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The family of families: its number is fixed.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
/// `ETHTOOL_A_FEATURES_*`.
const HEADER: u16 = 1;
const HARDWARE: u16 = 2;
const WANTED: u16 = 3;
const ACTIVE: u16 = 4;
const NO_CHANGE: u16 = 5;
/// `ETHTOOL_A_HEADER_DEV_INDEX`.
const DEVICE_INDEX: u16 = 1;
/// `ETHTOOL_A_BITSET_*` and what is in them.
const NO_MASK: u16 = 1;
const BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// `NLM_F_REQUEST | NLM_F_ACK`.
const FLAGS: u16 = 5;
const NLMSG_ERROR: u16 = 2;
/// Marks an attribute that holds attributes; the upper two bits are no part of its kind.
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;
/// The longest answer: four lists of some sixty names.
const ANSWER_MAX: usize = 64 * 1024;
/// The kernel answers while the request is sent; this is for one that does not.
const PATIENCE_S: i64 = 2;

/// What a device can do and does, by the kernel's names of features.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Those that are on.
    pub active: BTreeSet<String>,
    /// Those that can be switched.
    pub changeable: BTreeSet<String>,
}

/// A connection in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Ethtool {
    socket: OwnedFd,
    family: u16,
}

impl Ethtool {
    /// Finds the family.
    ///
    /// # Errors
    /// Where the kernel does not have it.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkGeneric,
        )?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
        let mut ethtool = Self {
            socket,
            family: CONTROL,
        };
        let answer = ethtool.exchange(GET_FAMILY, &attribute(FAMILY_NAME, b"ethtool\0"))?;
        let family = find(&answer, FAMILY_ID).and_then(|number| number.try_into().ok());
        ethtool.family =
            family.map_or(Err(Errno::EPROTO), |number| Ok(u16::from_ne_bytes(number)))?;
        Ok(ethtool)
    }

    /// The features of a device.
    ///
    /// # Errors
    /// Where the device is gone or has none.
    pub fn read(&self, ifindex: u32) -> io::Result<Features> {
        Ok(features(&self.exchange(FEATURES_GET, &device(ifindex))?))
    }

    /// Switches features on or off; others stay.
    ///
    /// # Errors
    /// Where the device is gone, or does not know one of them.
    pub fn switch(&self, ifindex: u32, names: &BTreeSet<String>, on: bool) -> io::Result<()> {
        let mut message = device(ifindex);
        message.extend(wanted(names, on));
        self.exchange(FEATURES_SET, &message).map(|_| ())
    }

    /// Sends a request and gives the attributes of its answer; none where there is only a receipt.
    fn exchange(&self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        let fd = self.socket.as_raw_fd();
        send(
            fd,
            &request(self.family, command, attributes),
            MsgFlags::empty(),
        )?;
        let mut buffer = vec![0; ANSWER_MAX];
        let mut answer = Vec::new();
        loop {
            let len = recv(fd, &mut buffer, MsgFlags::empty())?;
            for (kind, payload) in messages(buffer.get(..len).unwrap_or_default()) {
                if kind == NLMSG_ERROR {
                    return receipt(payload).map(|()| answer);
                }
                // Behind the command and its version.
                answer = payload.get(4..).unwrap_or_default().to_vec();
            }
        }
    }
}

fn receipt(payload: &[u8]) -> io::Result<()> {
    match payload
        .first_chunk()
        .map(|number| i32::from_ne_bytes(*number))
    {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        None => Err(Errno::EPROTO.into()),
    }
}

fn request(family: u16, command: u8, attributes: &[u8]) -> Vec<u8> {
    let len = 20 + attributes.len() as u32;
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    // Sequence number and port: one request at a time, and the kernel fills in the port.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    message
}

/// Kind and payload of each message.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let payload = bytes.get(16..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// Kind and payload of each attribute.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & KIND;
        let payload = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(kind, _)| *kind == wanted)
        .map(|(_, payload)| payload)
}

fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let len = 4 + payload.len();
    let mut bytes = (len as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(len.next_multiple_of(4), 0);
    bytes
}

fn device(ifindex: u32) -> Vec<u8> {
    let index = attribute(DEVICE_INDEX, &ifindex.to_ne_bytes());
    attribute(HEADER | NESTED, &index)
}

/// A list of bits with a mask: what is not in it stays.
fn wanted(names: &BTreeSet<String>, on: bool) -> Vec<u8> {
    let bits = names.iter().flat_map(|name| {
        let mut bit = attribute(BIT_NAME, format!("{name}\0").as_bytes());
        if on {
            bit.extend(attribute(BIT_VALUE, &[]));
        }
        attribute(BIT | NESTED, &bit)
    });
    let bits: Vec<u8> = bits.collect();
    attribute(WANTED | NESTED, &attribute(BITS | NESTED, &bits))
}

fn features(answer: &[u8]) -> Features {
    let fixed = names(answer, NO_CHANGE);
    let changeable = names(answer, HARDWARE);
    Features {
        active: names(answer, ACTIVE),
        changeable: changeable.difference(&fixed).cloned().collect(),
    }
}

/// Names of the bits that are set in one of the lists.
fn names(answer: &[u8], list: u16) -> BTreeSet<String> {
    let bitset = find(answer, list).unwrap_or_default();
    let all_set = find(bitset, NO_MASK).is_some();
    let bits = attributes(find(bitset, BITS).unwrap_or_default());
    let set = bits.filter(|(_, bit)| all_set || find(bit, BIT_VALUE).is_some());
    let names = set.filter_map(|(_, bit)| {
        let name = find(bit, BIT_NAME)?.strip_suffix(&[0])?;
        String::from_utf8(name.to_vec()).ok()
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// A list as the kernel answers: each bit with its index and name.
    fn list(kind: u16, masked: bool, bits: &[(&str, bool)]) -> Vec<u8> {
        let bits: Vec<u8> = bits
            .iter()
            .flat_map(|(name, on)| {
                let mut bit = attribute(1, &7_u32.to_ne_bytes());
                bit.extend(attribute(BIT_NAME, format!("{name}\0").as_bytes()));
                if *on {
                    bit.extend(attribute(BIT_VALUE, &[]));
                }
                attribute(BIT | NESTED, &bit)
            })
            .collect();
        let mut bitset = Vec::new();
        if !masked {
            bitset.extend(attribute(NO_MASK, &[]));
        }
        bitset.extend(attribute(2, &64_u32.to_ne_bytes()));
        bitset.extend(attribute(BITS | NESTED, &bits));
        attribute(kind | NESTED, &bitset)
    }

    #[test]
    fn an_answer_says_what_is_on_and_what_can_be_switched() {
        let mut answer = device(2);
        let hardware = [("rx-lro", true), ("rx-gro-list", true), ("tx-fcoe", false)];
        answer.extend(list(HARDWARE, true, &hardware));
        answer.extend(list(ACTIVE, false, &[("rx-lro", false), ("rx-gro", false)]));
        answer.extend(list(NO_CHANGE, false, &[("rx-gro-list", false)]));
        let found = features(&answer);
        assert_eq!(found.active, set(&["rx-gro", "rx-lro"]));
        assert_eq!(found.changeable, set(&["rx-lro"]));
    }

    #[test]
    fn a_request_names_the_device_and_the_bits() {
        let names = set(&["rx-lro"]);
        let off = wanted(&names, false);
        let on = wanted(&names, true);
        assert_eq!(off.len(), 4 + 4 + 4 + 4 + 8);
        assert_eq!(on.len(), off.len() + 4);
        let message = request(21, FEATURES_SET, &off);
        let (kind, payload) = messages(&message).next().unwrap();
        assert_eq!((kind, payload.len()), (21, 4 + off.len()));
        assert_eq!(payload[..2], [12, 1]);
    }

    #[test]
    fn a_receipt_is_an_error_number() {
        assert!(receipt(&[0; 4]).is_ok());
        let error = receipt(&(-95_i32).to_ne_bytes()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(95));
        assert!(receipt(&[]).is_err());
    }

    #[test]
    fn a_cut_answer_names_nothing() {
        let answer = list(ACTIVE, false, &[("rx-lro", false)]);
        for len in 0..answer.len() {
            assert!(names(&answer[..len], ACTIVE).is_empty(), "{len}");
        }
    }
}
