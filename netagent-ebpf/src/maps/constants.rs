//! Constants that the agent sets when it loads the programs.
#![allow(unsafe_code, reason = "the loader finds a constant by its name")]

use aya_ebpf::Global;
use netagent_common::nat::{EIM_PORTS as EIM_PORTS_DEFAULT, tick_shift};
use netagent_common::timeouts::Timeouts;

use crate::kernel::Skb;

#[unsafe(no_mangle)]
static MARK: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static NAT_PORT_FIRST: Global<u16> = Global::new(0);
#[unsafe(no_mangle)]
static NAT_PORT_COUNT: Global<u16> = Global::new(0);

#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static EIM_PORTS: Global<u16> = Global::new(EIM_PORTS_DEFAULT);
#[unsafe(no_mangle)]
static FILTERS_NOBODY: Global<u16> = Global::new(0);

#[unsafe(no_mangle)]
static TIMEOUT_TCP_ESTABLISHED: Global<u16> = Global::new(Timeouts::DEFAULT.tcp_established);
#[unsafe(no_mangle)]
static TIMEOUT_TCP_TRANSITORY: Global<u16> = Global::new(Timeouts::DEFAULT.tcp_transitory);
#[unsafe(no_mangle)]
static TIMEOUT_TCP_CLOSING: Global<u16> = Global::new(Timeouts::DEFAULT.tcp_closing);
#[unsafe(no_mangle)]
static TIMEOUT_UDP: Global<u16> = Global::new(Timeouts::DEFAULT.udp);
#[unsafe(no_mangle)]
static TIMEOUT_UDP_UNREPLIED: Global<u16> = Global::new(Timeouts::DEFAULT.udp_unreplied);
#[unsafe(no_mangle)]
static TIMEOUT_ICMP: Global<u16> = Global::new(Timeouts::DEFAULT.icmp);

#[unsafe(no_mangle)]
static TICK_SHIFT: Global<u16> = Global::new(tick_shift(JIFFY_NS_DEFAULT));

/// 250 Hz, as Debian's kernels.
const JIFFY_NS_DEFAULT: u64 = 4_000_000;

#[unsafe(no_mangle)]
static SKB_IP_SUMMED_BIT: Global<u16> = Global::new(0);
#[unsafe(no_mangle)]
static SKB_CSUM_START: Global<u16> = Global::new(0);
#[unsafe(no_mangle)]
static SKB_NETWORK_HEADER: Global<u16> = Global::new(0);

/// Where the kernel keeps the partial checksum of a packet: offsets in `struct sk_buff`.
#[derive(Clone, Copy)]
pub struct SkbLayout {
    /// Of `ip_summed`, bits.
    pub ip_summed_bit: u16,
    /// Of `csum_start`, bytes.
    pub csum_start: u16,
    /// Of `network_header`, bytes.
    pub network_header: u16,
}

/// The layout; `None` where the loader did not give it.
#[inline(always)]
pub fn skb_layout() -> Option<SkbLayout> {
    let ip_summed_bit = SKB_IP_SUMMED_BIT.load();
    (ip_summed_bit != 0).then(|| SkbLayout {
        ip_summed_bit,
        csum_start: SKB_CSUM_START.load(),
        network_header: SKB_NETWORK_HEADER.load(),
    })
}

/// Mark of frames that netagent redirects.
#[inline(always)]
pub fn mark() -> u32 {
    MARK.load()
}

/// Whether netagent redirected the frame. The mark is never 0; a program loaded without one knows none.
#[inline(always)]
pub fn is_marked(skb: Skb) -> bool {
    let mark = mark();
    mark != 0 && skb.mark() == mark
}

/// Cookie of the agent's network namespace; 0 where sockets are left alone.
#[inline(always)]
pub fn netns_cookie() -> u64 {
    NETNS_COOKIE.load()
}

/// First port and number of ports of the NAT range.
#[inline(always)]
pub fn nat_ports() -> (u16, u16) {
    (NAT_PORT_FIRST.load(), NAT_PORT_COUNT.load())
}

/// External ports by endpoint-independent mappings that one instance may have.
#[inline(always)]
pub fn eim_ports() -> u64 {
    EIM_PORTS.load().into()
}

/// Whether whoever sends to a port with such a mapping reaches its guest.
#[inline(always)]
pub fn filters_nobody() -> bool {
    FILTERS_NOBODY.load() != 0
}

/// What makes ticks of jiffies.
#[inline(always)]
pub fn jiffies_shift() -> u16 {
    TICK_SHIFT.load()
}

/// Jiffies of a tick.
#[inline(always)]
pub fn jiffies_of_tick() -> u32 {
    1 << TICK_SHIFT.load()
}

/// Times after which flows are removed.
#[inline(always)]
pub fn timeouts() -> Timeouts {
    Timeouts {
        tcp_established: TIMEOUT_TCP_ESTABLISHED.load(),
        tcp_transitory: TIMEOUT_TCP_TRANSITORY.load(),
        tcp_closing: TIMEOUT_TCP_CLOSING.load(),
        udp: TIMEOUT_UDP.load(),
        udp_unreplied: TIMEOUT_UDP_UNREPLIED.load(),
        icmp: TIMEOUT_ICMP.load(),
    }
}
