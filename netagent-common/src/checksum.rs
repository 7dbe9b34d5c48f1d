//! The Internet checksum (RFC 1071), as differences and over short headers.

/// Adds two one's complement sums.
#[must_use]
pub const fn add(left: u32, right: u32) -> u32 {
    let (sum, carry) = left.overflowing_add(right);
    sum + carry as u32
}

/// Folds a sum to the sixteen bits that a header carries, not yet inverted.
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Folds a sum of words of 32 bits that was taken in 64 bits, without carries.
#[must_use]
pub const fn fold_wide(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    fold(add(sum as u32, (sum >> 32) as u32))
}

/// A header's checksum after a change, given as a [`difference`] (RFC 1624, equation 3).
#[must_use]
#[inline(always)]
pub const fn replace(checksum: u16, difference: u32) -> u16 {
    !fold_wide(!checksum as u64 + difference as u64)
}

/// Sum of the bytes, taken as words of 32 bits in the order of the host's memory; `N` is a multiple of 4.
#[must_use]
#[inline(always)]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    const { assert!(N.is_multiple_of(4), "whole words only") };
    let mut total = 0;
    for word in bytes.chunks_exact(4) {
        if let Ok(word) = word.try_into() {
            total = add(total, u32::from_ne_bytes(word));
        }
    }
    total
}

/// What replacing `old` by `new` does to a sum: the argument of `bpf_l3_csum_replace` and
/// `bpf_l4_csum_replace` with size 0.
#[must_use]
#[inline(always)]
pub fn difference<const N: usize>(old: &[u8; N], new: &[u8; N]) -> u32 {
    let mut total = 0;
    for (old, new) in old.chunks_exact(4).zip(new.chunks_exact(4)) {
        if let (Ok(old), Ok(new)) = (old.try_into(), new.try_into()) {
            total = add(
                total,
                add(!u32::from_ne_bytes(old), u32::from_ne_bytes(new)),
            );
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_difference_equals_the_sum_taken_anew(before: [u8; 40], address: [u8; 16]) {
            let mut after = before;
            after[8..24].copy_from_slice(&address);
            let old: [u8; 16] = before[8..24].try_into().unwrap();
            let changed = add(sum(&before), difference(&old, &address));
            // 0 and 0xffff are the same number in one's complement.
            prop_assert_eq!(fold(changed) % 0xffff, fold(sum(&after)) % 0xffff);
        }

        #[test]
        fn a_replaced_checksum_is_the_one_of_the_changed_header(before: [u8; 20], address: [u8; 4]) {
            // A header is never all zeroes, which is where the two zeroes of one's complement differ.
            let mut before = before;
            before[0] = 0x45;
            let checksum_of = |header: [u8; 20]| {
                let mut header = header;
                header[10..12].fill(0);
                !fold(sum(&header))
            };
            let mut after = before;
            after[16..20].copy_from_slice(&address);
            let old: [u8; 4] = before[16..20].try_into().unwrap();
            let replaced = replace(checksum_of(before), difference(&old, &address));
            prop_assert_eq!(replaced, checksum_of(after));
        }
    }

    #[test]
    fn a_correct_ipv4_header_sums_to_all_ones() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(fold(sum(&header)), 0xffff);
        let words = header
            .chunks_exact(4)
            .map(|word| u64::from(u32::from_ne_bytes(word.try_into().unwrap())));
        assert_eq!(fold_wide(words.sum()), 0xffff);
    }
}
