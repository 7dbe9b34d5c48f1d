//! Packets cut into fragments, and put together again.

use netagent_common::net::ethertype;

use crate::packet;

/// Next header of IPv6: a fragment.
const FRAGMENT: u8 = 44;

/// Where things lie in a frame of a family: the payload behind the IP header, the fields of a fragment.
fn start(frame: &[u8]) -> usize {
    if is_v4(frame) { 34 } else { 54 }
}

fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == ethertype::IPV4.to_be_bytes()
}

/// One fragment of a frame: its payload from `offset` on, `len` bytes of it.
#[must_use]
pub fn fragment(frame: &[u8], (offset, len): (usize, usize), id: u16) -> Vec<u8> {
    let start = start(frame);
    let end = start + offset + len;
    let has_more = end < frame.len();
    piece(frame, &frame[start + offset..end], (offset, has_more), id)
}

/// A fragment with the headers of a frame, and anything in it; `offset` is its place in bytes.
///
/// # Panics
/// Where an offset or a length is none.
#[must_use]
pub fn piece(frame: &[u8], payload: &[u8], (offset, has_more): (usize, bool), id: u16) -> Vec<u8> {
    let mut bytes = Vec::from(&frame[..start(frame)]);
    let offset = u16::try_from(offset).expect("an offset");
    if is_v4(frame) {
        let total = u16::try_from(20 + payload.len()).expect("a length");
        bytes[16..18].copy_from_slice(&total.to_be_bytes());
        bytes[18..20].copy_from_slice(&id.to_be_bytes());
        let field = (offset / 8) | (u16::from(has_more) << 13);
        bytes[20..22].copy_from_slice(&field.to_be_bytes());
        bytes.extend(payload);
        return packet::with_header_checksum(bytes);
    }
    let len = u16::try_from(8 + payload.len()).expect("a length");
    bytes[18..20].copy_from_slice(&len.to_be_bytes());
    let protocol = std::mem::replace(&mut bytes[20], FRAGMENT);
    bytes.extend([protocol, 0]);
    bytes.extend((offset | u16::from(has_more)).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// All fragments of a frame, in order, with so many bytes of payload each: a multiple of eight.
#[must_use]
pub fn fragments(frame: &[u8], size: usize, id: u16) -> Vec<Vec<u8>> {
    let len = frame.len() - start(frame);
    let offsets = (0..len).step_by(size);
    offsets
        .map(|offset| fragment(frame, (offset, size.min(len - offset)), id))
        .collect()
}

/// The packet that these fragments, in order, make up, with the headers of the first one.
///
/// # Panics
/// Where one does not follow the one before, or their headers differ.
#[must_use]
pub fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let first = &fragments[0];
    let (is_v4, start) = (is_v4(first), start(first));
    let mut payload = Vec::<u8>::new();
    for (index, bytes) in fragments.iter().enumerate() {
        let is_last = index + 1 == fragments.len();
        let (field, body, addresses) = if is_v4 {
            let field = u16::from_be_bytes([bytes[20], bytes[21]]);
            assert_eq!(bytes[18..20], first[18..20], "identification");
            assert_eq!(
                packet::fold(packet::sum(&bytes[14..34])),
                0xffff,
                "header checksum"
            );
            (
                (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0),
                34,
                26..34,
            )
        } else {
            let field = u16::from_be_bytes([bytes[56], bytes[57]]);
            assert_eq!(
                (bytes[20], bytes[54]),
                (FRAGMENT, first[54]),
                "next headers"
            );
            assert_eq!(bytes[58..62], first[58..62], "identification");
            ((usize::from(field & !7), field & 1 != 0), 62, 22..54)
        };
        assert_eq!(
            field,
            (payload.len(), !is_last),
            "offset, and whether more follow"
        );
        assert_eq!(bytes[addresses.clone()], first[addresses], "addresses");
        payload.extend(&bytes[body..]);
    }
    let mut whole = Vec::from(&first[..start]);
    let len = payload.len();
    if is_v4 {
        let total = u16::try_from(20 + len).expect("a length");
        whole[16..18].copy_from_slice(&total.to_be_bytes());
        whole[18..22].fill(0);
        whole.extend(payload);
        return packet::with_header_checksum(whole);
    }
    whole[18..20].copy_from_slice(&u16::try_from(len).expect("a length").to_be_bytes());
    whole[20] = first[54];
    whole.extend(payload);
    whole
}
