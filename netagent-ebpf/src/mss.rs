//! MSS clamping (RFC 879, RFC 6691): neither side of a connection announces larger segments than fit the guest's TAP
//! and the flow's way, for on the way ICMP errors get lost.
#![allow(unsafe_code, reason = "the kernel calls back with a raw pointer")]

use crate::family::Family;
use crate::kernel::{self, ChecksumField, Skb};
use crate::parse::{Kind, checksum_field, transport_offset};

/// Length of a TCP header without options, bytes.
const TCP_LEN: u32 = 20;
/// Options that fit a header, where each has one byte.
const OPTIONS_MAX: u32 = 40;

/// A walk through the options of a segment.
struct Walk {
    skb: Skb,
    /// Offset of the next option in the frame.
    at: u32,
    /// Offset of the end of the options.
    end: u32,
    /// The largest MSS that is announced.
    limit: u16,
    /// Offset of the checksum.
    checksum: u32,
}

/// Lowers the MSS that a segment with SYN announces, where it has more than fits an MTU. `header_len` is its data
/// offset, bytes. Where the options are malformed, they stay: each end has its own view of them.
#[inline(never)]
pub fn clamp<A: Family>(skb: Skb, header_len: u32, mtu: u32) {
    let start = transport_offset::<A>();
    let limit = mtu.saturating_sub(A::HEADER_LEN + TCP_LEN);
    let mut walk = Walk {
        skb,
        at: start + TCP_LEN,
        end: start + header_len,
        limit: if limit > 0xffff { 0xffff } else { limit as u16 },
        checksum: checksum_field::<A>(Kind::Segment(0)).offset,
    };
    kernel::repeat(OPTIONS_MAX, next_option, &mut walk);
}

/// One option: stops with 1.
unsafe extern "C" fn next_option(_index: u64, walk: *mut Walk) -> i64 {
    const GO_ON: i64 = 0;
    const STOP: i64 = 1;
    const END: u8 = 0;
    const PADDING: u8 = 1;
    const MSS: u8 = 2;
    // SAFETY: the kernel passes the walk of the function above, which nobody else uses meanwhile.
    let walk = unsafe { &mut *walk };
    let at = walk.at;
    if at >= walk.end {
        return STOP;
    }
    // The last byte of a frame is no option of interest.
    let Ok([kind, len]) = walk.skb.load(at) else {
        return STOP;
    };
    if kind == PADDING {
        walk.at = at + 1;
        return GO_ON;
    }
    if kind == END || len < 2 {
        return STOP;
    }
    if kind != MSS || len != 4 {
        walk.at = at + u32::from(len);
        return GO_ON;
    }
    if at + 4 <= walk.end {
        lower(walk, at + 2);
    }
    STOP
}

/// Lowers the MSS at this offset.
#[inline(always)]
fn lower(walk: &Walk, at: u32) {
    let Ok(old) = walk.skb.load::<2>(at) else {
        return;
    };
    if u16::from_be_bytes(old) <= walk.limit {
        return;
    }
    let new = walk.limit.to_be_bytes();
    // At an odd place its bytes belong to two words of the checksum, each to the other half of its word.
    let ([a, b], [c, d]) = (old, new);
    let (from, to) = if at.is_multiple_of(2) {
        (old, new)
    } else {
        ([b, a], [d, c])
    };
    let field = ChecksumField {
        offset: walk.checksum,
        zero_is_none: false,
    };
    // Both fail for want of memory alone.
    if walk.skb.overwrite(at, &new).is_ok() {
        walk.skb.correct_l4_checksum_for_word(field, from, to).ok();
    }
}
