//! How many queues of a TAP somebody holds: until it has an owner, anybody may attach one to a multi-queue TAP.

use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::link::{InfoData, InfoTun, LinkAttribute, LinkInfo, LinkMessage};

/// `IFLA_TUN_NUM_QUEUES` and `IFLA_TUN_NUM_DISABLED_QUEUES`: a disabled queue is held too.
const QUEUE_COUNTS: [u16; 2] = [8, 9];

/// Queues that are held, disabled ones included. `None` where the link is no multi-queue TAP.
pub fn held(link: &LinkMessage) -> Option<u32> {
    let infos = link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::LinkInfo(infos) = attribute {
            Some(infos)
        } else {
            None
        }
    })?;
    let numbers = infos.iter().find_map(|info| {
        if let LinkInfo::Data(InfoData::Tun(numbers)) = info {
            Some(numbers)
        } else {
            None
        }
    })?;
    let mut counts = numbers.iter().filter_map(count).peekable();
    counts.peek()?;
    Some(counts.fold(0, u32::saturating_add))
}

fn count(info: &InfoTun) -> Option<u32> {
    if !QUEUE_COUNTS.contains(&info.kind()) || info.value_len() != 4 {
        return None;
    }
    let mut bytes = [0; 4];
    info.emit_value(&mut bytes);
    Some(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::DefaultNla;

    use super::*;

    fn check(attributes: &[(u16, &[u8])], expected: Option<u32>) {
        let infos = attributes
            .iter()
            .map(|(kind, value)| InfoTun::Other(DefaultNla::new(*kind, value.to_vec())));
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Data(
            InfoData::Tun(infos.collect()),
        )])];
        assert_eq!(held(&link), expected);
    }

    #[test]
    fn disabled_queues_are_held_too() {
        let (one, two) = (1_u32.to_ne_bytes(), 2_u32.to_ne_bytes());
        check(&[(3, &[2]), (8, &one), (9, &two)], Some(3));
        check(&[(8, &one), (9, &[0; 4])], Some(1));
    }

    #[test]
    fn a_tap_with_one_queue_says_nothing_of_queues() {
        check(&[(3, &[2])], None);
        assert_eq!(held(&LinkMessage::default()), None);
    }
}
