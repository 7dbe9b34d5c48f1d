//! What a packet costs in each program, branch by branch, without the kernel around it: for the benchmarks, and for the
//! gate that holds every change against what is recorded in the repository.
//!
//! A branch is run many times on the same packet. So that what a run leaves of the packet is what the next one takes,
//! the world knows the guest under the guest's own address and port: addresses are rewritten, to what they are.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use netagent_common::limit::Rate;
use netagent_common::names::{DROP_ALL, FROM_UPLINK, FROM_VM};
use netagent_common::net::tcp_flag::{ACK, SYN};
use netagent_common::policy::RouteKind;
use netagent_common::policy::policy_flag;
use netagent_common::vm::Interface;

use crate::packet::{self, Ends, Packet, Segment};
use crate::prog_run::{Context, Sizes, verdict};
use crate::scene::{
    self, FROM_UPLINK as AT_UPLINK, FROM_VM as AT_VM, GUEST_V4, GUEST_V6, REMOTE_V4, REMOTE_V6,
    Scene, back, to,
};
use crate::sys::{self, Instruction};

/// Runs of one measurement: each lowers the packet's hop limit, which begins at 255.
const RUNS: u32 = 200;
/// New flows of one measurement.
const NEW_FLOWS: u16 = 200;
/// Flows that a table holds: more than the new ones of all measurements.
const FLOWS: u32 = 1 << 16;
/// A port that the guest keeps: in the NAT range.
const GUEST_PORT: u16 = 20_000;
const REMOTE_PORT: u16 = 443;
const PAYLOAD: [u8; 22] = [0x5a; 22];

/// A way of a packet through a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// The guest sends in an open flow of UDP over IPv4.
    UdpV4,
    /// The same of TCP.
    TcpV4,
    /// The same over IPv6.
    TcpV6,
    /// The same with limits on its bandwidth and its packets.
    Limited,
    /// The guest opens a flow.
    NewFlow,
    /// The guest sends where nobody may.
    Denied,
    /// A reply of UDP over IPv4.
    ReplyUdpV4,
    /// The same of TCP.
    ReplyTcpV4,
    /// The same over IPv6.
    ReplyTcpV6,
    /// A packet of the host itself arrives.
    OfHost,
    /// `deny-all` drops a frame in XDP.
    DropAll,
}

impl Branch {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::UdpV4,
        Self::TcpV4,
        Self::TcpV6,
        Self::Limited,
        Self::NewFlow,
        Self::Denied,
        Self::ReplyUdpV4,
        Self::ReplyTcpV4,
        Self::ReplyTcpV6,
        Self::OfHost,
        Self::DropAll,
    ];

    /// Program and branch, as they are recorded.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UdpV4 => "from_vm, open flow, UDP",
            Self::TcpV4 => "from_vm, open flow, TCP",
            Self::TcpV6 => "from_vm, open flow, TCP over IPv6",
            Self::Limited => "from_vm, open flow, UDP, limited",
            Self::NewFlow => "from_vm, new flow",
            Self::Denied => "from_vm, denied",
            Self::ReplyUdpV4 => "from_uplink, reply, UDP",
            Self::ReplyTcpV4 => "from_uplink, reply, TCP",
            Self::ReplyTcpV6 => "from_uplink, reply, TCP over IPv6",
            Self::OfHost => "from_uplink, the host's own",
            Self::DropAll => "drop_all, dropped",
        }
    }

    const fn is_v4(self) -> bool {
        !matches!(self, Self::TcpV6 | Self::ReplyTcpV6)
    }

    const fn is_tcp(self) -> bool {
        matches!(
            self,
            Self::TcpV4 | Self::TcpV6 | Self::ReplyTcpV4 | Self::ReplyTcpV6
        )
    }

    fn record(self) -> Interface {
        const MUCH: u64 = 50_000_000_000;
        let mut record = scene::record();
        record.flow_limit = FLOWS;
        match self {
            Self::Limited => {
                record.bandwidth = Rate::of_bits(MUCH);
                record.packets = Rate::of_packets(10_000_000);
            }
            Self::DropAll => record.policy_flags = policy_flag::DENY_ALL,
            Self::UdpV4
            | Self::TcpV4
            | Self::TcpV6
            | Self::NewFlow
            | Self::Denied
            | Self::ReplyUdpV4
            | Self::ReplyTcpV4
            | Self::ReplyTcpV6
            | Self::OfHost => {}
        }
        record
    }
}

/// A branch that is ready to be measured.
pub struct Prepared {
    branch: Branch,
    scene: Scene,
    opened: u16,
}

impl Prepared {
    /// Loads the programs, and opens the flow.
    ///
    /// # Panics
    /// Where it is not opened.
    #[must_use]
    pub fn new(branch: Branch) -> Self {
        let sizes = Sizes {
            flows_max: FLOWS,
            ..Sizes::default()
        };
        let mut scene = Scene::new(sizes, &branch.record());
        for (prefix, own) in [
            ("0.0.0.0", IpAddr::V4(GUEST_V4)),
            ("::", IpAddr::V6(GUEST_V6)),
        ] {
            let mut way = scene::route(RouteKind::Uplink, own.is_ipv4(), true);
            way.source = Some(own);
            let prefix: IpAddr = prefix.parse().expect("an address");
            scene.datapath.set_route((prefix, 0), &way);
        }
        let mut prepared = Self {
            branch,
            scene,
            opened: 0,
        };
        prepared.open();
        prepared
    }

    /// A question and its answer.
    fn open(&mut self) {
        let asked = self.guests_packet(SYN);
        let outcome = self.scene.from_vm(&asked);
        if self.branch == Branch::DropAll {
            return;
        }
        assert_eq!(outcome.verdict, verdict::REDIRECT, "{:?}", self.branch);
        let sent = Packet::parse(&outcome.bytes).expect("it is one");
        assert_eq!((sent.ports.0, sent.ends.src), (GUEST_PORT, self.own()));
        let answer = self.worlds_packet(SYN | ACK);
        let outcome = self.scene.from_uplink(&answer);
        assert_eq!(outcome.verdict, verdict::REDIRECT, "{:?}", self.branch);
    }

    fn own(&self) -> IpAddr {
        if self.branch.is_v4() {
            GUEST_V4.into()
        } else {
            GUEST_V6.into()
        }
    }

    fn remote(&self) -> IpAddr {
        if self.branch.is_v4() {
            REMOTE_V4.into()
        } else {
            REMOTE_V6.into()
        }
    }

    fn transport(&self, ends: &Ends, (src_port, dst_port): (u16, u16), flags: u8) -> Vec<u8> {
        if !self.branch.is_tcp() {
            return packet::udp(ends, (src_port, dst_port), &PAYLOAD);
        }
        let segment = Segment {
            src_port,
            dst_port,
            sequence: 1,
            acknowledgement: 1,
            flags,
        };
        packet::tcp(ends, segment, &PAYLOAD)
    }

    fn guests_packet(&self, flags: u8) -> Vec<u8> {
        let ends = Ends {
            ttl: u8::MAX,
            ..to(self.remote())
        };
        self.transport(&ends, (GUEST_PORT, REMOTE_PORT), flags)
    }

    fn worlds_packet(&self, flags: u8) -> Vec<u8> {
        let ends = Ends {
            ttl: u8::MAX,
            dst: self.own(),
            ..back(self.remote())
        };
        self.transport(&ends, (REMOTE_PORT, GUEST_PORT), flags)
    }

    /// What one packet takes, ns.
    ///
    /// # Panics
    /// Where it goes another way.
    pub fn measure(&mut self) -> f64 {
        match self.branch {
            Branch::UdpV4 | Branch::TcpV4 | Branch::TcpV6 | Branch::Limited => {
                let packet = self.guests_packet(ACK);
                self.repeat((FROM_VM, AT_VM), &packet, verdict::REDIRECT)
            }
            Branch::ReplyUdpV4 | Branch::ReplyTcpV4 | Branch::ReplyTcpV6 => {
                let packet = self.worlds_packet(ACK);
                self.repeat((FROM_UPLINK, AT_UPLINK), &packet, verdict::REDIRECT)
            }
            Branch::NewFlow => self.open_flows(),
            Branch::Denied => {
                let never = IpAddr::V4([169, 254, 169, 254].into());
                let packet = packet::udp(&to(never), (GUEST_PORT, 80), &PAYLOAD);
                self.repeat((FROM_VM, AT_VM), &packet, verdict::DROP)
            }
            Branch::OfHost => {
                let packet = packet::udp(&back(self.remote()), (REMOTE_PORT, 22), &PAYLOAD);
                self.repeat((FROM_UPLINK, AT_UPLINK), &packet, verdict::NEXT)
            }
            Branch::DropAll => {
                let packet = self.guests_packet(ACK);
                self.repeat((DROP_ALL, AT_VM), &packet, verdict::DROP)
            }
        }
    }

    fn repeat(&mut self, (program, at): (&str, Context), packet: &[u8], expected: i32) -> f64 {
        let datapath = &mut self.scene.datapath;
        let (took, outcome) = datapath.time(program, (packet, at), RUNS);
        assert_eq!(outcome.verdict, expected, "{:?}", self.branch);
        if expected == verdict::REDIRECT {
            let left = Packet::parse(&outcome.bytes).expect("it is one").ends.ttl;
            assert_eq!(
                u32::from(u8::MAX - left),
                RUNS,
                "{:?}: each run passed it on",
                self.branch
            );
        }
        took.as_nanos() as f64
    }

    fn open_flows(&mut self) -> f64 {
        let mut total = 0;
        for _ in 0..NEW_FLOWS {
            // Few ports of the NAT range towards one remote are taken yet, as in the first measurement.
            let ports = (30_000 + self.opened % 1_000, 1_000 + self.opened / 1_000);
            let packet = packet::udp(&to(self.remote()), ports, &PAYLOAD);
            self.opened += 1;
            let (took, outcome) = self.scene.datapath.time(FROM_VM, (&packet, AT_VM), 1);
            assert_eq!(outcome.verdict, verdict::REDIRECT, "a flow is opened");
            total += took.as_nanos();
        }
        total as f64 / f64::from(NEW_FLOWS)
    }
}

/// A program that always does the same: what others take is recorded in its runs, so that a machine that is slow for the
/// moment, or always, does not count.
#[derive(Debug)]
pub struct Reference(OwnedFd);

impl Reference {
    /// Loads it: sixteen readings of the clock.
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn new() -> Self {
        const READ_THE_CLOCK: Instruction = Instruction {
            code: 0x85,
            registers: 0,
            offset: 0,
            immediate: 5,
        };
        let mut instructions = vec![READ_THE_CLOCK; 16];
        instructions.extend(sys::returns(0));
        Self(sys::load_classifier(&instructions).expect("root may load programs"))
    }

    /// What a run of it takes, ns.
    ///
    /// # Panics
    /// When the kernel cannot.
    #[must_use]
    pub fn measure(&self) -> f64 {
        time(&self.0)
    }
}

impl Default for Reference {
    fn default() -> Self {
        Self::new()
    }
}

/// What a program takes that does nothing, ns.
///
/// # Panics
/// When the kernel cannot.
#[must_use]
pub fn empty() -> f64 {
    let program = sys::load_classifier(&sys::returns(0)).expect("root may load programs");
    time(&program)
}

fn time(program: &OwnedFd) -> f64 {
    let packet = packet::udp(&to(REMOTE_V4), (GUEST_PORT, REMOTE_PORT), &PAYLOAD);
    let took = sys::time_program(program, &packet, RUNS);
    took.expect("the kernel runs it").into()
}
