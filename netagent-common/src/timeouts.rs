//! How long flows live without a packet.

use crate::flow::{FlowState, Opener, Sender};
use crate::net::protocol::{TCP, UDP};

/// Times after which flows without a packet are removed, s. The defaults are the least that the RFCs allow, but for
/// TCP that both ends have closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connections: two hours and four minutes (RFC 5382, REQ-5).
    pub tcp_established: u16,
    /// TCP connections that are being opened, or that one end has closed: four minutes (RFC 5382, REQ-5).
    pub tcp_transitory: u16,
    /// TCP connections that both ends have closed, or that were reset.
    pub tcp_closing: u16,
    /// UDP, once something came back: five minutes (RFC 4787, REQ-5: recommended).
    pub udp: u16,
    /// UDP that nobody answered: two minutes (RFC 4787, REQ-5: at least).
    pub udp_unreplied: u16,
    /// Echo: sixty seconds (RFC 5508, REQ-2).
    pub icmp: u16,
}

impl Timeouts {
    /// What holds where nothing else is configured.
    pub const DEFAULT: Self = Self {
        tcp_established: 7_440,
        tcp_transitory: 240,
        tcp_closing: 40,
        udp: 300,
        udp_unreplied: 120,
        icmp: 60,
    };

    /// The time of a flow, ns.
    #[must_use]
    pub const fn of_flow_ns(&self, protocol: u8, state: FlowState, opener: Opener) -> u64 {
        let seconds = match (protocol, state) {
            (_, FlowState::Removed) => 0,
            (TCP, FlowState::Established) => self.tcp_established,
            (TCP | UDP, FlowState::Opening) if matches!(opener.side(), Sender::World) => {
                least(WORLD_OPENING_S, self.opening(protocol))
            }
            (TCP, FlowState::Opening | FlowState::VmClosed | FlowState::WorldClosed) => {
                self.tcp_transitory
            }
            (TCP, FlowState::Closed | FlowState::Reset) => self.tcp_closing,
            (UDP, FlowState::Established) => self.udp,
            (UDP, _) => self.udp_unreplied,
            _ => self.icmp,
        };
        seconds as u64 * 1_000_000_000
    }

    const fn opening(&self, protocol: u8) -> u16 {
        if protocol == TCP {
            self.tcp_transitory
        } else {
            self.udp_unreplied
        }
    }
}

/// Time of what the world opened and the guest has not answered, s: anybody may open such flows.
const WORLD_OPENING_S: u16 = 30;

/// Time of a closing flow of an instance that has more of them than half its limit of open flows, s: as long as a
/// closed connection's last segments are on their way.
pub const CROWDED_S: u16 = 5;

const fn least(a: u16, b: u16) -> u16 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::protocol::{ICMP, ICMPV6};
    use FlowState::{Closed, Established, Opening, Removed, Reset, VmClosed, WorldClosed};

    fn seconds(protocol: u8, state: FlowState, opener: Opener) -> u64 {
        Timeouts::DEFAULT.of_flow_ns(protocol, state, opener) / 1_000_000_000
    }

    #[test]
    fn the_defaults_keep_the_floors_of_the_rfcs() {
        assert!(seconds(TCP, Established, Opener::Guest) >= 7_440);
        for state in [Opening, VmClosed, WorldClosed] {
            assert!(seconds(TCP, state, Opener::Guest) >= 240, "{state:?}");
        }
        for state in [Opening, Established] {
            assert!(seconds(UDP, state, Opener::Guest) >= 120, "{state:?}");
            assert!(seconds(ICMP, state, Opener::Guest) >= 60, "{state:?}");
            assert!(seconds(ICMPV6, state, Opener::Guest) >= 60, "{state:?}");
        }
    }

    #[test]
    fn what_is_closed_or_reset_goes_soon() {
        for state in [Closed, Reset] {
            assert_eq!(seconds(TCP, state, Opener::Guest), 40, "{state:?}");
        }
        assert_eq!(seconds(TCP, Removed, Opener::Guest), 0);
    }

    #[test]
    fn what_the_world_opened_waits_half_a_minute_for_the_guest() {
        for protocol in [TCP, UDP] {
            assert_eq!(seconds(protocol, Opening, Opener::World), 30);
            for opener in [Opener::Guest, Opener::GuestToHost] {
                assert!(seconds(protocol, Opening, opener) > 30, "{opener:?}");
            }
        }
        assert_eq!(seconds(TCP, Established, Opener::World), 7_440);
        let short = Timeouts {
            tcp_transitory: 5,
            ..Timeouts::DEFAULT
        };
        assert_eq!(short.of_flow_ns(TCP, Opening, Opener::World), 5_000_000_000);
    }
}
