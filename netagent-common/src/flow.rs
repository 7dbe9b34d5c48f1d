//! Connection tracking: keys, values and TCP states.

use crate::nat::TICK_MAX_NS;
use crate::net::tcp_flag::{ACK, FIN, RST, SYN, is_eventful};
use crate::wire;

wire! {
    /// One flow of one instance, as the guest sees it.
    pub struct FlowKey<A> = 20 or 44 bytes {
        /// Number of the instance.
        pub instance: u32,
        /// The guest's address.
        pub guest: A,
        /// The other end's address.
        pub remote: A,
        /// The guest's port; of an echo request, its identifier.
        pub guest_port: [u8; 2],
        /// The other end's port; of an echo reply, its identifier.
        pub remote_port: [u8; 2],
        /// Protocol number.
        pub protocol: u32,
    }
}

wire! {
    /// State of a flow and everything that is done to its packets.
    ///
    /// `address_difference`, `state`, `opener` and `nat_port` are one aligned word: whoever changes the state compares
    /// all of it, so that of several CPUs exactly one makes the change.
    pub struct Flow<A> = 56 or 80 bytes {
        /// Time of the last packet, ns of the monotonic clock, under traffic at most [`STALE_NS`] ago.
        pub last_seen_ns: u64,
        /// Slot of the interface that opened the flow: replies go there.
        pub slot: u32,
        /// Generation of that interface.
        pub generation: u32,
        /// Generation of the policy that allowed the flow.
        pub policy_generation: u32,
        /// Generation of the routes by which `uplink` and `next_hop` were found.
        pub route_generation: u32,
        /// Interface index of the way out; 0 for a flow with the host itself.
        pub uplink: u32,
        /// MTU of the way out, bytes.
        pub mtu: u32,
        /// What replacing the guest's address by `nat_address` does to a checksum.
        pub address_difference: u32,
        /// A [`FlowState`] as a number.
        pub state: u8,
        /// An [`Opener`] as a number.
        pub opener: u8,
        /// The port under which the world knows the flow.
        pub nat_port: [u8; 2],
        /// Neighbour on the way; all zeroes where the other end itself is the neighbour.
        pub next_hop: A,
        /// The address under which the world knows the flow.
        pub nat_address: A,
        /// Time of the last packet, jiffies, written when `last_seen_ns` is: it is compared without a call.
        pub last_seen_jiffies: u32,
        /// Unused. With it an IPv4 element of the map takes 128 bytes, two cache lines side by side, where 120 bytes
        /// lie in three of them.
        pub padding: u32,
    }
}

/// Who opened a flow. The numbers are part of the ABI; 0 is what flows have that were written before others
/// could open any.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
pub enum Opener {
    /// The guest, towards the world.
    Guest = 0,
    /// The guest, towards a published port of the host: its packets turn round at the uplink.
    GuestToHost = 1,
    /// The world, at a published port.
    World = 2,
    /// A guest, at a published port of the host: replies turn round at the uplink.
    GuestAtHost = 3,
    /// The host itself: there is no other address and no way out.
    Host = 4,
    /// The guest, towards another of its account (P-12): its packets turn round under its own address.
    GuestToGuest = 5,
    /// A stranger, at a port that a mapping gives to the guest: judged as if the guest had opened it.
    Stranger = 6,
    /// Another guest of its account: replies turn round under its own address.
    GuestAtGuest = 7,
    /// The guest, towards a listener of the host itself: there is no other address and no way out.
    GuestToListener = 8,
    /// The guest, whose interface has a relay: between the two TAPs, where no address changes.
    GuestByRelay = 10,
    /// Others, at a published or exposed port of a guest whose interface has a relay: between the two TAPs.
    AtGuestByRelay = 12,
}

impl Opener {
    /// Whether the packets that the guest sends turn round at the uplink and go to another guest, or back.
    #[must_use]
    pub const fn turns_round(number: u8) -> bool {
        number & 1 != 0
    }

    /// Whether the flow was opened at a published or exposed port, and lives as long as that.
    #[must_use]
    pub const fn is_at_a_port(number: u8) -> bool {
        matches!(
            Self::from_number(number),
            Self::World | Self::GuestAtHost | Self::Host | Self::AtGuestByRelay
        )
    }

    /// The opener with this number; an unknown one is [`Opener::Guest`], which is judged by everything.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::GuestToHost,
            2 => Self::World,
            3 => Self::GuestAtHost,
            4 => Self::Host,
            5 => Self::GuestToGuest,
            6 => Self::Stranger,
            7 => Self::GuestAtGuest,
            8 => Self::GuestToListener,
            10 => Self::GuestByRelay,
            12 => Self::AtGuestByRelay,
            _ => Self::Guest,
        }
    }

    /// Whether the flow is one between two guests of an account, under their own addresses.
    #[must_use]
    pub const fn is_between_guests(number: u8) -> bool {
        matches!(
            Self::from_number(number),
            Self::GuestToGuest | Self::GuestAtGuest
        )
    }

    /// Whether the flow is the near half of one that goes through a relay.
    #[must_use]
    pub const fn is_by_relay(number: u8) -> bool {
        matches!(
            Self::from_number(number),
            Self::GuestByRelay | Self::AtGuestByRelay
        )
    }

    /// At which end of the flow it was opened. Nobody has answered before the other end was heard.
    #[must_use]
    pub const fn side(self) -> Sender {
        match self {
            Self::Guest
            | Self::GuestToHost
            | Self::GuestToGuest
            | Self::GuestToListener
            | Self::GuestByRelay => Sender::Vm,
            Self::World
            | Self::GuestAtHost
            | Self::Host
            | Self::Stranger
            | Self::GuestAtGuest
            | Self::AtGuestByRelay => Sender::World,
        }
    }
}

wire! {
    /// What a collection pass did.
    pub struct Collected = 16 bytes {
        /// Entries looked at.
        pub seen: u32,
        /// Entries removed.
        pub removed: u32,
        /// 1 where the pass stopped because it had removed [`REMOVED_MAX`] entries: run it again.
        pub more: u32,
        /// Entries that could not be removed.
        pub failed: u32,
    }
}

/// Entries that one run of a collection pass removes at most: about 10 ms.
pub const REMOVED_MAX: u32 = 8_192;

/// How far a flow is. The numbers are part of the ABI.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
pub enum FlowState {
    /// Nothing came back yet.
    Opening = 1,
    /// Both sides were heard.
    Established = 2,
    /// TCP: the guest sent FIN.
    VmClosed = 3,
    /// TCP: the world sent FIN.
    WorldClosed = 4,
    /// TCP: both sent FIN.
    Closed = 5,
    /// TCP: one side sent RST. Only its timeout is short: a forged RST must not cut the flow.
    Reset = 6,
    /// Taken out of every count and about to be removed: no packet changes it any more.
    Removed = 7,
}

/// Which of an instance's counts a flow is in.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
pub enum Place {
    /// The open flows, of which an instance may have [`crate::vm::Interface::flow_limit`].
    Open,
    /// The closing flows: both ends said that it is over, and only what is still on its way comes. They are no
    /// open flows (N-5), and their ports are used again by the same instance.
    Closing,
}

/// Who sent a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
pub enum Sender {
    /// The guest.
    Vm,
    /// The other end.
    World,
}

impl FlowState {
    /// The state with this number; an unknown number is [`FlowState::Opening`], which has the shortest life.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            2 => Self::Established,
            3 => Self::VmClosed,
            4 => Self::WorldClosed,
            5 => Self::Closed,
            6 => Self::Reset,
            7 => Self::Removed,
            _ => Self::Opening,
        }
    }

    /// The count that a flow of this state is in.
    #[must_use]
    pub const fn place(self) -> Option<Place> {
        match self {
            Self::Opening | Self::Established | Self::VmClosed | Self::WorldClosed => {
                Some(Place::Open)
            }
            Self::Closed | Self::Reset => Some(Place::Closing),
            Self::Removed => None,
        }
    }

    /// How stale `last_seen_ns` of a flow in this state may be, ns: none that may not end early does (RFC 4787 REQ-5, RFC
    /// 5382 REQ-5, RFC 5508 REQ-2). A flow that the guest closes was established a moment ago.
    #[must_use]
    pub const fn stale_ns(self) -> u64 {
        match self {
            Self::Opening => LAST_SEEN_STEP_NS,
            Self::Established | Self::VmClosed | Self::WorldClosed => STALE_NS,
            Self::Closed | Self::Reset | Self::Removed => 0,
        }
    }

    /// The state after a packet: of a TCP segment with these flags, or with `None`, of anything else.
    #[must_use]
    pub const fn after(self, opener: Opener, sender: Sender, flags: Option<u8>) -> Self {
        let is_answer = !matches!(
            (opener.side(), sender),
            (Sender::Vm, Sender::Vm) | (Sender::World, Sender::World)
        );
        match (self, flags) {
            (Self::Removed, _) => Self::Removed,
            (_, Some(flags)) => self.after_segment((sender, is_answer), flags),
            (_, None) if is_answer => Self::Established,
            (_, None) => self,
        }
    }

    /// Whether the packet may change the state: a few comparisons that spare nearly every packet [`FlowState::after`].
    #[must_use]
    pub const fn may_change(self, opener: Opener, sender: Sender, flags: Option<u8>) -> bool {
        let is_eventful = match flags {
            Some(flags) => is_eventful(flags),
            None => false,
        };
        let of_opener = matches!((opener.side(), sender), (Sender::Vm, Sender::Vm));
        match self {
            Self::Established => is_eventful,
            Self::Opening => is_eventful || !of_opener,
            Self::VmClosed | Self::WorldClosed | Self::Closed | Self::Reset | Self::Removed => true,
        }
    }

    /// The state of a TCP flow after a segment with these flags (RFC 5382, section 5).
    const fn after_segment(self, (sender, is_answer): (Sender, bool), flags: u8) -> Self {
        if flags & RST != 0 {
            return Self::Reset;
        }
        if flags & SYN != 0 {
            return self.after_syn((sender, is_answer), flags);
        }
        if flags & FIN != 0 {
            return self.after_fin(sender);
        }
        match (self, sender) {
            // Data after a reset: whoever got it did not believe it.
            (Self::Reset, Sender::Vm) => Self::Established,
            // Who opened it from outside is believed by what follows its SYN, and not by the answer to that, which
            // everybody gets.
            (Self::Opening, Sender::World) => Self::Established,
            (Self::Opening, _) if is_answer => Self::Established,
            _ => self,
        }
    }

    const fn after_syn(self, (sender, is_answer): (Sender, bool), flags: u8) -> Self {
        match (is_answer, self, sender) {
            // A new connection with the ports of one that ended (TIME_WAIT reuse).
            (false, Self::Closed | Self::Reset, _) if flags & ACK == 0 => Self::Opening,
            (true, Self::Opening, Sender::World) => Self::Established,
            _ => self,
        }
    }

    const fn after_fin(self, sender: Sender) -> Self {
        match (sender, self) {
            (_, Self::Closed) => Self::Closed,
            (Sender::Vm, Self::WorldClosed) | (Sender::World, Self::VmClosed) => Self::Closed,
            (_, Self::Reset) => Self::Reset,
            (Sender::Vm, _) => Self::VmClosed,
            (Sender::World, _) => Self::WorldClosed,
        }
    }
}

/// `last_seen_ns` is written once in a tick, so that two CPUs do not fight for the cache line, and what else is looked after
/// then costs little: it is as stale as this at most.
pub const LAST_SEEN_STEP_NS: u64 = TICK_MAX_NS;

/// How stale `last_seen_ns` of an established flow may become: replies look at it once in each tick.
pub const STALE_NS: u64 = LAST_SEEN_STEP_NS + TICK_MAX_NS;

#[cfg(test)]
mod tests {
    use super::*;
    use FlowState::{Closed, Established, Opening, Reset, VmClosed, WorldClosed};

    fn check(start: FlowState, segments: &[(Sender, u8)], expected: FlowState) {
        let end = segments.iter().fold(start, |state, (sender, flags)| {
            state.after(Opener::Guest, *sender, Some(*flags))
        });
        assert_eq!(end, expected, "{start:?} {segments:?}");
    }

    #[test]
    fn a_handshake_establishes() {
        check(Opening, &[(Sender::Vm, SYN)], Opening);
        check(
            Opening,
            &[
                (Sender::Vm, SYN),
                (Sender::World, SYN | ACK),
                (Sender::Vm, ACK),
            ],
            Established,
        );
    }

    #[test]
    fn a_flow_picked_up_in_the_middle_establishes_with_the_first_answer() {
        check(Opening, &[(Sender::Vm, ACK)], Opening);
        check(
            Opening,
            &[(Sender::Vm, ACK), (Sender::World, ACK)],
            Established,
        );
    }

    #[test]
    fn a_connection_from_outside_is_established_by_the_end_of_its_handshake_alone() {
        let check = |segments: &[(Sender, u8)], expected| {
            let end = segments.iter().fold(Opening, |state, (sender, flags)| {
                state.after(Opener::World, *sender, Some(*flags))
            });
            assert_eq!(end, expected, "{segments:?}");
        };
        let syn = (Sender::World, SYN);
        check(&[syn, syn, (Sender::Vm, SYN | ACK), syn], Opening);
        check(
            &[syn, (Sender::Vm, SYN | ACK), (Sender::World, ACK)],
            Established,
        );
        check(&[syn, (Sender::Vm, RST | ACK)], Reset);
        check(&[syn, (Sender::Vm, RST | ACK), syn], Opening);
        assert_eq!(Opening.after(Opener::World, Sender::World, None), Opening);
        assert_eq!(Opening.after(Opener::World, Sender::Vm, None), Established);
    }

    #[test]
    fn only_two_fins_close() {
        check(
            Established,
            &[(Sender::Vm, FIN | ACK), (Sender::Vm, FIN | ACK)],
            VmClosed,
        );
        check(
            Established,
            &[(Sender::World, FIN | ACK), (Sender::Vm, ACK)],
            WorldClosed,
        );
        check(
            Established,
            &[
                (Sender::Vm, FIN | ACK),
                (Sender::World, FIN | ACK),
                (Sender::Vm, ACK),
            ],
            Closed,
        );
    }

    #[test]
    fn a_reset_that_the_guest_ignores_does_not_cut_the_flow() {
        check(Established, &[(Sender::World, RST)], Reset);
        check(
            Established,
            &[(Sender::World, RST), (Sender::World, ACK)],
            Reset,
        );
        check(
            Established,
            &[(Sender::World, RST), (Sender::Vm, ACK)],
            Established,
        );
    }

    #[test]
    fn both_ends_may_open_at_once() {
        // RFC 5382 REQ-2: the other end's own SYN meets the guest's.
        check(
            Opening,
            &[
                (Sender::Vm, SYN),
                (Sender::World, SYN),
                (Sender::Vm, SYN | ACK),
                (Sender::World, SYN | ACK),
            ],
            Established,
        );
    }

    #[test]
    fn a_flow_that_is_being_removed_stays_so() {
        for sender in [Sender::Vm, Sender::World] {
            for flags in [None, Some(SYN), Some(ACK), Some(FIN), Some(RST)] {
                let after = FlowState::Removed.after(Opener::Guest, sender, flags);
                assert_eq!(after, FlowState::Removed);
            }
        }
    }

    #[test]
    fn a_packet_that_may_change_nothing_changes_nothing() {
        let openers = [
            Opener::Guest,
            Opener::GuestToHost,
            Opener::World,
            Opener::GuestAtHost,
            Opener::Host,
            Opener::Stranger,
            Opener::GuestToGuest,
            Opener::GuestAtGuest,
            Opener::GuestToListener,
        ];
        let mut quiet = 0;
        for state in (1..=7).map(FlowState::from_number) {
            for opener in openers {
                for sender in [Sender::Vm, Sender::World] {
                    for flags in (0..=u8::MAX).map(Some).chain([None]) {
                        let changes = state.after(opener, sender, flags) != state;
                        let may = state.may_change(opener, sender, flags);
                        assert!(may || !changes, "{state:?} {opener:?} {sender:?} {flags:?}");
                        quiet += u32::from(!may);
                    }
                }
            }
        }
        assert!(quiet > 0);
    }

    #[test]
    fn the_number_says_who_opened_a_flow_and_whether_it_turns_round() {
        use Opener::{GuestAtGuest, GuestAtHost, GuestToGuest, GuestToHost};
        for number in 0..=8 {
            let opener = Opener::from_number(number);
            assert_eq!(opener as u8, number);
            let turns_round = matches!(
                opener,
                GuestToHost | GuestAtHost | GuestToGuest | GuestAtGuest
            );
            assert_eq!(Opener::turns_round(number), turns_round, "{opener:?}");
        }
        assert_eq!(Opener::from_number(9), Opener::Guest);
    }

    #[test]
    fn only_the_other_end_answers() {
        for opener in [
            Opener::World,
            Opener::GuestAtHost,
            Opener::Stranger,
            Opener::GuestAtGuest,
        ] {
            let after = |sender, flags| Opening.after(opener, sender, flags);
            assert_eq!(after(Sender::World, None), Opening, "{opener:?}");
            assert_eq!(after(Sender::World, Some(SYN)), Opening, "{opener:?}");
            assert_eq!(after(Sender::Vm, None), Established, "{opener:?}");
            assert_eq!(after(Sender::Vm, Some(ACK)), Established, "{opener:?}");
            assert_eq!(Closed.after(opener, Sender::World, Some(SYN)), Opening);
            assert_eq!(Closed.after(opener, Sender::Vm, Some(SYN)), Closed);
        }
        for opener in [Opener::Guest, Opener::GuestToListener] {
            for flags in [None, Some(SYN), Some(ACK)] {
                let after = |sender| Opening.after(opener, sender, flags);
                assert_eq!(after(Sender::Vm), Opening, "{opener:?} {flags:?}");
                assert_eq!(after(Sender::World), Established, "{opener:?} {flags:?}");
            }
        }
    }

    #[test]
    fn only_what_both_ends_ended_is_closing() {
        for state in [Opening, Established, VmClosed, WorldClosed] {
            assert_eq!(state.place(), Some(Place::Open), "{state:?}");
        }
        for state in [Closed, Reset] {
            assert_eq!(state.place(), Some(Place::Closing), "{state:?}");
        }
        assert_eq!(FlowState::Removed.place(), None);
    }

    #[test]
    fn a_syn_reopens_a_closed_flow_and_no_other() {
        check(Closed, &[(Sender::Vm, SYN)], Opening);
        check(Reset, &[(Sender::Vm, SYN)], Opening);
        check(Closed, &[(Sender::World, SYN)], Closed);
        check(Established, &[(Sender::Vm, SYN)], Established);
    }
}
