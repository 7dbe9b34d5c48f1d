//! DNS messages as the resolver sees them (RFC 1035): it reads the header, the question and the size that the asker
//! takes, and leaves every other byte as it is (D-7).

use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Header, MessageType, OpCode, Query as Question};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

/// Longest query that is taken. With its padding (RFC 8467) one has less than 500 bytes.
pub const QUERY_LEN_MAX: usize = 4_096;
/// Records that a query may carry behind its question: EDNS, a signature, the serial number of an IXFR.
const RECORDS_MAX: u32 = 16;
/// Longest answer by UDP that an asker without EDNS takes (RFC 1035, 4.2.1), and that each one takes.
const PLAIN_LEN_MAX: u16 = 512;
/// What we take ourselves, in answers of our own that hold EDNS.
const EDNS_PAYLOAD: u16 = 1_232;

const HEADER_LEN: usize = 12;
const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;

/// Why the resolver answers by itself (RFC 1035, 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The query breaks the rules.
    Malformed = 1,
    /// No server answered.
    NoAnswer = 2,
    /// It is no standard query.
    NotImplemented = 4,
    /// The asker may ask for nothing.
    Refused = 5,
}

/// What came from a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A query that can be forwarded.
    Query(Query),
    /// One that cannot, and the answer to it.
    Unfit(Vec<u8>),
    /// No query at all: it is dropped.
    Junk,
}

/// A query of a guest: standard, with one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    bytes: Box<[u8]>,
    question_end: usize,
    edns: Option<Edns>,
}

/// What the resolver needs of EDNS (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    /// Longest answer by UDP that the asker takes.
    payload: u16,
    /// The flags behind the version; the DO bit among them is repeated in answers of our own.
    flags: u16,
}

impl Received {
    /// Reads what a guest sent.
    #[must_use]
    pub fn read(message: &[u8]) -> Self {
        let mut decoder = BinDecoder::new(message);
        let Ok(header) = Header::read(&mut decoder) else {
            return Self::Junk;
        };
        if header.metadata.message_type == MessageType::Response {
            return Self::Junk;
        }
        if header.metadata.op_code != OpCode::Query {
            return Self::Unfit(bare(message, Failure::NotImplemented));
        }
        match Query::read(message, &header, &mut decoder) {
            Ok(Some(query)) => Self::Query(query),
            Ok(None) | Err(_) => Self::Unfit(bare(message, Failure::Malformed)),
        }
    }
}

impl Query {
    /// Reads what follows the header; `None` where a query may not hold it.
    fn read(
        message: &[u8],
        header: &Header,
        decoder: &mut BinDecoder<'_>,
    ) -> Result<Option<Self>, ProtoError> {
        if header.counts.queries != 1 || message.len() > QUERY_LEN_MAX {
            return Ok(None);
        }
        let question = Question::read(decoder)?;
        let question_end = decoder.index();
        // Nothing stands before it that it could point to, so a compressed name is none.
        if question_end != HEADER_LEN + encoded_len(question.name()) + 4 {
            return Ok(None);
        }
        let counts = &header.counts;
        let records = [counts.answers, counts.authorities, counts.additionals];
        let records: u32 = records.into_iter().map(u32::from).sum();
        if records > RECORDS_MAX {
            return Ok(None);
        }
        let mut edns = None;
        for _ in 0..records {
            edns = read_record(decoder)?.or(edns);
        }
        Ok(Some(Self {
            bytes: message.into(),
            question_end,
            edns,
        }))
    }

    /// The query as the guest sent it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The guest's id for it.
    #[must_use]
    pub fn id(&self) -> [u8; 2] {
        id_of(&self.bytes).unwrap_or_default()
    }

    /// The query with another id.
    #[must_use]
    pub fn with_id(&self, id: [u8; 2]) -> Vec<u8> {
        let mut bytes = self.bytes.to_vec();
        set_id(&mut bytes, id);
        bytes
    }

    /// Whether a message answers this query, sent with this id: it must repeat the question in the same case, which
    /// a forger who does not see the query has to guess.
    #[must_use]
    pub fn is_answered_by(&self, message: &[u8], id: [u8; 2]) -> bool {
        let [a, b, flags, _, 0, 1, ..] = message else {
            return false;
        };
        let question = HEADER_LEN..self.question_end;
        [*a, *b] == id
            && flags & QR != 0
            && message.get(question.clone()) == self.bytes.get(question)
    }

    /// Longest answer by UDP to this asker: what it takes, and what fits its MTU in one packet.
    #[must_use]
    pub fn answer_len_max(&self, mtu: u32, asker: IpAddr) -> usize {
        let headers = match asker {
            IpAddr::V4(_) => 28,
            IpAddr::V6(_) => 48,
        };
        let taken = self.edns.map_or(PLAIN_LEN_MAX, |edns| edns.payload);
        let fitting = usize::try_from(mtu.saturating_sub(headers)).unwrap_or(usize::MAX);
        fitting.min(taken.max(PLAIN_LEN_MAX).into())
    }

    /// An answer that did not fit, cut to the question, so that the guest asks again by TCP.
    #[must_use]
    pub fn truncated(&self, answer: &[u8]) -> Vec<u8> {
        let flags = match answer {
            [_, _, high, low, ..] => [high | QR | TC, *low],
            _ => [QR | TC, 0],
        };
        self.reply(flags)
    }

    /// An answer of our own that says why there is no other.
    #[must_use]
    pub fn failure(&self, failure: Failure) -> Vec<u8> {
        self.reply(failure_flags(&self.bytes, failure))
    }

    /// Header and question, and EDNS where the query had it (RFC 6891, 7).
    fn reply(&self, [high, low]: [u8; 2]) -> Vec<u8> {
        let [a, b] = self.id();
        let records = u8::from(self.edns.is_some());
        let mut reply = vec![a, b, high, low, 0, 1, 0, 0, 0, 0, 0, records];
        let question = self.bytes.get(HEADER_LEN..self.question_end);
        reply.extend_from_slice(question.unwrap_or_default());
        if let Some(edns) = self.edns {
            let [c, d] = EDNS_PAYLOAD.to_be_bytes();
            // Of the flags, the DO bit alone is repeated (RFC 3225, 3).
            let [e, f] = (edns.flags & 0x8000).to_be_bytes();
            let [g, h] = u16::from(RecordType::OPT).to_be_bytes();
            reply.extend_from_slice(&[0, g, h, c, d, 0, 0, e, f, 0, 0]);
        }
        reply
    }
}

/// Id of a message.
#[must_use]
pub fn id_of(message: &[u8]) -> Option<[u8; 2]> {
    message.first_chunk().copied()
}

/// Gives a message another id.
pub fn set_id(message: &mut [u8], id: [u8; 2]) {
    if let Some(place) = message.first_chunk_mut() {
        *place = id;
    }
}

/// Whether a message says that it is an answer.
#[must_use]
pub fn is_answer(message: &[u8]) -> bool {
    message.len() >= HEADER_LEN && message.get(2).is_some_and(|flags| flags & QR != 0)
}

/// A header alone: the answer to what has no question to repeat.
fn bare(message: &[u8], failure: Failure) -> Vec<u8> {
    let [a, b] = id_of(message).unwrap_or_default();
    let [high, low] = failure_flags(message, failure);
    vec![a, b, high, low, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn failure_flags(query: &[u8], failure: Failure) -> [u8; 2] {
    let asked = query.get(2).copied().unwrap_or_default();
    [QR | asked & (OPCODE | RD), RA | failure as u8]
}

/// Steps over a record, and says what is in it if it is the one of EDNS.
fn read_record(decoder: &mut BinDecoder<'_>) -> Result<Option<Edns>, DecodeError> {
    Name::read(decoder)?;
    let kind = RecordType::read(decoder)?;
    let payload = decoder.read_u16()?.unverified();
    let [_, _, e, f] = decoder.read_u32()?.unverified().to_be_bytes();
    let len = decoder.read_u16()?.unverified();
    decoder.read_slice(len.into())?;
    let flags = u16::from_be_bytes([e, f]);
    Ok((kind == RecordType::OPT).then_some(Edns { payload, flags }))
}

/// Bytes of a name in a message, uncompressed.
fn encoded_len(name: &Name) -> usize {
    name.iter().map(|label| 1 + label.len()).sum::<usize>() + 1
}

#[cfg(test)]
mod tests;
