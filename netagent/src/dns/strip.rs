//! Answers without the addresses that a guest may not reach (D-6): a name that leads to them could turn a program of
//! the guest against what is near it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::DecodeError;

use crate::dns::answer::{Answer, Malformed};

/// Longest answer out of which addresses are taken; of a longer one nothing is given.
const STRIPPED_LEN_MAX: usize = 4_096;

/// Why an answer cannot be stripped: it is not given then.
#[derive(Debug, thiserror::Error)]
pub enum StripError {
    /// It is longer than any that is looked into.
    #[error("an answer with forbidden addresses is very long")]
    Long,
    /// It cannot be read.
    #[error("cannot read the answer")]
    Read(#[from] DecodeError),
    /// It cannot be written.
    #[error("cannot write the answer")]
    Write(#[from] ProtoError),
    /// What was written cannot be read.
    #[error("cannot read the answer that was written")]
    Reread(#[from] Malformed),
    /// An address was not seen by one of the two readers.
    #[error("an address is left")]
    Left,
}

/// What is left of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripped {
    /// The message.
    pub bytes: Vec<u8>,
    /// Whether it answered with addresses, and does so no more.
    pub is_emptied: bool,
}

/// Takes every record out of an answer that holds a forbidden address, and the signatures over such records.
///
/// # Errors
/// Where the answer cannot be made anew.
pub fn strip(
    message: &[u8],
    is_forbidden: impl Fn(IpAddr) -> bool,
) -> Result<Stripped, StripError> {
    // Its reader follows every name of every kind of data, however long the chain is.
    if message.len() > STRIPPED_LEN_MAX {
        return Err(StripError::Long);
    }
    let mut message = Message::from_vec(message)?;
    let had_addresses = has_addresses(&message.answers);
    let sections = [
        &mut message.answers,
        &mut message.authorities,
        &mut message.additionals,
    ];
    for section in sections {
        let mut signed = BTreeSet::new();
        section.retain(|record| {
            let is_kept = !addresses_of(record).into_iter().any(&is_forbidden);
            if !is_kept {
                signed.insert((record.name.clone(), u16::from(record.record_type())));
            }
            is_kept
        });
        section.retain(|record| covered_by(record).is_none_or(|set| !signed.contains(&set)));
    }
    let is_emptied = had_addresses && !has_addresses(&message.answers);
    let bytes = message.to_vec()?;
    if Answer::read(&bytes)?
        .everywhere()
        .iter()
        .any(|address| is_forbidden(*address))
    {
        return Err(StripError::Left);
    }
    Ok(Stripped { bytes, is_emptied })
}

fn has_addresses(records: &[Record]) -> bool {
    records
        .iter()
        .any(|record| !addresses_of(record).is_empty())
}

fn addresses_of(record: &Record) -> Vec<IpAddr> {
    if let Some(address) = record.data.ip_addr() {
        return vec![address];
    }
    match service_of(&record.data) {
        Some(service) => hints_of(service),
        None => Vec::new(),
    }
}

fn service_of(data: &RData) -> Option<&SVCB> {
    if let RData::SVCB(service) = data {
        return Some(service);
    }
    if let RData::HTTPS(service) = data {
        return Some(service);
    }
    None
}

fn hints_of(service: &SVCB) -> Vec<IpAddr> {
    let mut hints: Vec<IpAddr> = Vec::new();
    for (_, value) in &service.svc_params {
        if let SvcParamValue::Ipv4Hint(found) = value {
            hints.extend(found.0.iter().map(|hint| IpAddr::V4(hint.0)));
        }
        if let SvcParamValue::Ipv6Hint(found) = value {
            hints.extend(found.0.iter().map(|hint| IpAddr::V6(hint.0)));
        }
    }
    hints
}

/// The records that a signature is over (RFC 4034, 3.1.1).
fn covered_by(record: &Record) -> Option<(Name, u16)> {
    let RData::Unknown {
        code: RecordType::RRSIG,
        rdata,
    } = &record.data
    else {
        return None;
    };
    let covered = rdata.anything.first_chunk().copied()?;
    Some((record.name.clone(), u16::from_be_bytes(covered)))
}

#[cfg(test)]
mod tests;
