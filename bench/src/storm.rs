//! A thousand guests that boot in one moment: how long until each has its address and an advertisement, and what
//! that costs the agent.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::figures::Figures;
use crate::memory::Memory;
use crate::report::{Better, Table};
use crate::session::Session;
use crate::start::fill;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::{now, wait_until};
use netagent_tests::dhcp::{Client, Way, kind, option, read_answer};
use netagent_tests::guest::Nic;
use netagent_tests::router::{self, Advertisement};
use netagent_tests::tap::Header;
use netagent_tests::world::World;

/// Guests that ask at once.
const GUESTS: u32 = 1_000;

/// Rounds of a full run: each takes its time.
const ROUNDS: u32 = 3;

/// After this time a client asks again (RFC 2131, 4.1).
const PATIENCE: Duration = Duration::from_secs(4);

/// Longest that is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// What a guest waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Offer,
    Acknowledgement,
    Nothing,
}

/// One guest.
struct Asking<'a> {
    nic: &'a Nic,
    waiting: Waiting,
    has_router: bool,
    asked: Instant,
}

/// Makes the guests, and lets them ask.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("guests that boot at once", rounds);
    let world = World::new();
    let agent = world.agent("");
    fill(&agent, GUESTS);
    let nics = open(&world, &agent);
    let (mut times, mut repeated) = (Figures::default(), 0);
    let (mut settled, mut peak) = (Figures::default(), Figures::default());
    for _ in 0..rounds {
        let before = Memory::of(agent.pid());
        Memory::forget_peak(agent.pid());
        let (took, again) = storm(&nics);
        let after = Memory::of(agent.pid());
        times.add(took);
        repeated += again;
        settled.add(after.resident_mb - before.resident_mb);
        peak.add(after.peak_mb - before.resident_mb);
        bar.inc(1);
    }
    let title = format!("{GUESTS} guests ask for DHCP and a router at once");
    let mut table = Table::new("storm/answered", &title, ("s", Better::Lower));
    table.add("until all are answered", &times);
    table.note(format!("{repeated} questions were asked again"));
    session.add(table);
    let title = format!("memory of the agent while {GUESTS} guests ask at once");
    let mut table = Table::new("storm/memory", &title, ("MB more", Better::Lower));
    table.add("resident after it", &settled);
    table.add("peak", &peak);
    session.add(table);
    for (what, value, target) in [
        ("until all are answered, s", times.median(), 5.0),
        (
            "resident memory, up by at most, MB",
            settled.quantile(1.0),
            10.0,
        ),
        (
            "peak of memory, up by at most, MB",
            peak.quantile(1.0),
            10.0,
        ),
    ] {
        let what = format!("{GUESTS} guests at once: {what}");
        session.goal(&what, value, (Better::Lower, target));
    }
}

/// Opens every TAP, and waits until the agent has seen that.
fn open(world: &World, agent: &Agent) -> Vec<Nic> {
    let all = agent.api("GET", "/v1/instances", "").body;
    let instances = all.as_array().expect("the API lists");
    let nics = instances
        .iter()
        .map(|one| Nic::open(&world.host, &one["network_interfaces"][0], Header::Vnet))
        .collect();
    for instance in instances {
        let name = instance["name"].as_str().expect("each has a name");
        wait_until("the TAP is attached", LIMIT, || {
            agent.inspect(name)["network_interfaces"][0]["attached"] == true
        });
    }
    nics
}

/// Lets all ask at once; seconds until the last has what it asked for, and how many asked again.
fn storm(nics: &[Nic]) -> (f64, u32) {
    for nic in nics {
        while nic.tap.receive_now().is_some() {}
    }
    let began = now();
    let ask = |nic| {
        let mut guest = Asking {
            nic,
            waiting: Waiting::Offer,
            has_router: false,
            asked: began,
        };
        guest.ask();
        guest
    };
    let mut guests: Vec<Asking<'_>> = nics.iter().map(ask).collect();
    let mut again = 0;
    while guests.iter().any(|guest| !guest.is_done()) {
        assert!(began.elapsed() < LIMIT, "not answered in {LIMIT:?}");
        let waiting: Vec<usize> = (0..guests.len())
            .filter(|index| !guests[*index].is_done())
            .collect();
        for index in readable(&guests, &waiting) {
            guests[index].listen();
        }
        for guest in guests.iter_mut().filter(|guest| !guest.is_done()) {
            if guest.asked.elapsed() > PATIENCE {
                guest.ask();
                again += 1;
            }
        }
    }
    (began.elapsed().as_secs_f64(), again)
}

/// Those of the guests that wait to whom something has come.
fn readable(guests: &[Asking<'_>], waiting: &[usize]) -> Vec<usize> {
    let mut descriptors: Vec<PollFd<'_>> = waiting
        .iter()
        .map(|index| PollFd::new(guests[*index].nic.tap.as_fd(), PollFlags::POLLIN))
        .collect();
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
    poll(&mut descriptors, timeout).expect("poll of the TAPs");
    let ready = waiting.iter().zip(&descriptors);
    ready
        .filter(|(_, descriptor)| descriptor.any().unwrap_or(false))
        .map(|(index, _)| *index)
        .collect()
}

impl Asking<'_> {
    fn is_done(&self) -> bool {
        self.waiting == Waiting::Nothing && self.has_router
    }

    /// Asks for what is still missing.
    fn ask(&mut self) {
        let client = Client::new(self.nic);
        match self.waiting {
            Waiting::Offer => client.send(Way::NEW, &client.question(kind::DISCOVER, 1)),
            Waiting::Acknowledgement => {
                let request = client
                    .question(kind::REQUEST, 1)
                    .with_address(option::WANTED, self.nic.v4)
                    .with_address(option::SERVER, self.nic.gateway_v4);
                client.send(Way::NEW, &request);
            }
            Waiting::Nothing => {}
        }
        if !self.has_router && self.waiting != Waiting::Acknowledgement {
            let own = router::link_local(self.nic.mac);
            let question = router::solicitation(self.nic, own, &router::own_mac(self.nic));
            self.nic.tap.send_bytes(question);
        }
        self.asked = now();
    }

    /// Takes what has come, and goes on.
    fn listen(&mut self) {
        while let Some(frame) = self.nic.tap.receive_now() {
            let bytes = frame.completed();
            self.has_router |= Advertisement::parse(&bytes).is_some();
            let Some(answer) = read_answer(&bytes) else {
                continue;
            };
            assert_eq!(answer.message.given(), self.nic.v4, "the reserved address");
            match (self.waiting, answer.message.kind()) {
                (Waiting::Offer, kind::OFFER) => {
                    self.waiting = Waiting::Acknowledgement;
                    self.ask();
                }
                (Waiting::Acknowledgement, kind::ACK) => self.waiting = Waiting::Nothing,
                // An answer to what was asked twice.
                _ => {}
            }
        }
    }
}
