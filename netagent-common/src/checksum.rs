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

/// Sum of words of 32 bits, for [`fold_wide`].
#[must_use]
#[inline(always)]
pub fn sum_wide<const N: usize>(words: &[u32; N]) -> u64 {
    let mut total = 0;
    for word in words {
        total += u64::from(*word);
    }
    total
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

/// What replacing a word of 16 bits at an even place does to a sum.
#[must_use]
#[inline(always)]
pub fn word_difference([a, b]: [u8; 2], [c, d]: [u8; 2]) -> u32 {
    difference(&[a, b, 0, 0], &[c, d, 0, 0])
}

/// A checksum field after a change of what it covers (RFC 1624, equation 3).
#[must_use]
#[inline(always)]
pub fn corrected(field: [u8; 2], difference: u32) -> [u8; 2] {
    let sum = u32::from(!u16::from_ne_bytes(field));
    (!fold(add(sum, difference))).to_ne_bytes()
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
    }

    proptest! {
        #[test]
        fn a_corrected_checksum_is_right_for_the_changed_bytes(before: [u8; 40], new: [u8; 2]) {
            let mut after = before;
            after[10..12].copy_from_slice(&new);
            let field = (!fold(sum(&before))).to_ne_bytes();
            let old = [before[10], before[11]];
            let corrected = corrected(field, word_difference(old, new));
            let expected = !fold(sum(&after));
            prop_assert_eq!(u16::from_ne_bytes(corrected) % 0xffff, expected % 0xffff);
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
