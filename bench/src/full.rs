//! A full table of flows: what the refusal of a new flow costs, and whether those that are open keep their rate.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::unistd::write;

use crate::figures::Figures;
use crate::frames::Frames;
use crate::pair::{BUSY, Pair, beside, datagram};
use crate::path::Clock;
use crate::report::{Better, Table};
use crate::session::Session;
use crate::variant::drop_at_far_end;
use netagent_tests::world::{SERVERS, server_v4};

/// Flows that the table holds.
const TABLE: u32 = 65_536;
/// Frames of one measurement.
const FRAMES: u32 = 200_000;
/// Flows that are measured in a table that is full, and in one that is not.
const OPEN: u32 = 256;
/// How often the other guest sends while a guest is measured: 200,000 frames a second.
const PACE: Duration = Duration::from_micros(5);
/// Highest price of a refusal, ns: everything from the write to its end.
const REFUSAL: f64 = 2_000.0;
/// Open flows are slower by so much at most.
const SLOWER: f64 = 1.05;
/// Rounds of a full run.
const ROUNDS: u32 = 7;

/// A table with the flows of a quiet guest in it, and those of a busy one.
struct Filled {
    pair: Pair,
    quiet: Frames,
    busy: Frames,
    /// Frames of flows that are not open.
    unknown: Frames,
    _far_end: OwnedFd,
}

/// Measures, interleaved.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("a full table of flows", rounds);
    let (mut full, mut free) = (Filled::new(), Filled::new());
    full.fill();
    let mut figures: [(&str, Figures); 6] = [
        "refused in a full table",
        "wrong hardware address",
        "open flows, table free",
        "open flows, table full",
        "open flows, beside open flows",
        "open flows, beside refusals",
    ]
    .map(|name| (name, Figures::default()));
    for _ in 0..rounds {
        let costs = [
            full.refuse(),
            full.drop_at_once(),
            free.go_on(),
            full.go_on(),
            full.go_on_beside(false),
            full.go_on_beside(true),
        ];
        for ((_, figures), cost) in figures.iter_mut().zip(costs) {
            figures.add(cost);
        }
        bar.inc(1);
    }
    let title =
        format!("a table of {TABLE} flows, 64-byte frames, guest to uplink, processor time");
    let mut table = Table::new("full/64-bytes", &title, ("ns", Better::Lower));
    for (name, figures) in &figures {
        table.add(name, figures);
    }
    session.add(table);
    let [refused, _, free, full, beside_open, beside_refusals] =
        figures.map(|(_, figures)| figures.median());
    for (what, value, target) in [
        ("a refusal, ns of the processor's time", refused, REFUSAL),
        ("open flows, table full / free", full / free, SLOWER),
        (
            "open flows, beside refusals / open ones",
            beside_refusals / beside_open,
            SLOWER,
        ),
    ] {
        session.goal(
            &format!("full table: {what}"),
            value,
            (Better::Lower, target),
        );
    }
}

impl Filled {
    fn new() -> Self {
        let configuration = format!("[limits]\nflows = 1000000\n[datapath]\nflows = {TABLE}\n");
        let pair = Pair::new(&configuration);
        let frames = |nic, numbers: std::ops::Range<u32>| -> Frames {
            let frame = |number| {
                let (server, ports) = flow(number);
                datagram(nic, server, ports)
            };
            numbers.map(frame).collect()
        };
        let (quiet, busy) = (frames(&pair.quiet, 0..OPEN), frames(&pair.busy, 0..OPEN));
        let unknown = frames(&pair.busy, OPEN..OPEN + 2 * TABLE);
        let mut table = Self {
            _far_end: drop_at_far_end(&pair.world),
            pair,
            quiet,
            busy,
            unknown,
        };
        let (quiet, busy) = (table.pair.quiet.tap.file(), table.pair.busy.tap.file());
        table.quiet.write(quiet, (0, OPEN));
        table.busy.write(busy, (0, OPEN));
        table
    }

    /// Opens flows until no more are taken; what is sent after that is refused.
    fn fill(&mut self) {
        let tap = self.pair.busy.tap.file();
        self.unknown.write(tap, (0, TABLE));
        assert!(self.refused() > 0, "the table takes more than it should");
        // From here on every frame of these is one of a flow that found no place.
        let known = TABLE as usize;
        self.unknown = (known..2 * known)
            .map(|index| self.unknown.get(index)[netagent_tests::frame::VNET_HEADER_LEN..].to_vec())
            .collect();
    }

    fn refused(&self) -> u64 {
        let drops = self.pair.agent.drops(BUSY);
        drops.get("flow_table_full").copied().unwrap_or(0)
    }

    fn refuse(&mut self) -> f64 {
        let before = self.refused();
        let cost = self.unknown.write(self.pair.busy.tap.file(), (0, FRAMES));
        assert_eq!(
            self.refused() - before,
            u64::from(FRAMES),
            "each is refused"
        );
        cost.processor
    }

    /// What no program can be cheaper than.
    fn drop_at_once(&self) -> f64 {
        let (server, ports) = flow(0);
        let mut bytes = datagram(&self.pair.busy, server, ports);
        bytes[11] ^= 1;
        let mut frames = Frames::from_iter([bytes]);
        frames
            .write(self.pair.busy.tap.file(), (0, FRAMES))
            .processor
    }

    fn go_on(&mut self) -> f64 {
        let before = self.pair.sent_on(crate::pair::QUIET);
        let cost = self.quiet.write(self.pair.quiet.tap.file(), (0, FRAMES));
        let sent = self.pair.sent_on(crate::pair::QUIET) - before;
        assert_eq!(sent, u64::from(FRAMES), "each is sent on");
        cost.processor
    }

    /// The same while the other guest sends as well: what is refused, or what is not.
    fn go_on_beside(&self, is_refused: bool) -> f64 {
        let Pair { quiet, busy, .. } = &self.pair;
        let frames = if is_refused {
            &self.unknown
        } else {
            &self.busy
        };
        let before = self.refused();
        let work = |is_over: &std::sync::atomic::AtomicBool| {
            let (clock, mut count) = (Clock::start(), 0);
            while !is_over.load(Ordering::Relaxed) {
                for index in 0..OPEN as usize {
                    write(quiet.tap.file(), self.quiet.get(index)).expect("the TAP takes frames");
                }
                count += u64::from(OPEN);
            }
            clock.cost_of_each(count).processor
        };
        let (cost, _) = beside((busy, frames), (FRAMES, PACE), work);
        let refused = self.refused() - before;
        assert_eq!(refused, if is_refused { u64::from(FRAMES) } else { 0 });
        cost
    }
}

/// Server and ports of a flow.
fn flow(number: u32) -> (Ipv4Addr, (u16, u16)) {
    let server = server_v4((number % u32::from(SERVERS)) as u8);
    let rest = number / u32::from(SERVERS);
    (
        server,
        (32_768 + (rest / 16) as u16, 1_000 + (rest % 16) as u16),
    )
}
