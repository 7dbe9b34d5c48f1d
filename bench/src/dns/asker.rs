//! A guest that asks by raw frames.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::unistd::write;
use serde_json::Value;

use crate::dns::zone::Told;
use netagent_tests::agent::Agent;
use netagent_tests::deadline::now;
use netagent_tests::guest::{Guest, Nic};
use netagent_tests::name_server::{PORT, question};
use netagent_tests::netns::NetNs;
use netagent_tests::packet::{self, Packet};
use netagent_tests::tap::Header;

/// The guest's first port.
const OWN_PORT: u16 = 40_000;
/// Longest frame that it gets.
const FRAME_LEN_MAX: usize = 2_048;

/// A guest with a name server that it asks.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) nic: Nic,
    server: Ipv4Addr,
    port: u16,
}

impl Asker {
    /// Creates an instance whose guest asks its gateway, or another server.
    pub(super) fn create(
        agent: &Agent,
        host: &NetNs,
        (spec, server): (&Value, Option<Ipv4Addr>),
    ) -> Self {
        let mut guest = Guest::create_from(agent, host, spec, Header::None);
        Self::on(guest.nics.remove(0), server)
    }

    /// On an interface whose TAP was opened without a virtio header.
    pub(super) fn on(nic: Nic, server: Option<Ipv4Addr>) -> Self {
        Self {
            server: server.unwrap_or(nic.gateway_v4),
            nic,
            port: OWN_PORT,
        }
    }

    /// Asks from another port from now on: what is still to come for the one before is not heard.
    pub(super) fn renew(&mut self) {
        self.port += 1;
    }

    fn tap(&self) -> BorrowedFd<'_> {
        self.nic.tap.as_fd()
    }

    /// A query for the IPv4 address of a name, as it is [sent](Self::send).
    pub(super) fn frame(&self, id: u16, name: &str) -> Vec<u8> {
        let ends = self.nic.to(self.server);
        packet::udp(&ends, (self.port, PORT), &question(id, name))
    }

    pub(super) fn send(&self, frame: &[u8]) {
        write(self.nic.tap.file(), frame).expect("the TAP takes frames");
    }

    /// The next answer, where one is there.
    ///
    /// # Panics
    /// Where it does not come from the server that was asked.
    pub(super) fn told(&self) -> Option<Told> {
        let mut buffer = [0; FRAME_LEN_MAX];
        loop {
            let length = match self.nic.tap.file().read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("read from the TAP: {error}"),
            };
            // Advertisements and reports fall in between.
            let answer = Packet::parse(&buffer[..length]).filter(|packet| packet.protocol == 17);
            let Some(answer) = answer.filter(|packet| packet.ports == (PORT, self.port)) else {
                continue;
            };
            assert_eq!(answer.ends.src, IpAddr::V4(self.server));
            return Some(Told::read(&answer.payload).expect("an answer with addresses"));
        }
    }
}

/// Waits until one of them has a frame, or until then.
pub(super) fn wait_any(askers: &[Asker], until: Instant) {
    let left = until
        .checked_duration_since(now())
        .unwrap_or(Duration::ZERO);
    let of = |asker| PollFd::new(Asker::tap(asker), PollFlags::POLLIN);
    let mut descriptors: Vec<PollFd<'_>> = askers.iter().map(of).collect();
    ppoll(&mut descriptors, Some(TimeSpec::from_duration(left)), None).expect("poll of TAPs");
}

/// Asserts that an answer gives one address.
pub(super) fn check(told: &Told, (name, address): (&str, Ipv4Addr)) {
    let expected = Told {
        id: told.id,
        code: 0,
        name: name.to_owned(),
        addresses: vec![address.into()],
    };
    assert_eq!(*told, expected);
}
