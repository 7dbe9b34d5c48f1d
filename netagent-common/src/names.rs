//! Names of programs, maps and pins, and the version of their layout.

/// Layout of every map and the meaning of every value. It names the pin directory, `<bpf-dir>/v6`, and
/// stands in every interface record: a program drops what it does not understand.
pub const ABI_VERSION: u32 = 7;

/// Program on everything that a guest sends.
pub const FROM_VM: &str = "from_vm";
/// Program on everything that is sent to a guest.
pub const TO_VM: &str = "to_vm";
/// Program on everything that arrives on an uplink.
pub const FROM_UPLINK: &str = "from_uplink";
/// Program on everything that the agent's own servers answer to guests.
pub const FROM_SERVICES: &str = "from_services";
/// XDP program on everything that a guest sends, while nearly nothing of it is to pass.
pub const DROP_ALL: &str = "drop_all";
/// Program, run by the agent, that removes flows that timed out or belong to no interface.
pub const COLLECT_FLOWS: &str = "collect_flows";
/// Program, run by the agent, that removes reverse entries without a flow.
pub const COLLECT_ORPHANS: &str = "collect_orphans";

/// Programs on the sockets of the host's processes: what they connect to, send to, hear from and are told.
pub mod socket {
    /// `connect` of an IPv4 socket.
    pub const CONNECT_V4: &str = "connect_v4";
    /// `connect` of an IPv6 socket.
    pub const CONNECT_V6: &str = "connect_v6";
    /// `sendmsg` of an IPv4 datagram socket that is not connected.
    pub const SENDMSG_V4: &str = "sendmsg_v4";
    /// As [`SENDMSG_V4`], for IPv6.
    pub const SENDMSG_V6: &str = "sendmsg_v6";
    /// `recvmsg` of an IPv4 datagram socket.
    pub const RECVMSG_V4: &str = "recvmsg_v4";
    /// As [`RECVMSG_V4`], for IPv6.
    pub const RECVMSG_V6: &str = "recvmsg_v6";
    /// `getpeername` of an IPv4 socket.
    pub const PEER_V4: &str = "peer_v4";
    /// As [`PEER_V4`], for IPv6.
    pub const PEER_V6: &str = "peer_v6";

    /// All of them.
    pub const ALL: [&str; 8] = [
        CONNECT_V4, CONNECT_V6, SENDMSG_V4, SENDMSG_V6, RECVMSG_V4, RECVMSG_V6, PEER_V4, PEER_V6,
    ];
}

/// Names of the pinned maps: at most 15 bytes, so that the kernel keeps them whole.
pub mod map {
    /// Array, one [`crate::vm::State`].
    pub const STATE: &str = "STATE";
    /// Array of [`crate::vm::Active`]: which of a slot's two records is in force.
    pub const ACTIVE: &str = "ACTIVE";
    /// Array of [`crate::vm::Interface`], two for each slot.
    pub const INTERFACES: &str = "INTERFACES";
    /// Hash from the interface index of a TAP that the agent did not make to its slot.
    pub const ADOPTED: &str = "ADOPTED";
    /// Array by instance number: open flows, counted by the programs.
    pub const OPEN_FLOWS: &str = "OPEN_FLOWS";
    /// Array by instance number of [`crate::nat::Holdings`].
    pub const HOLDINGS: &str = "HOLDINGS";
    /// LPM trie from destination to [`crate::policy::Route`].
    pub const ROUTES_V4: &str = "ROUTES_V4";
    /// As [`ROUTES_V4`], for IPv6.
    pub const ROUTES_V6: &str = "ROUTES_V6";
    /// LPM trie from a guest's address to its slot, of instances that reach others of their account (P-12).
    pub const GUESTS_V4: &str = "GUESTS_V4";
    /// As [`GUESTS_V4`], for IPv6.
    pub const GUESTS_V6: &str = "GUESTS_V6";
    /// Hash from the address of an interface that has a relay to its [`crate::vm::Client`].
    pub const CLIENTS_V4: &str = "CLIENTS_V4";
    /// As [`CLIENTS_V4`], for IPv6.
    pub const CLIENTS_V6: &str = "CLIENTS_V6";
    /// Hash of maps from [`crate::policy::PolicyId`] to an LPM trie from destination to a
    /// [`crate::policy::Verdict`] as a number.
    pub const POLICIES_V4: &str = "POLICIES_V4";
    /// As [`POLICIES_V4`], for IPv6.
    pub const POLICIES_V6: &str = "POLICIES_V6";
    /// Hash from [`crate::learned::LearnedKey`] to [`crate::learned::Learned`]: addresses that names led to.
    pub const LEARNED_V4: &str = "LEARNED_V4";
    /// As [`LEARNED_V4`], for IPv6.
    pub const LEARNED_V6: &str = "LEARNED_V6";
    /// Hash from [`crate::learned::LedToKey`] to [`crate::learned::LedTo`]: which names led there.
    pub const LED_TO: &str = "LED_TO";
    /// Hash from [`crate::learned::NameKey`] to [`crate::learned::NamePart`]: the names by number.
    pub const NAMES: &str = "NAMES";
    /// Hash by slot of [`crate::services::Asked`]: the IPv4 name servers that a guest asked.
    pub const ASKED_V4: &str = "ASKED_V4";
    /// As [`ASKED_V4`], for IPv6.
    pub const ASKED_V6: &str = "ASKED_V6";
    /// Hash from [`crate::flow::FlowKey`] to [`crate::flow::Flow`].
    pub const FLOWS_V4: &str = "FLOWS_V4";
    /// As [`FLOWS_V4`], for IPv6.
    pub const FLOWS_V6: &str = "FLOWS_V6";
    /// Hash from [`crate::nat::ReverseKey`] to [`crate::nat::Reverse`].
    pub const REVERSE_V4: &str = "REVERSE_V4";
    /// As [`REVERSE_V4`], for IPv6.
    pub const REVERSE_V6: &str = "REVERSE_V6";
    /// Hash from [`crate::nat::MappingKey`] to [`crate::nat::Mapping`].
    pub const MAPPINGS_V4: &str = "MAPPINGS_V4";
    /// As [`MAPPINGS_V4`], for IPv6.
    pub const MAPPINGS_V6: &str = "MAPPINGS_V6";
    /// Array by [`crate::nat::filter_place`]: how many entries of mappings, of both families, have their place there.
    pub const MAPPING_FILTER: &str = "MAPPING_FILTER";
    /// Array by [`crate::nat::fill`]: entries of tables of the host.
    pub const FILL: &str = "FILL";
    /// Per-CPU array, one [`crate::flow::Flow`] of IPv6: where a flow is made for which the stack has no room.
    pub const SCRATCH: &str = "SCRATCH";
    /// Hash from [`crate::drop::DropKey`] to the number of packets dropped.
    pub const DROPS: &str = "DROPS";
    /// Per-CPU array by slot of [`crate::vm::Traffic`].
    pub const TRAFFIC: &str = "TRAFFIC";
    /// Array, one [`crate::services::Services`]: the way to the agent's own servers.
    pub const SERVICES: &str = "SERVICES";
    /// Array by slot and by number of the instance of [`crate::services::Allowance`].
    pub const ALLOWANCES: &str = "ALLOWANCES";
    /// Hash from [`crate::publish::PublishKey`] to [`crate::publish::Published`].
    pub const PUBLISHED_V4: &str = "PUBLISHED_V4";
    /// As [`PUBLISHED_V4`], for IPv6.
    pub const PUBLISHED_V6: &str = "PUBLISHED_V6";
    /// LPM trie from [`crate::publish::SenderKey`] to 1: who may use a limited published port.
    pub const SENDERS_V4: &str = "SENDERS_V4";
    /// As [`SENDERS_V4`], for IPv6.
    pub const SENDERS_V6: &str = "SENDERS_V6";
    /// Hash from [`crate::publish::ExposedKey`] to the generation of the instance.
    pub const EXPOSED: &str = "EXPOSED";
    /// Hash from [`crate::publish::HostPortKey`] to 1: ports of the host whose listeners guests may reach.
    pub const HOST_PORTS: &str = "HOST_PORTS";
    /// LRU hash from [`crate::publish::LedKey`] to [`crate::publish::Led`].
    pub const LED_SOCKETS: &str = "LED_SOCKETS";
    /// Array, one [`crate::flow::Collected`]: what the last collection pass did.
    pub const COLLECTED: &str = "COLLECTED";

    /// Array by the number of the instance of [`crate::bucket::Buckets`].
    pub const BUCKETS: &str = "BUCKETS";
    /// Array by slot of [`crate::limit::Used`].
    pub const USED: &str = "USED";
    /// LRU hash from [`crate::fragment::FragmentKey`] to [`crate::fragment::First`].
    pub const FRAGMENTS_V4: &str = "FRAGMENTS_V4";
    /// As [`FRAGMENTS_V4`], for IPv6.
    pub const FRAGMENTS_V6: &str = "FRAGMENTS_V6";

    /// All of them.
    pub const ALL: [&str; 45] = [
        STATE,
        ACTIVE,
        INTERFACES,
        ADOPTED,
        OPEN_FLOWS,
        HOLDINGS,
        ROUTES_V4,
        ROUTES_V6,
        GUESTS_V4,
        GUESTS_V6,
        CLIENTS_V4,
        CLIENTS_V6,
        POLICIES_V4,
        POLICIES_V6,
        LEARNED_V4,
        LEARNED_V6,
        LED_TO,
        NAMES,
        ASKED_V4,
        ASKED_V6,
        FLOWS_V4,
        FLOWS_V6,
        REVERSE_V4,
        REVERSE_V6,
        MAPPINGS_V4,
        MAPPINGS_V6,
        MAPPING_FILTER,
        FILL,
        SCRATCH,
        DROPS,
        TRAFFIC,
        SERVICES,
        ALLOWANCES,
        COLLECTED,
        PUBLISHED_V4,
        PUBLISHED_V6,
        SENDERS_V4,
        SENDERS_V6,
        EXPOSED,
        HOST_PORTS,
        LED_SOCKETS,
        BUCKETS,
        USED,
        FRAGMENTS_V4,
        FRAGMENTS_V6,
    ];
}

/// Constants that the agent sets in the program's read-only data when it loads it.
pub mod global {
    /// `u32`: the mark of frames that netagent redirects; never 0.
    pub const MARK: &str = "MARK";
    /// `u16`: first port of the NAT range.
    pub const NAT_PORT_FIRST: &str = "NAT_PORT_FIRST";
    /// `u16`: number of ports in the NAT range; not 0.
    pub const NAT_PORT_COUNT: &str = "NAT_PORT_COUNT";
    /// `u64`: cookie of the agent's network namespace; sockets of other namespaces are left alone.
    pub const NETNS_COOKIE: &str = "NETNS_COOKIE";
    /// `u16`: external ports by endpoint-independent mappings that one instance may have; 0 for none.
    pub const EIM_PORTS: &str = "EIM_PORTS";
    /// `u16`: 1 where whoever sends to such a port reaches its guest (endpoint-independent filtering).
    pub const FILTERS_NOBODY: &str = "FILTERS_NOBODY";
    /// `u16`, as the five that follow: [`crate::timeouts::Timeouts::tcp_established`], s.
    pub const TIMEOUT_TCP_ESTABLISHED: &str = "TIMEOUT_TCP_ESTABLISHED";
    /// [`crate::timeouts::Timeouts::tcp_transitory`].
    pub const TIMEOUT_TCP_TRANSITORY: &str = "TIMEOUT_TCP_TRANSITORY";
    /// [`crate::timeouts::Timeouts::tcp_closing`].
    pub const TIMEOUT_TCP_CLOSING: &str = "TIMEOUT_TCP_CLOSING";
    /// [`crate::timeouts::Timeouts::udp`].
    pub const TIMEOUT_UDP: &str = "TIMEOUT_UDP";
    /// [`crate::timeouts::Timeouts::udp_unreplied`].
    pub const TIMEOUT_UDP_UNREPLIED: &str = "TIMEOUT_UDP_UNREPLIED";
    /// [`crate::timeouts::Timeouts::icmp`].
    pub const TIMEOUT_ICMP: &str = "TIMEOUT_ICMP";
    /// `u16`: [`crate::nat::tick_shift`].
    pub const TICK_SHIFT: &str = "TICK_SHIFT";
    /// `u16`: offset of `ip_summed` in the kernel's `struct sk_buff`, bits; 0 where partial checksums are not
    /// checked, which only tests do.
    pub const SKB_IP_SUMMED_BIT: &str = "SKB_IP_SUMMED_BIT";
    /// `u16`: offset of `csum_start`, bytes; `csum_offset` lies behind it.
    pub const SKB_CSUM_START: &str = "SKB_CSUM_START";
    /// `u16`: offset of `network_header`, bytes.
    pub const SKB_NETWORK_HEADER: &str = "SKB_NETWORK_HEADER";
}

/// Pin of a map: `<bpf-dir>/v7/<map>`; of a program: `<bpf-dir>/v7/programs/<program>`; of a tcx link:
/// `<bpf-dir>/v7/links/<link>`. This is the sub-directory of programs.
pub const PROGRAMS_DIR: &str = "programs";
/// Name of the pin of the link that keeps [`DROP_ALL`] on the idle device.
pub const IDLE_DROP_ALL: &str = "idle-drop_all";
/// The sub-directory of links.
pub const LINKS_DIR: &str = "links";
/// The sub-directory of links to the root of the control groups, named after their programs.
pub const SOCKETS_DIR: &str = "sockets";
