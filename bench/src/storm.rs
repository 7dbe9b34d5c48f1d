//! A thousand guests that boot in one moment: how long until each has its address and an advertisement, and what
//! that costs the agent.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::figures::{Figures, print_target};
use crate::memory::Memory;
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

/// Makes the guests, lets them ask, and prints the figures.
pub fn run(rounds: u32) {
    println!("\n{GUESTS} guests ask for DHCP and a router at once:");
    let world = World::new();
    let agent = world.agent("");
    fill(&agent, GUESTS);
    let nics = open(&world, &agent);
    let mut times = Figures::default();
    let (mut settled, mut peak) = (Figures::default(), Figures::default());
    for _ in 0..rounds {
        let before = Memory::of(agent.pid());
        Memory::forget_peak(agent.pid());
        let (took, again) = storm(&nics);
        let after = Memory::of(agent.pid());
        println!("  {took:.3} s, {again} questions asked again; memory {before}, then {after}");
        times.add(took);
        settled.add(after.resident_mb - before.resident_mb);
        peak.add(after.peak_mb - before.resident_mb);
    }
    print_target(
        "until all are answered, median, s",
        times.median(),
        ('<', 5.0),
    );
    print_target(
        "resident memory, up by at most, MB",
        settled.quantile(1.0),
        ('<', 10.0),
    );
    print_target(
        "peak of memory, up by at most, MB",
        peak.quantile(1.0),
        ('<', 10.0),
    );
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
