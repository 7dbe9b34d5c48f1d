//! Queries of guests (RFC 1035): the resolver reads the header, the question and EDNS, and steps over the rest.

use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Header, MessageType, OpCode, Query as Question};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

use crate::dns::name;

/// Longest query that is taken. With its padding (RFC 8467) one has less than 500 bytes.
pub const QUERY_LEN_MAX: usize = 4_096;
/// Records that a query may carry behind its question: EDNS, a signature, the serial number of an IXFR.
const RECORDS_MAX: u32 = 16;
/// Longest answer by UDP that an asker without EDNS takes (RFC 1035, 4.2.1), and that each one takes.
const PLAIN_LEN_MAX: u16 = 512;
/// What we take ourselves, in answers of our own that hold EDNS.
const EDNS_PAYLOAD: u16 = 1_232;

/// An EDNS record without options.
const OPT_LEN: usize = 11;

const HEADER_LEN: usize = 12;
const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const AD: u8 = 0x20;
const CD: u8 = 0x10;

/// Why the resolver answers by itself (RFC 1035, 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The query breaks the rules.
    Malformed = 1,
    /// No server answered.
    NoAnswer = 2,
    /// Nothing is left of the answer that the asker may have.
    NoName = 3,
    /// It is no standard query.
    NotImplemented = 4,
    /// The asker may not ask for this.
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
    name: Option<Box<str>>,
    kind: RecordType,
    class: DNSClass,
    edns: Option<Edns>,
    /// It holds nothing that a query made of its question and EDNS would not.
    plain: bool,
}

/// What the resolver needs of EDNS (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    /// Longest answer by UDP that the asker takes.
    payload: u16,
    /// Asks for the records of DNSSEC (RFC 3225).
    dnssec_ok: bool,
    /// Whether there is an option, or a version that is not ours.
    special: bool,
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
        name::check(message, decoder.index())?;
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
            let read = read_record(message, decoder)?;
            if read.is_some() && edns.is_some() {
                return Ok(None);
            }
            edns = read.or(edns);
        }
        // Bytes behind the last record are read by nobody, so they would be a way past every check.
        if !decoder.is_empty() {
            return Ok(None);
        }
        let others = records - u32::from(edns.is_some());
        Ok(Some(Self {
            bytes: message.into(),
            question_end,
            name: text_of(question.name()),
            kind: question.query_type(),
            class: question.query_class(),
            edns,
            plain: others == 0 && edns.is_none_or(|edns| !edns.special),
        }))
    }

    /// The name that is asked for, lower case and without a dot at its end; `None` where it has characters that no
    /// name of a host has.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether it asks for the records of the Internet; there are others in name only (RFC 1035, 3.2.4).
    #[must_use]
    pub fn is_internet(&self) -> bool {
        self.class == DNSClass::IN
    }

    /// Whether it asks for whatever there is (RFC 8482).
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.kind == RecordType::ANY
    }

    /// Whether it asks for a zone (RFC 5936, RFC 1995): several answers may come.
    #[must_use]
    pub fn is_transfer(&self) -> bool {
        matches!(self.kind, RecordType::AXFR | RecordType::IXFR)
    }

    /// Whether the query is no more than its question and EDNS, so that its answer is one for others as well.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// The question alone, lower case, with what else an answer depends on: the same for all queries that one answer
    /// fits.
    #[must_use]
    pub fn essence(&self) -> Box<[u8]> {
        let [high, low] = self.flags();
        let edns = match self.edns {
            None => 0,
            Some(edns) => 1 + u8::from(edns.dnssec_ok),
        };
        let mut essence = Vec::with_capacity(3 + self.question().len());
        essence.extend_from_slice(&[high, low, edns]);
        // A letter stands nowhere but in labels: type and class are left as they are.
        let (name, rest) = self
            .question()
            .split_at(self.question().len().saturating_sub(4));
        essence.extend(name.iter().map(u8::to_ascii_lowercase));
        essence.extend_from_slice(rest);
        essence.into()
    }

    /// The query made anew of its question and EDNS: a guest tells the world nothing beside.
    #[must_use]
    pub fn rebuilt(&self) -> Vec<u8> {
        let payload = self.edns.map_or(0, |edns| edns.payload);
        self.compose(self.flags(), payload)
    }

    /// The flags that a query has a use for.
    fn flags(&self) -> [u8; 2] {
        match *self.bytes {
            [_, _, high, low, ..] => [high & RD, low & (AD | CD)],
            _ => [0, 0],
        }
    }

    fn question(&self) -> &[u8] {
        let question = self.bytes.get(HEADER_LEN..self.question_end);
        question.unwrap_or_default()
    }

    /// Puts the question as the guest wrote it, and its id, into an answer to the same question.
    pub fn adopt(&self, answer: &mut [u8]) {
        set_id(answer, self.id());
        if let Some(place) = answer.get_mut(HEADER_LEN..self.question_end) {
            place.copy_from_slice(self.question());
        }
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

    /// Whether a message goes on with the answer to this query, sent with its own id: the question may be left out then
    /// (RFC 5936, 2.2.1).
    #[must_use]
    pub fn is_continued_by(&self, message: &[u8]) -> bool {
        match message {
            [a, b, _, _, 0, 0, ..] => [*a, *b] == self.id() && is_answer(message),
            _ => self.is_answered_by(message, self.id()),
        }
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

    fn reply(&self, flags: [u8; 2]) -> Vec<u8> {
        self.compose(flags, EDNS_PAYLOAD)
    }

    /// Header and question, and EDNS where the query had it (RFC 6891, 7).
    fn compose(&self, [high, low]: [u8; 2], payload: u16) -> Vec<u8> {
        let [a, b] = self.id();
        let records = u8::from(self.edns.is_some());
        let mut message = Vec::with_capacity(self.question_end + OPT_LEN);
        message.extend_from_slice(&[a, b, high, low, 0, 1, 0, 0, 0, 0, 0, records]);
        message.extend_from_slice(self.question());
        if let Some(edns) = self.edns {
            let [c, d] = payload.to_be_bytes();
            // Of the flags, the DO bit alone has a meaning (RFC 3225, 3).
            let e = if edns.dnssec_ok { 0x80 } else { 0 };
            let [g, h] = u16::from(RecordType::OPT).to_be_bytes();
            message.extend_from_slice(&[0, g, h, c, d, 0, 0, e, 0, 0, 0]);
        }
        message
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

/// Whether an answer was cut.
#[must_use]
pub fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & TC != 0)
}

/// The code of an answer (RFC 1035, 4.1.1), without what EDNS adds to it.
#[must_use]
pub fn code_of(message: &[u8]) -> u8 {
    message.get(3).map_or(0, |flags| flags & 0x0f)
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
fn read_record(message: &[u8], decoder: &mut BinDecoder<'_>) -> Result<Option<Edns>, DecodeError> {
    name::read(message, decoder)?;
    let kind = RecordType::read(decoder)?;
    let payload = decoder.read_u16()?.unverified();
    let [_, version, flags, _] = decoder.read_u32()?.unverified().to_be_bytes();
    let len = decoder.read_u16()?.unverified();
    decoder.read_slice(len.into())?;
    Ok((kind == RecordType::OPT).then_some(Edns {
        payload,
        dnssec_ok: flags & 0x80 != 0,
        special: version != 0 || len != 0,
    }))
}

/// A name as text. Dots within a label, and what else would have to be escaped, are not taken: as text they were other
/// names.
fn text_of(name: &Name) -> Option<Box<str>> {
    let mut text = String::with_capacity(encoded_len(name));
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            if !byte.is_ascii_graphic() || matches!(byte, b'.' | b'\\') {
                return None;
            }
            text.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    Some(text.into())
}

/// Bytes of a name in a message, uncompressed.
fn encoded_len(name: &Name) -> usize {
    name.iter().map(|label| 1 + label.len()).sum::<usize>() + 1
}

#[cfg(test)]
mod tests;
