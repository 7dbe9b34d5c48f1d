//! Records one by one, as they stand in a message (RFC 1035, 4.1.3). Of those whose type is none of ours, no byte is
//! read: they may be what they want (D-7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

use crate::dns::name;

/// Parameters of a service that hold addresses (RFC 9460, 14.3.2).
const IPV4_HINT: u16 = 4;
const IPV6_HINT: u16 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) section: Section,
    pub(super) owner: Name,
    pub(super) kind: RecordType,
    pub(super) class: DNSClass,
    pub(super) ttl: u32,
    /// Where the time stands in the message.
    pub(super) ttl_at: usize,
    pub(super) data: Data,
}

#[derive(Debug)]
pub(super) enum Data {
    Address(IpAddr),
    /// CNAME, and SVCB and HTTPS in their AliasMode (RFC 9460, 2.4.2).
    Alias(Name),
    /// SVCB and HTTPS; the root as target means the owner.
    Service {
        target: Name,
        hints: Vec<IpAddr>,
    },
    /// SOA: for how long it is good that there is nothing.
    Authority(u32),
    Other,
}

impl Record {
    pub(super) fn read(
        message: &[u8],
        decoder: &mut BinDecoder<'_>,
        section: Section,
    ) -> Result<Self, DecodeError> {
        let owner = name::read(message, decoder)?;
        let kind = RecordType::read(decoder)?;
        let class = DNSClass::from(decoder.read_u16()?.unverified());
        let ttl_at = decoder.index();
        let ttl = decoder.read_u32()?.unverified();
        let len = decoder.read_u16()?.unverified();
        let start = decoder.index();
        decoder.read_slice(len.into())?;
        // Names in it may point to what stands before, but nothing of it is behind its end.
        let message = message.get(..decoder.index()).unwrap_or_default();
        let mut inside = BinDecoder::new(message);
        inside.read_slice(start)?;
        Ok(Self {
            section,
            owner,
            kind,
            class,
            // RFC 2181, 8.
            ttl: if ttl > i32::MAX.unsigned_abs() {
                0
            } else {
                ttl
            },
            ttl_at,
            data: Data::read(kind, message, &mut inside)?,
        })
    }
}

impl Data {
    fn read(
        kind: RecordType,
        message: &[u8],
        decoder: &mut BinDecoder<'_>,
    ) -> Result<Self, DecodeError> {
        if kind == RecordType::A {
            return Ok(Self::Address(all(decoder, |bytes| {
                Ipv4Addr::from(*bytes).into()
            })?));
        }
        if kind == RecordType::AAAA {
            return Ok(Self::Address(all(decoder, |bytes| {
                Ipv6Addr::from(*bytes).into()
            })?));
        }
        if kind == RecordType::CNAME {
            return name::read(message, decoder).map(Self::Alias);
        }
        if kind == RecordType::SOA {
            name::read(message, decoder)?;
            name::read(message, decoder)?;
            decoder.read_slice(16)?;
            return Ok(Self::Authority(decoder.read_u32()?.unverified()));
        }
        if matches!(kind, RecordType::SVCB | RecordType::HTTPS) {
            return Self::read_service(message, decoder);
        }
        Ok(Self::Other)
    }

    fn read_service(message: &[u8], decoder: &mut BinDecoder<'_>) -> Result<Self, DecodeError> {
        let priority = decoder.read_u16()?.unverified();
        let target = name::read(message, decoder)?;
        let mut hints = Vec::new();
        while !decoder.is_empty() {
            let key = decoder.read_u16()?.unverified();
            let len = decoder.read_u16()?.unverified();
            let mut value = BinDecoder::new(decoder.read_slice(len.into())?.unverified());
            while !value.is_empty() && matches!(key, IPV4_HINT | IPV6_HINT) {
                hints.push(match key {
                    IPV4_HINT => next(&mut value, |bytes| Ipv4Addr::from(*bytes).into())?,
                    _ => next(&mut value, |bytes| Ipv6Addr::from(*bytes).into())?,
                });
            }
        }
        // In AliasMode, parameters are to be ignored; who does not ignore them finds addresses in them.
        Ok(match priority {
            0 if hints.is_empty() => Self::Alias(target),
            _ => Self::Service { target, hints },
        })
    }
}

/// Reads bytes that are all that is left.
fn all<const N: usize, T>(
    decoder: &mut BinDecoder<'_>,
    read: impl Fn(&[u8; N]) -> T,
) -> Result<T, DecodeError> {
    let value = next(decoder, read)?;
    match decoder.len() {
        0 => Ok(value),
        _ => Err(DecodeError::InsufficientBytes),
    }
}

fn next<const N: usize, T>(
    decoder: &mut BinDecoder<'_>,
    read: impl Fn(&[u8; N]) -> T,
) -> Result<T, DecodeError> {
    let bytes = decoder.read_slice(N)?.unverified();
    let bytes = bytes.first_chunk().ok_or(DecodeError::InsufficientBytes)?;
    Ok(read(bytes))
}
