//! What the resolver adds to a query over asking the name server itself: both ways in turns, at a steady pace.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::dns::asker::{Asker, check, wait_any};
use crate::dns::zone::Zone;
use crate::dns::{NAME_SERVER, agent};
use crate::figures::Figures;
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::deadline::now;
use netagent_tests::world::{World, server_v4};

/// Queries of one block: a second of them.
const QUERIES: u16 = 1_000;
/// Time from one query to the next.
const PACE: Duration = Duration::from_millis(1);
/// Queries that are late and sent at once, at most.
const BEHIND_MAX: u32 = 8;
/// What is not answered until then counts as if it were answered now.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// The same in us.
const LOST_US: f64 = 1e6;
/// Rounds of a full run.
const ROUNDS: u32 = 7;
/// Blocks of each way in one round.
const BLOCKS: u32 = 3;
/// Addresses that names lead to.
const ADDRESSES: u16 = 256;

/// How names are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The name server is asked by the guest, through NAT.
    Direct,
    /// A few names with a TTL of 0: each query is forwarded, and what it leads to is open already.
    Forwarded,
    /// Each name is asked for once.
    New,
    /// A few names with a long TTL.
    Cached,
}

const WAYS: [Way; 4] = [Way::Direct, Way::Forwarded, Way::New, Way::Cached];

impl Way {
    const fn title(self) -> &'static str {
        match self {
            Self::Direct => "asked directly",
            Self::Forwarded => "forwarded",
            Self::New => "forwarded, new names",
            Self::Cached => "cached",
        }
    }

    fn name(self, block: u32, number: u16) -> String {
        match self {
            Self::Direct | Self::Forwarded => format!("n{}.ttl0.bench.example", number % 8),
            Self::New => format!("n{block}-{number}.ttl0.bench.example"),
            Self::Cached => format!("n{}.ttl300.bench.example", number % 8),
        }
    }
}

/// The address of a name.
fn address(name: &str) -> Ipv4Addr {
    let sum: u32 = name.bytes().map(u32::from).sum();
    let [.., high, low] = (sum % u32::from(ADDRESSES)).to_be_bytes();
    Ipv4Addr::new(45, 64, high, low)
}

/// Asks in all ways by turns.
pub(super) fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("DNS queries at a steady pace", rounds);
    let world = World::new();
    let zone = Zone::start(&world, |name, _| {
        let ttl = if name.contains(".ttl0.") { 0 } else { 300 };
        (vec![address(name).into()], ttl)
    });
    let agent = agent(&world);
    let direct = json!({ "name": "direct" });
    let listed = json!({ "name": "listed", "allowed_domains": ["*.bench.example"] });
    let mut direct = Asker::create(&agent, &world.host, (&direct, Some(server_v4(NAME_SERVER))));
    let mut listed = Asker::create(&agent, &world.host, (&listed, None));
    let (mut blocks, mut lost) = (0, 0);
    let mut measure = |way: Way| {
        blocks += 1;
        let asker = if way == Way::Direct {
            &mut direct
        } else {
            &mut listed
        };
        asker.renew();
        let before = zone.asked();
        let took = block(asker, |number| way.name(blocks, number));
        let asked = zone.asked() - before;
        let answered = took.iter().filter(|took| **took < LOST_US).count() as u64;
        let is_right = match way {
            Way::Cached => asked <= 8,
            Way::Direct | Way::Forwarded | Way::New => asked >= answered,
        };
        assert!(is_right, "{way:?}: the name server was asked {asked} times");
        lost += u64::from(QUERIES) - answered;
        took
    };
    for way in WAYS {
        measure(way);
    }
    let mut figures: [[Figures; 2]; WAYS.len()] = Default::default();
    for _ in 0..rounds {
        let mut pooled: [Figures; WAYS.len()] = Default::default();
        for _ in 0..BLOCKS {
            for (way, pooled) in WAYS.into_iter().zip(&mut pooled) {
                measure(way).into_iter().for_each(|took| pooled.add(took));
            }
        }
        for ([p50, p99], pooled) in figures.iter_mut().zip(&pooled) {
            p50.add(pooled.quantile(0.5));
            p99.add(pooled.quantile(0.99));
        }
        bar.inc(1);
    }
    judge(session, &figures, lost);
}

fn judge(session: &mut Session, figures: &[[Figures; 2]; WAYS.len()], lost: u64) {
    for (index, (name, target)) in [("p50", 100.0), ("p99", 1_000.0)].into_iter().enumerate() {
        let title = format!("DNS queries, 1,000 a second, query to answer, {name}");
        let mut table = Table::new(
            &format!("dns/latency/{name}"),
            &title,
            ("us", Better::Lower),
        );
        for (way, figures) in WAYS.into_iter().zip(figures) {
            table.add(way.title(), &figures[index]);
        }
        table.note(format!("{lost} queries had no answer"));
        session.add(table);
        let [direct, others @ ..] = figures;
        for (way, other) in WAYS[1..].iter().zip(others) {
            let added = added(&direct[index], &other[index]).median();
            let what = format!("DNS, what is added to a query, {}, {name}, us", way.title());
            session.goal(&what, added, (Better::Lower, target));
        }
    }
}

/// What each round added.
fn added(direct: &Figures, figures: &Figures) -> Figures {
    let mut added = Figures::default();
    for (direct, other) in direct.values().iter().zip(figures.values()) {
        added.add(other - direct);
    }
    added
}

/// Asks once each pace, whether or not the query before was answered; what each answer took, us.
fn block(asker: &Asker, name: impl Fn(u16) -> String) -> Vec<f64> {
    let mut sent: Vec<Instant> = Vec::new();
    let mut took = Vec::new();
    let mut due = now();
    let mut hear = |sent: &[Instant], until: Instant| {
        wait_any(std::slice::from_ref(asker), until);
        while let Some(told) = asker.told() {
            let at = now();
            let name = name(told.id);
            check(&told, (&name, address(&name)));
            let since = sent[usize::from(told.id)];
            took.push(at.duration_since(since).as_secs_f64() * 1e6);
        }
        took.len()
    };
    for id in 0..QUERIES {
        let frame = asker.frame(id, &name(id));
        while now() < due {
            hear(&sent, due);
        }
        // Where this thread had no processor for long, it does not make up for all of that at once.
        due = due.max(now() - PACE * BEHIND_MAX) + PACE;
        sent.push(now());
        asker.send(&frame);
    }
    let end = now() + LOST_AFTER;
    while hear(&sent, end) < sent.len() && now() < end {}
    took.resize(sent.len(), LOST_US);
    took
}
