//! The options of a DHCP request, RFC 2132: bounded reads of bytes that a guest wrote.
//!
//! Split here and not by dhcproto, which reads every option by its type: there a host name that is no UTF-8 refuses
//! the request, an option that runs over ends the list in silence, parts that are apart (RFC 3396) replace each
//! other, and an overload (option 52) is not followed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::OptionCode;

use super::Malformed;

/// Length of the message up to its options, with the magic cookie.
pub(super) const HEADER_LEN: usize = 240;
/// Longest client identifier: what one option holds, so that it can be said back (RFC 6842).
const CLIENT_ID_MAX: usize = 255;

/// The options that the server reads; all others are skipped.
#[derive(Debug)]
pub(super) struct Options(BTreeMap<OptionCode, Vec<u8>>);

impl Options {
    /// The options of a whole message: its own field, then `file` and `sname` where option 52 says so.
    pub(super) fn read(message: &[u8]) -> Result<Self, Malformed> {
        let too_short = Malformed::TooShort { len: message.len() };
        let [Some(options), Some(sname), Some(file)] = [
            message.get(HEADER_LEN..),
            message.get(44..108),
            message.get(108..236),
        ] else {
            return Err(too_short);
        };
        let mut read = Self(BTreeMap::new());
        read.add(options)?;
        let (in_file, in_sname) = match read.array(OptionCode::OptionOverload)? {
            None => (false, false),
            Some([1]) => (true, false),
            Some([2]) => (false, true),
            Some([3]) => (true, true),
            Some([value]) => return Err(Malformed::Overload { value }),
        };
        if in_file {
            read.add(file)?;
        }
        if in_sname {
            read.add(sname)?;
        }
        Ok(read)
    }

    /// Adds the options of one field. The parts of one option are put together wherever they stand (RFC 3396), so
    /// that an option which may stand once and stands twice has the wrong length.
    fn add(&mut self, field: &[u8]) -> Result<(), Malformed> {
        let mut rest = field;
        loop {
            let (&number, after) = rest.split_first().ok_or(Malformed::NoEnd)?;
            let code = OptionCode::from(number);
            if code == OptionCode::End {
                return Ok(());
            }
            if code == OptionCode::Pad {
                rest = after;
                continue;
            }
            let runs_over = Malformed::RunsOver { code: number };
            let Some((&len, after)) = after.split_first() else {
                return Err(runs_over);
            };
            let Some((value, after)) = after.split_at_checked(usize::from(len)) else {
                return Err(runs_over);
            };
            if is_read(code) {
                self.0.entry(code).or_default().extend_from_slice(value);
            }
            rest = after;
        }
    }

    /// Whether the option is there.
    pub(super) fn has(&self, code: OptionCode) -> bool {
        self.0.contains_key(&code)
    }

    /// The value of an option that is `N` bytes long.
    pub(super) fn array<const N: usize>(
        &self,
        code: OptionCode,
    ) -> Result<Option<[u8; N]>, Malformed> {
        let Some(value) = self.0.get(&code) else {
            return Ok(None);
        };
        match value.first_chunk::<N>() {
            Some(array) if value.len() == N => Ok(Some(*array)),
            _ => Err(wrong_length(code, value)),
        }
    }

    /// The value of an option that is an address.
    pub(super) fn address(&self, code: OptionCode) -> Result<Option<Ipv4Addr>, Malformed> {
        Ok(self.array(code)?.map(Ipv4Addr::from_octets))
    }

    /// The client identifier, option 61: at least two bytes (RFC 2132 9.14).
    pub(super) fn client_id(&self) -> Result<Option<Vec<u8>>, Malformed> {
        let code = OptionCode::ClientIdentifier;
        match self.0.get(&code) {
            None => Ok(None),
            Some(id) if (2..=CLIENT_ID_MAX).contains(&id.len()) => Ok(Some(id.clone())),
            Some(id) => Err(wrong_length(code, id)),
        }
    }

    /// The options that the client asks for, option 55; `None` where it leaves them to the server.
    pub(super) fn asked(&self) -> Result<Option<Vec<OptionCode>>, Malformed> {
        let code = OptionCode::ParameterRequestList;
        match self.0.get(&code) {
            None => Ok(None),
            Some(list) if list.is_empty() => Err(wrong_length(code, list)),
            Some(list) => Ok(Some(list.iter().copied().map(OptionCode::from).collect())),
        }
    }
}

fn wrong_length(code: OptionCode, value: &[u8]) -> Malformed {
    Malformed::OptionLength {
        code: code.into(),
        len: value.len(),
    }
}

/// Whether the server reads this option. What it does not read is not kept: a message cannot fill memory.
fn is_read(code: OptionCode) -> bool {
    [
        OptionCode::RequestedIpAddress,
        OptionCode::OptionOverload,
        OptionCode::MessageType,
        OptionCode::ServerIdentifier,
        OptionCode::ParameterRequestList,
        OptionCode::MaxMessageSize,
        OptionCode::ClientIdentifier,
        OptionCode::RapidCommit,
        OptionCode::RelayAgentInformation,
    ]
    .contains(&code)
}
