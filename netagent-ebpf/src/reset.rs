//! Resets (RFC 9293, section 3.10.7) for connections that may not go on, or may not be: nobody else would tell their
//! ends.

use netagent_common::drop::DropReason;
use netagent_common::net::tcp_flag::{ACK, FIN, RST, SYN};

use crate::family::Family;
use crate::kernel::Skb;
use crate::parse::{Header, Kind, Transport, transport_offset};

/// A segment without payload that ends a connection.
pub struct Reset<A> {
    /// MAC addresses, destination first.
    pub macs: [u32; 3],
    /// Who ends it.
    pub from: A,
    /// For whom.
    pub to: A,
    /// The ports, source first.
    pub ports: [[u8; 2]; 2],
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgement number.
    pub acknowledgement: [u8; 4],
    /// Flags.
    pub flags: u8,
}

impl<A> Reset<A> {
    /// The segment without its checksum, as it lies in memory.
    #[inline(always)]
    pub fn segment(&self) -> [u32; 5] {
        const HEADER_LEN: u8 = 5 << 4;
        let [[a, b], [c, d]] = self.ports;
        [
            [a, b, c, d],
            self.sequence,
            self.acknowledgement,
            [HEADER_LEN, self.flags, 0, 0],
            [0; 4],
        ]
        .map(u32::from_ne_bytes)
    }
}

/// All flags at once: no stack sends that.
const NO_FLAGS: u8 = 0xff;

/// What of a segment its resets depend on.
#[derive(Clone, Copy)]
pub struct Cause {
    sequence: [u8; 4],
    acknowledgement: [u8; 4],
    flags: u8,
    /// Sequence number behind it.
    next: [u8; 4],
}

impl Cause {
    /// What is no segment. No `None`, whose payload the compiler would copy all the same, and the
    /// verifier does not let it.
    const NOTHING: Self = Self {
        sequence: [0; 4],
        acknowledgement: [0; 4],
        flags: NO_FLAGS,
        next: [0; 4],
    };

    /// Reads it.
    #[inline(always)]
    pub fn read<A: Family>(skb: Skb, header: &Header<A>, transport: &Transport) -> Self {
        let Kind::Segment(flags) = transport.kind else {
            return Self::NOTHING;
        };
        let Ok(segment) = skb.window::<20>(transport_offset::<A>()) else {
            return Self::NOTHING;
        };
        let sequence = segment.four::<4>();
        let payload = header.payload_len.wrapping_sub(transport.len);
        let len = payload
            .wrapping_add(u32::from(flags & SYN != 0))
            .wrapping_add(u32::from(flags & FIN != 0));
        Self {
            sequence,
            acknowledgement: segment.four::<8>(),
            flags,
            next: u32::from_be_bytes(sequence).wrapping_add(len).to_be_bytes(),
        }
    }

    /// Whether it is a segment.
    #[inline(always)]
    pub const fn is_segment(&self) -> bool {
        self.flags != NO_FLAGS
    }

    /// Whether a reset answers it: none answers a reset.
    #[inline(always)]
    pub const fn is_answered(&self) -> bool {
        self.flags & RST == 0
    }

    /// What tells the sender of the segment: it comes from the other end, which `ports` names first.
    #[inline(always)]
    pub fn for_sender<A>(
        &self,
        macs: [u32; 3],
        (from, to): (A, A),
        ports: [[u8; 2]; 2],
    ) -> Reset<A> {
        let (sequence, acknowledgement, flags) = if self.flags & ACK != 0 {
            (self.acknowledgement, [0; 4], RST)
        } else {
            ([0; 4], self.next, RST | ACK)
        };
        Reset {
            macs,
            from,
            to,
            ports,
            sequence,
            acknowledgement,
            flags,
        }
    }

    /// What tells the one whom the segment was for: it stands in the segment's place.
    #[inline(always)]
    pub fn for_receiver<A>(
        &self,
        macs: [u32; 3],
        (from, to): (A, A),
        ports: [[u8; 2]; 2],
    ) -> Reset<A> {
        Reset {
            macs,
            from,
            to,
            ports,
            sequence: self.sequence,
            acknowledgement: self.acknowledgement,
            flags: RST | self.flags & ACK,
        }
    }
}

/// Writes the reset in the frame's place: a function of its own so that what it needs of the stack is free again
/// afterwards. Whatever the frame was before, it is finished then, but for its MAC addresses.
///
/// # Errors
/// [`DropReason::HelperFailed`].
#[inline(always)]
pub fn write<A: Family>(skb: Skb, reset: &Reset<A>) -> Result<(), DropReason> {
    if is_written(skb, reset) {
        Ok(())
    } else {
        Err(DropReason::HelperFailed)
    }
}

#[inline(never)]
fn is_written<A: Family>(skb: Skb, reset: &Reset<A>) -> bool {
    skb.become_plain(transport_offset::<A>() + 20)
        .and_then(|()| A::reset(skb, reset))
        .is_ok()
}
