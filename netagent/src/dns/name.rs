//! Names in messages. One may be written as a chain of pointers (RFC 1035, 4.1.4), and very many may share a long chain:
//! whoever follows each of them works for a second on one message. So a chain is looked at before it is followed.

use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

/// Pointers in one name. Who compresses points to a name that may end with a pointer itself: a few of them in a row.
const POINTERS_MAX: usize = 16;

/// Reads a name of a message.
///
/// # Errors
/// Where it breaks the rules, or is a longer chain of pointers than anybody writes.
pub(super) fn read(message: &[u8], decoder: &mut BinDecoder<'_>) -> Result<Name, DecodeError> {
    check(message, decoder.index())?;
    Name::read(decoder)
}

/// Looks at a name without building it. Whatever else is wrong with it, its reader says.
pub(super) fn check(message: &[u8], mut at: usize) -> Result<(), DecodeError> {
    let mut pointers = 0;
    while let Some(length) = message.get(at).copied() {
        match length {
            0 => return Ok(()),
            1..=63 => at += 1 + usize::from(length),
            64..=191 => return Err(DecodeError::InsufficientBytes),
            192..=255 => {
                pointers += 1;
                let low = message.get(at + 1).copied();
                let target = low.map(|low| usize::from(length & 0x3f) << 8 | usize::from(low));
                // Backwards alone, so that it ends.
                match target.filter(|target| *target < at && pointers <= POINTERS_MAX) {
                    Some(target) => at = target,
                    None => return Err(DecodeError::InsufficientBytes),
                }
            }
        }
    }
    Err(DecodeError::InsufficientBytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name, and so many pointers, each to the one before; and where the last one is.
    fn chain(pointers: usize) -> (Vec<u8>, usize) {
        let mut message = vec![0; 12];
        message.extend(b"\x01a\x00");
        let mut last = 12;
        for _ in 0..pointers {
            let target = u16::try_from(last).unwrap() | 0xc000;
            last = message.len();
            message.extend(target.to_be_bytes());
        }
        (message, last)
    }

    fn is_read(message: &[u8], at: usize) -> bool {
        let mut decoder = BinDecoder::new(message);
        decoder.read_slice(at).unwrap();
        read(message, &mut decoder).is_ok()
    }

    #[test]
    fn a_chain_of_a_few_pointers_is_followed_and_a_long_one_is_not() {
        for (pointers, expected) in [
            (0, true),
            (1, true),
            (16, true),
            (17, false),
            (8_000, false),
        ] {
            let (message, last) = chain(pointers);
            assert_eq!(is_read(&message, last), expected, "{pointers}");
        }
    }

    #[test]
    fn loops_pointers_ahead_and_ends_in_the_middle_are_refused() {
        for bytes in [
            &b"\xc0\x0c"[..],
            b"\xc0\x0e\x01a\x00",
            b"\xc0",
            b"\x3fa",
            b"\x40a\x00",
            b"\x01a",
            b"",
        ] {
            let mut message = vec![0; 12];
            message.extend(bytes);
            assert!(!is_read(&message, 12), "{bytes:?}");
        }
    }
}
