//! What an answer leads to (D-4): the addresses that belong to its question, and those that stand anywhere in it (D-6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Header, Query as Question};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

mod record;

use record::{Data, Record, Section};

use crate::dns::message::code_of;
use crate::dns::name;

/// Longest time for which an address is taken to be good.
const TTL_MAX: u32 = 24 * 60 * 60;
/// Longest time for which an answer is kept, and one that there is nothing (RFC 2308, 5).
const KEPT_MAX: u32 = 60 * 60;
const NOTHING_KEPT_MAX: u32 = 15 * 60;

const NO_ERROR: u8 = 0;
const NO_NAME: u8 = 3;

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("a malformed DNS answer")]
pub struct Malformed {
    #[from]
    source: DecodeError,
}

/// What there is to know of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    led_to: Vec<(IpAddr, u32)>,
    everywhere: Vec<IpAddr>,
    ttls: Vec<(usize, u32)>,
    good_for: Option<u32>,
}

impl Answer {
    /// Reads an answer.
    ///
    /// # Errors
    /// Where it breaks the rules so that not every address in it is found.
    pub fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = BinDecoder::new(message);
        let header = Header::read(&mut decoder)?;
        let mut asked = None;
        for _ in 0..header.counts.queries {
            name::check(message, decoder.index())?;
            let question = Question::read(&mut decoder)?;
            // Of two questions, none is the question.
            let first = asked.is_none() && header.counts.queries == 1;
            asked = first.then(|| question.name().clone());
        }
        let mut links = Links::default();
        let mut answer = Self::default();
        let mut soa = None;
        let counts = &header.counts;
        for (section, count) in [
            (Section::Answer, counts.answers),
            (Section::Authority, counts.authorities),
            (Section::Additional, counts.additionals),
        ] {
            for _ in 0..count {
                let record = Record::read(message, &mut decoder, section)?;
                answer.note(&record);
                if let (Section::Authority, Data::Authority(minimum)) = (section, &record.data) {
                    soa = Some(record.ttl.min(*minimum));
                }
                links.take(record);
            }
        }
        answer.good_for = answer.lifetime(code_of(message), counts.answers > 0, soa);
        if let Some(asked) = asked {
            let reached = links.reached(&asked);
            answer.led_to = reached.into_iter().collect();
        }
        Ok(answer)
    }

    fn note(&mut self, record: &Record) {
        match &record.data {
            Data::Address(address) => self.everywhere.push(*address),
            Data::Service { hints, .. } => self.everywhere.extend_from_slice(hints),
            Data::Alias(_) | Data::Authority(_) | Data::Other => {}
        }
        // What stands in this place of EDNS is no time.
        if record.kind != RecordType::OPT {
            self.ttls.push((record.ttl_at, record.ttl));
        }
    }

    /// For how long others may have it; `None` where not at all.
    fn lifetime(&self, code: u8, has_answers: bool, soa: Option<u32>) -> Option<u32> {
        let least = self.ttls.iter().map(|(_, ttl)| *ttl).min();
        let least = match (code, soa) {
            (NO_ERROR | NO_NAME, Some(soa)) => least?.min(soa).min(NOTHING_KEPT_MAX),
            (NO_ERROR, None) if has_answers => least?.min(KEPT_MAX),
            _ => 0,
        };
        (least > 0).then_some(least)
    }

    /// The addresses that the question leads to, each once, and for how many seconds they are good.
    #[must_use]
    pub fn led_to(&self) -> &[(IpAddr, u32)] {
        &self.led_to
    }

    /// Every address in the message, whatever it belongs to.
    #[must_use]
    pub fn everywhere(&self) -> &[IpAddr] {
        &self.everywhere
    }

    /// How long the answer may be given to others; `None` where not at all.
    #[must_use]
    pub fn good_for(&self) -> Option<Duration> {
        let seconds = self.good_for?;
        Some(Duration::from_secs(seconds.into()))
    }

    /// Lowers every time in the message that this was read from.
    pub fn grow_older(&self, message: &mut [u8], seconds: u32) {
        for (at, ttl) in &self.ttls {
            if let Some(place) = message
                .get_mut(*at..)
                .and_then(|rest| rest.first_chunk_mut())
            {
                *place = ttl.saturating_sub(seconds).to_be_bytes();
            }
        }
    }

    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn size(&self) -> usize {
        let (led_to, ttls) = (self.led_to.capacity(), self.ttls.capacity());
        let everywhere = self.everywhere.capacity();
        led_to * size_of::<(IpAddr, u32)>()
            + everywhere * size_of::<IpAddr>()
            + ttls * size_of::<(usize, u32)>()
    }
}

/// Which name leads where.
#[derive(Debug, Default)]
struct Links {
    /// Of the answer section.
    addresses: BTreeMap<Name, Vec<(IpAddr, u32)>>,
    /// Of the additional section.
    glue: BTreeMap<Name, Vec<(IpAddr, u32)>>,
    /// Names that stand for another.
    aliases: BTreeMap<Name, Vec<(Name, u32)>>,
    /// Names whose service another one offers.
    services: BTreeMap<Name, Vec<(Name, u32)>>,
}

impl Links {
    fn take(&mut self, record: Record) {
        if record.class != DNSClass::IN {
            return;
        }
        let Record {
            owner, data, ttl, ..
        } = record;
        let ttl = ttl.min(TTL_MAX);
        match (record.section, data) {
            (Section::Answer, Data::Address(address)) => {
                self.addresses
                    .entry(owner)
                    .or_default()
                    .push((address, ttl));
            }
            (Section::Additional, Data::Address(address)) => {
                self.glue.entry(owner).or_default().push((address, ttl));
            }
            (Section::Answer, Data::Alias(target)) => {
                self.aliases.entry(owner).or_default().push((target, ttl));
            }
            (Section::Answer, Data::Service { target, hints }) => {
                let hints = hints.into_iter().map(|hint| (hint, ttl));
                self.addresses
                    .entry(owner.clone())
                    .or_default()
                    .extend(hints);
                if !target.is_root() {
                    self.services.entry(owner).or_default().push((target, ttl));
                }
            }
            (
                Section::Answer | Section::Authority | Section::Additional,
                Data::Address(_)
                | Data::Alias(_)
                | Data::Service { .. }
                | Data::Authority(_)
                | Data::Other,
            ) => {}
        }
    }

    /// The addresses that a name leads to. Each name is gone to once, so loops end, and the work grows with the length
    /// of the message alone.
    fn reached(&self, asked: &Name) -> BTreeMap<IpAddr, u32> {
        let mut reached = BTreeMap::new();
        let mut put = |found: Option<&Vec<(IpAddr, u32)>>, most: u32| {
            for (address, ttl) in found.into_iter().flatten() {
                let good_for = reached.entry(*address).or_default();
                *good_for = (*ttl).min(most).max(*good_for);
            }
        };
        let mut seen = BTreeSet::from([asked]);
        let mut served = BTreeSet::new();
        let mut open = vec![(asked, TTL_MAX)];
        while let Some((name, most)) = open.pop() {
            put(self.addresses.get(name), most);
            for (target, ttl) in self.services.get(name).into_iter().flatten() {
                if served.insert(target) {
                    put(self.addresses.get(target), most.min(*ttl));
                    put(self.glue.get(target), most.min(*ttl));
                }
            }
            for (target, ttl) in self.aliases.get(name).into_iter().flatten() {
                if seen.insert(target) {
                    open.push((target, most.min(*ttl)));
                }
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests;
