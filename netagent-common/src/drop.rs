//! Why a packet was dropped: one list for programs, metrics, flow log and documentation (O-1).

use crate::wire;

/// Declares [`DropReason`] with its name and description, so that neither can be forgotten.
macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a program dropped a packet. The numbers are part of the ABI.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[cfg_attr(not(target_arch = "bpf"), derive(Debug))]
        pub enum DropReason { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl DropReason {
            /// Every reason, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name that people and metrics see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for documentation and `netagent inspect`.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }

            /// The reason with this number.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

drop_reasons! {
    /// The interface has no record, or an old one: nothing is allowed.
    UnknownInterface = 1, "unknown_interface";
    /// The record was written by another version of netagent.
    UnknownAbi = 2, "unknown_abi";
    /// The frame carries a VLAN tag.
    Vlan = 3, "vlan";
    /// Neither IPv4, IPv6 nor ARP.
    UnknownEthertype = 4, "unknown_ethertype";
    /// Shorter than its headers say, or its headers contradict each other.
    Malformed = 5, "malformed";
    /// The IPv4 header checksum is wrong.
    BadChecksum = 6, "bad_checksum";
    /// IPv4 options or IPv6 extension headers.
    IpOptions = 7, "ip_options";
    /// A fragment that follows none that passed, overlaps it, has no whole transport header, or is one too many.
    Fragment = 8, "fragment";
    /// A protocol other than TCP, UDP, ICMP echo.
    UnknownProtocol = 9, "unknown_protocol";
    /// The source MAC address is not the interface's.
    SpoofedMac = 10, "spoofed_mac";
    /// The source address is not the instance's.
    SpoofedAddress = 11, "spoofed_address";
    /// An ARP packet claims an address that is not the interface's.
    SpoofedArp = 12, "spoofed_arp";
    /// A neighbour solicitation or advertisement claims an address that is not the interface's.
    SpoofedNeighbour = 13, "spoofed_neighbour";
    /// The destination MAC address is not the gateway's.
    NotForGateway = 14, "not_for_gateway";
    /// ARP that needs no answer: an announcement, a probe, or a question for another address than the gateway's.
    ArpUnanswered = 15, "arp_unanswered";
    /// Neighbour discovery that needs no answer.
    NeighbourUnanswered = 16, "neighbour_unanswered";
    /// A router advertisement or redirect from a guest.
    RogueRouter = 17, "rogue_router";
    /// A DHCP server's reply from a guest.
    RogueDhcp = 18, "rogue_dhcp";
    /// Link-local, metadata, loopback, multicast, broadcast or another address that is never reached.
    AlwaysDenied = 19, "always_denied";
    /// One of the host's own addresses.
    HostAddress = 20, "host_address";
    /// Another instance, or its gateway.
    OtherInstance = 21, "other_instance";
    /// A network that is reached through an interface that is not an uplink.
    NotUplink = 22, "not_uplink";
    /// The gateway's own address, for something that it does not serve.
    GatewayClosed = 23, "gateway_closed";
    /// No route leads there.
    NoRoute = 24, "no_route";
    /// Larger than the MTU of the way out.
    TooBig = 25, "too_big";
    /// The TTL or hop limit ran out.
    TtlExpired = 26, "ttl_expired";
    /// An ICMP error about no packet of a flow, or one that is passed on to nobody: a redirect, for one.
    IcmpError = 27, "icmp_error";
    /// No NAT port is free towards this destination.
    SnatExhausted = 28, "snat_exhausted";
    /// The instance has as many open flows as it may have.
    FlowLimit = 29, "flow_limit";
    /// The flow table of the host is full.
    FlowTableFull = 30, "flow_table_full";
    /// Sent to the guest although it belongs to no flow that the guest, or a ping of the host, opened.
    Unsolicited = 31, "unsolicited";
    /// Sent to the guest's own address past netagent: by the host's forwarding, or straight from the uplink.
    NotRedirected = 32, "not_redirected";
    /// A kernel helper refused to change the packet.
    HelperFailed = 33, "helper_failed";
    /// A router solicitation of a guest that has no IPv6.
    RouterSolicit = 34, "router_solicit";
    /// The VMM asks for a checksum at a place where the packet has none: it would overwrite what was judged.
    PartialChecksum = 35, "partial_checksum";
    /// IGMP or MLD: every guest reports which multicast groups it listens to, and nobody asks.
    MulticastReport = 36, "multicast_report";
    /// A super-frame of more segments than any guest needs: cutting it up would keep the host busy.
    TooManySegments = 37, "too_many_segments";
    /// More requests to DHCP or router than one interface may send in a second, or to DNS than one instance may.
    ServiceLimit = 38, "service_limit";
    /// A request to DHCP, router or DNS while the agent, which answers them, is not there.
    ServicesDown = 39, "services_down";
    /// A DHCP message that breaks the rules of RFC 2131, or was relayed. Counted by the server.
    MalformedDhcp = 40, "malformed_dhcp";
    /// A DHCP message for another client, or to another server. Counted by the server.
    ForeignDhcp = 41, "foreign_dhcp";
    /// A router solicitation that breaks the rules of RFC 4861. Counted by the server.
    MalformedRouterSolicit = 42, "malformed_router_solicit";
    /// Sent to a published port from an address that may not use it.
    PublishDenied = 43, "publish_denied";
    /// Sent to a published port from an address and a port with which the guest itself has a flow.
    FlowTaken = 44, "flow_taken";
    /// The host does not have the address under which the instance is to leave, its `snat_address`.
    SnatAddress = 45, "snat_address";
    /// The policy of the instance is deny-all.
    DenyAll = 46, "deny_all";
    /// In one of the instance's denied_cidrs.
    DeniedCidr = 47, "denied_cidr";
    /// In none of the networks that the instance may reach, and no allowed name led there.
    NotAllowed = 48, "not_allowed";
    /// The compiled policy of the instance is not there: nothing is allowed.
    PolicyMissing = 49, "policy_missing";
    /// The guest sent more packets than policy.quarantine_pps allows, and has not been quiet since.
    Quarantine = 50, "quarantine";
    /// More than the instance's bandwidth.
    Bandwidth = 51, "bandwidth";
    /// More than the instance's bandwidth_in.
    BandwidthIn = 52, "bandwidth_in";
    /// More packets in a second than the instance's limits.pps.
    PacketRate = 53, "packet_rate";
    /// DNS past the resolver where a list of names holds: over TLS or QUIC, mDNS, LLMNR, or in fragments.
    DnsBypass = 54, "dns_bypass";
    /// The relay of the interface is stopped, deleted, or without a VMM: nothing goes another way.
    RelayDown = 55, "relay_down";
}

impl DropReason {
    /// Whether it is the instance's own policy that says so: in audit mode these alone are only counted (P-14).
    #[must_use]
    pub const fn is_of_policy(self) -> bool {
        matches!(
            self,
            Self::DenyAll | Self::DeniedCidr | Self::NotAllowed | Self::DnsBypass
        )
    }
}

wire! {
    /// Key of the drop counters.
    pub struct DropKey = 8 bytes {
        /// Slot of the interface; [`NO_SLOT`] where no interface is known.
        pub slot: u32,
        /// [`DropReason`] as a number, with [`AUDITED`] where the packet passed all the same.
        pub reason: u32,
    }
}

/// Bit of a [`DropKey`]: what the policy would have dropped, and passed in audit mode (P-14).
pub const AUDITED: u32 = 1 << 31;

/// Counts drops that belong to no interface.
pub const NO_SLOT: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        for (position, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(DropReason::from_number(*reason as u32), Some(*reason));
            assert_eq!(*reason as usize, position + 1);
            let same_name = DropReason::ALL
                .iter()
                .filter(|other| other.name() == reason.name());
            assert_eq!(same_name.count(), 1, "{}", reason.name());
        }
        assert_eq!(DropReason::from_number(0), None);
    }
}
