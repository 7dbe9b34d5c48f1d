//! An Ethernet frame with its virtio header: checksums that are still to be computed, and segments to be cut.

use crate::packet::{self, Transport};

/// Length of `struct virtio_net_hdr`.
pub const VNET_HEADER_LEN: usize = 10;

/// The checksum is to be computed from `checksum_start` on.
pub const NEEDS_CHECKSUM: u8 = 1;

/// How a super-frame is cut into segments.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    /// It is not.
    None = 0,
    /// TCP over IPv4.
    TcpV4 = 1,
    /// TCP over IPv6.
    TcpV6 = 4,
    /// UDP.
    Udp = 5,
}

/// `struct virtio_net_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CHECKSUM`] and others.
    pub flags: u8,
    /// A [`Segments`] as a number.
    pub segments: u8,
    /// Length of all headers of a super-frame.
    pub header_len: u16,
    /// Payload of each segment.
    pub segment_size: u16,
    /// Where the checksum begins.
    pub checksum_start: u16,
    /// Where it is written, from there.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// As it stands before a frame.
    #[must_use]
    pub fn to_bytes(self) -> [u8; VNET_HEADER_LEN] {
        let mut bytes = [0; VNET_HEADER_LEN];
        bytes[0] = self.flags;
        bytes[1] = self.segments;
        let fields = [
            self.header_len,
            self.segment_size,
            self.checksum_start,
            self.checksum_offset,
        ];
        for (place, field) in bytes[2..].chunks_exact_mut(2).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// From the bytes before a frame.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; VNET_HEADER_LEN]) -> Self {
        let field = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            segments: bytes[1],
            header_len: field(2),
            segment_size: field(4),
            checksum_start: field(6),
            checksum_offset: field(8),
        }
    }
}

/// A frame as a VMM hands it over or gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its virtio header; all zeroes where nothing is to be done.
    pub vnet: VnetHeader,
    /// The bytes from the Ethernet header on.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// A finished frame.
    #[must_use]
    pub fn plain(bytes: Vec<u8>) -> Self {
        Self {
            vnet: VnetHeader::default(),
            bytes,
        }
    }

    /// The same packet with a checksum that is still to be computed: its field holds the sum of the
    /// pseudo-header.
    ///
    /// # Panics
    /// Where it is neither TCP nor UDP.
    #[must_use]
    pub fn partial(mut bytes: Vec<u8>) -> Self {
        let Transport {
            start,
            checksum_offset,
            ..
        } = packet::transport(&bytes).expect("only TCP and UDP have partial checksums");
        let pseudo = packet::pseudo_sum(&bytes).expect("an IP packet");
        let field = start + checksum_offset;
        bytes[field..field + 2].copy_from_slice(&packet::fold(pseudo).to_be_bytes());
        let vnet = VnetHeader {
            flags: NEEDS_CHECKSUM,
            checksum_start: u16::try_from(start).expect("short headers"),
            checksum_offset: u16::try_from(checksum_offset).expect("short headers"),
            ..VnetHeader::default()
        };
        Self { vnet, bytes }
    }

    /// A super-frame to be cut into segments with `segment_size` bytes of payload.
    ///
    /// # Panics
    /// Where it is neither TCP nor UDP.
    #[must_use]
    pub fn super_frame(bytes: Vec<u8>, segments: Segments, segment_size: u16) -> Self {
        let header_len = packet::transport(&bytes).expect("TCP or UDP").payload;
        let mut frame = Self::partial(bytes);
        frame.vnet.segments = segments as u8;
        frame.vnet.segment_size = segment_size;
        frame.vnet.header_len = u16::try_from(header_len).expect("short headers");
        frame
    }

    /// The bytes with the checksum computed as the last device on the way would (over a super-frame as a whole). Of UDP a
    /// sum of 0 is written as 0xffff (RFC 768); of TCP devices write either, and it is 0 here.
    ///
    /// # Panics
    /// Where the header points outside the frame.
    #[must_use]
    pub fn completed(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if self.vnet.flags & NEEDS_CHECKSUM != 0 {
            let start = usize::from(self.vnet.checksum_start);
            let field = start + usize::from(self.vnet.checksum_offset);
            let checksum = match !packet::fold(packet::sum(&bytes[start..])) {
                0 if usize::from(self.vnet.checksum_offset) == packet::UDP_CHECKSUM => 0xffff,
                checksum => checksum,
            };
            bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    }
}
