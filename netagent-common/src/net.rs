//! Numbers of the protocols, and the addresses that are the same on every host.

/// MAC address of every gateway that a guest sees (I-12): constant, so that the neighbour entry of a
/// guest restored from a snapshot stays valid.
pub const GATEWAY_MAC: [u8; 6] = [0xfe, 0xfc, 0, 0, 0, 1];

/// IPv6 gateway of every guest (I-16): `fe80::1`.
pub const GATEWAY_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Length of an Ethernet header without tag, bytes.
pub const ETHERNET_LEN: u32 = 14;

/// EtherTypes.
pub mod ethertype {
    /// IPv4, RFC 894.
    pub const IPV4: u16 = 0x0800;
    /// ARP, RFC 826.
    pub const ARP: u16 = 0x0806;
    /// IPv6, RFC 2464.
    pub const IPV6: u16 = 0x86dd;
}

/// Protocol numbers of IPv4 and next-header values of IPv6.
pub mod protocol {
    /// ICMP, RFC 792.
    pub const ICMP: u8 = 1;
    /// IGMP, RFC 3376.
    pub const IGMP: u8 = 2;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
}

/// Flags in byte 13 of a TCP header.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Aborts a connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;

    /// Whether a segment with these flags opens, answers or ends a connection.
    #[must_use]
    pub const fn is_eventful(flags: u8) -> bool {
        flags & (SYN | FIN | RST) != 0
    }
}
