//! How exactly a guest's rate is limited, and what that does to its connection (B9): netagent's bucket beside TBF and
//! HTB, which shape on the TAP and on the uplink.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::figures::Figures;
use crate::guest::host::{Host, NAME, Setting};
use crate::guest::machine::Offloads;
use crate::guest::way::Way;
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::deadline::{SOON, now};
use netagent_tests::demand::{Demand, Ends, arriving};
use netagent_tests::limits::both_ways;
use netagent_tests::netns::NetNs;
use netagent_tests::world::{UPLINK, server_v4};

const MEGABIT: u64 = 1_000_000;
const RATES: [u64; 3] = [MEGABIT, 50 * MEGABIT, 500 * MEGABIT];
const ROUNDS: u32 = 3;
/// Over which each is measured.
const TIME: Duration = Duration::from_millis(1_100);
/// Port of the server that answers at once.
const PORT: u16 = 7_007;
/// Time between two questions.
const PACE: Duration = Duration::from_millis(5);
/// TAP of the ways that are not netagent's.
const TAP: &str = "tap0";

/// What limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limiter {
    Bucket,
    Tbf,
    Htb,
}

impl Limiter {
    const ALL: [Self; 3] = [Self::Bucket, Self::Tbf, Self::Htb];

    const fn name(self) -> &'static str {
        match self {
            Self::Bucket => "netagent",
            Self::Tbf => "nft + TBF",
            Self::Htb => "nft + HTB",
        }
    }

    /// A host whose guest has no limit yet.
    fn prepare(self) -> Host {
        let way = match self {
            Self::Bucket => Way::Netagent,
            Self::Tbf | Self::Htb => Way::Nft,
        };
        Host::prepare(way, &Setting::with(Offloads::On))
    }

    /// Limits it both ways.
    fn limit(self, host: &Host, rate: u64) {
        let netns = &host.world.host;
        match self {
            Self::Bucket => {
                let agent = host.agent.as_ref().expect("it is netagent's");
                agent.limit(NAME, &both_ways(rate));
            }
            Self::Tbf => {
                // As much as passes in 4 ms, and a few frames at least.
                let burst = (rate / 8 / 250).max(16_000);
                for device in [TAP, UPLINK] {
                    netns.shell(&format!(
                        "tc qdisc replace dev {device} root tbf rate {rate}bit burst {burst} latency 50ms"
                    ));
                }
            }
            Self::Htb => {
                for device in [TAP, UPLINK] {
                    // There is none at first, and one that is there cannot be changed.
                    netns.try_shell(&format!("tc qdisc delete dev {device} root"));
                    netns.shell(&format!(
                        "tc qdisc add dev {device} root handle 1: htb default 1"
                    ));
                    netns.shell(&format!(
                        "tc class replace dev {device} parent 1: classid 1:1 htb rate {rate}bit"
                    ));
                }
            }
        }
    }
}

/// What was found at one rate, in one direction.
#[derive(Clone, Debug, Default)]
struct Found {
    goodput: Figures,
    resent: Figures,
    delay: Figures,
}

/// Measures every limiter in turn, each round in new namespaces.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("rates", rounds * Limiter::ALL.len() as u32);
    let mut found: [[[Found; 3]; 2]; 3] = Default::default();
    for _ in 0..rounds {
        for (limiter, found) in Limiter::ALL.into_iter().zip(&mut found) {
            let host = limiter.prepare();
            for (index, rate) in RATES.into_iter().enumerate() {
                limiter.limit(&host, rate);
                for (found, is_upload) in found.iter_mut().zip([true, false]) {
                    measure(&host, (rate, is_upload), &mut found[index]);
                }
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    for (direction, name) in ["up", "down"].into_iter().enumerate() {
        for (id, what, unit, of) in KINDS {
            let title = format!("{what}, one TCP connection ({name}), by its limit in Mbit/s");
            let id = format!("rate/{id}/{name}");
            let mut table = Table::new(&id, &title, unit).over("Mbit/s");
            for (limiter, found) in Limiter::ALL.iter().zip(&found) {
                for (rate, found) in RATES.iter().zip(&found[direction]) {
                    let at = Some((rate / MEGABIT) as f64);
                    table.add_at(limiter.name(), at, of(found));
                }
            }
            table.note("TBF, HTB: on the TAP for what comes down and on the uplink for what goes up, with a queue before them; netagent has none, and drops what is too much.");
            session.add(table);
        }
    }
}

type Kind = (
    &'static str,
    &'static str,
    (&'static str, Better),
    fn(&Found) -> &Figures,
);

const KINDS: [Kind; 3] = [
    (
        "goodput",
        "Payload that arrives, percent of the limit",
        ("%", Better::Higher),
        |found| &found.goodput,
    ),
    (
        "resent",
        "Segments sent again, for each MB",
        ("segments/MB", Better::Lower),
        |found| &found.resent,
    ),
    (
        "delay",
        "An exchange of datagrams beside it, 99th percentile",
        ("ms", Better::Lower),
        |found| &found.delay,
    ),
];

fn measure(host: &Host, (rate, is_upload): (u64, bool), found: &mut Found) {
    let (guest, world) = (&host.guest.netns, &host.world.outside);
    let ends = Ends {
        guest,
        world,
        server: IpAddr::V4(server_v4(0)),
        is_upload,
    };
    let sender = if is_upload { guest } else { world };
    let before = resent(sender);
    let is_over = AtomicBool::new(false);
    let (bits, delays) = thread::scope(|scope| {
        let asking = scope.spawn(|| delays(guest, world, &is_over));
        let bits = arriving(ends, Demand::Tcp(1, "cubic"), TIME);
        is_over.store(true, Ordering::Relaxed);
        (bits, asking.join().expect("who asks does not panic"))
    });
    let megabytes = bits * TIME.as_secs_f64() / 8e6;
    found.goodput.add(bits / rate as f64 * 100.0);
    found
        .resent
        .add((resent(sender) - before) as f64 / megabytes);
    found.delay.add(delays.quantile(0.99));
}

/// Segments that a namespace has sent again so far.
fn resent(netns: &NetNs) -> u64 {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
    let text = text.expect("proc is mounted");
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next(), lines.next());
    let (names, values) = names.zip(values).expect("two lines about TCP");
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both
        .find(|(name, _)| *name == "RetransSegs")
        .expect("the kernel counts these");
    value.parse().expect("a number")
}

/// Milliseconds of exchanges of datagrams until it is over; one that gets lost counts as long as it is waited for.
fn delays(guest: &NetNs, world: &NetNs, is_over: &AtomicBool) -> Figures {
    let address = (server_v4(1), PORT);
    let server = world.run(|| UdpSocket::bind(address));
    let server = server.expect("the world has this address");
    let client = guest.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    let client = client.expect("a port");
    client.connect(address).expect("the guest has a route");
    for socket in [&client, &server] {
        socket
            .set_read_timeout(Some(SOON / 20))
            .expect("an open socket");
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 8];
            while !is_over.load(Ordering::Relaxed) {
                match server.recv_from(&mut buffer) {
                    Ok((_, peer)) => drop(server.send_to(&buffer, peer)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("the server: {error}"),
                }
            }
        });
        let (mut figures, mut number) = (Figures::default(), 0_u64);
        while !is_over.load(Ordering::Relaxed) {
            number += 1;
            figures.add(ask(&client, number));
            thread::sleep(PACE);
        }
        figures
    })
}

fn ask(client: &UdpSocket, number: u64) -> f64 {
    let (started, mut buffer) = (now(), [0; 8]);
    client
        .send(&number.to_be_bytes())
        .expect("the guest has a route");
    // An answer to an earlier question is none.
    while client.recv(&mut buffer).is_ok() && buffer != number.to_be_bytes() {}
    started.elapsed().as_secs_f64() * 1e3
}
