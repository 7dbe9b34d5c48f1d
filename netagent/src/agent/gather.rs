//! Changes of the host: gathered for a moment, then followed link by link, so that no request waits for all of them.

use std::time::Duration;

use tokio::time::Instant;

use crate::agent::carry_out::ALONE_MAX;
use crate::host::Changes;

/// Time that changes are gathered before they are followed.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Links that are followed at once. For each the kernel walks through all its routes and neighbours: of 10,000 instances
/// that takes some twenty milliseconds.
const LINKS_MAX: usize = 1;
/// Time until the next ones are followed: requests that wait have their turn.
const TURN: Duration = Duration::from_millis(1);

/// Changes that are not followed yet.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Those that are still gathered, and until when.
    fresh: Option<(Changes, Instant)>,
    /// Those that are followed part by part, and when the next part is.
    ripe: Option<(Changes, Instant)>,
}

impl Gathered {
    /// Takes in what changed now.
    pub(crate) fn add(&mut self, changes: Changes, now: Instant) {
        let none = (Changes::default(), now + DEBOUNCE);
        self.fresh.get_or_insert(none).0.add(changes);
    }

    /// When there is something to follow.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        let both = [&self.fresh, &self.ripe];
        both.into_iter().flatten().map(|(_, at)| *at).min()
    }

    /// What is to be followed now: everything but links, and some of these, or all where one look at everything is sooner done.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Changes> {
        let mut part = Changes::default();
        for waiting in [&mut self.ripe, &mut self.fresh] {
            if let Some((changes, _)) = waiting.take_if(|(_, at)| *at <= now) {
                part.add(changes);
            }
        }
        if part.overrun {
            // All links are looked at then, those of later parts too.
            self.ripe = None;
        } else if part.links.len() <= ALONE_MAX {
            let others = part.split_off_links(LINKS_MAX);
            if !others.is_empty() {
                self.ripe
                    .get_or_insert((Changes::default(), now))
                    .0
                    .add(others);
            }
        }
        (!part.is_empty()).then_some(part)
    }

    /// Says that a part was followed: the next one has its turn after requests.
    pub(crate) fn followed(&mut self, now: Instant) {
        if let Some((_, at)) = &mut self.ripe {
            *at = now + TURN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(indices: std::ops::Range<u32>) -> Changes {
        Changes {
            links: indices.collect(),
            ..Changes::default()
        }
    }

    #[test]
    fn changes_are_gathered_and_followed_part_by_part_with_requests_between() {
        let (mut gathered, start) = (Gathered::default(), Instant::now());
        assert_eq!((gathered.due_at(), gathered.take(start)), (None, None));
        gathered.add(links(0..2), start);
        gathered.add(links(1..3), start + DEBOUNCE / 2);
        let due = start + DEBOUNCE;
        assert_eq!(gathered.due_at(), Some(due));
        assert_eq!(gathered.take(due - TURN), None);
        assert_eq!(gathered.take(due), Some(links(0..1)));
        // Following took a while, and the next part waits from its end on.
        let end = due + DEBOUNCE / 2;
        gathered.followed(end);
        assert_eq!(gathered.due_at(), Some(end + TURN));
        gathered.add(links(7..8), end);
        for next in [1, 2] {
            assert_eq!(gathered.take(end + TURN), Some(links(next..next + 1)));
            gathered.followed(end);
        }
        assert_eq!(gathered.due_at(), Some(end + DEBOUNCE));
        assert_eq!(gathered.take(end + DEBOUNCE), Some(links(7..8)));
        assert_eq!(gathered.due_at(), None);
    }

    #[test]
    fn what_is_not_a_link_comes_with_the_first_part_alone() {
        let (mut gathered, start) = (Gathered::default(), Instant::now());
        let network = Changes {
            network: true,
            ..links(0..2)
        };
        gathered.add(network, start);
        let first = gathered.take(start + DEBOUNCE).unwrap();
        assert!(first.network && first.links.len() == LINKS_MAX);
        assert_eq!(gathered.take(start + DEBOUNCE), Some(links(1..2)));
    }

    #[test]
    fn very_many_links_are_followed_by_one_look_at_everything() {
        let (mut gathered, start) = (Gathered::default(), Instant::now());
        let many = links(0..u32::try_from(ALONE_MAX).unwrap() + 1);
        gathered.add(many.clone(), start);
        assert_eq!(gathered.take(start + DEBOUNCE), Some(many));
        assert_eq!(gathered.due_at(), None);
    }

    #[test]
    fn after_an_overrun_everything_is_looked_at_once() {
        let (mut gathered, start) = (Gathered::default(), Instant::now());
        gathered.add(links(0..9), start);
        assert!(gathered.take(start + DEBOUNCE).is_some());
        let overrun = Changes {
            overrun: true,
            ..links(20..29)
        };
        gathered.add(overrun, start);
        let part = gathered.take(start + DEBOUNCE).unwrap();
        assert!(part.overrun);
        assert_eq!(
            (gathered.due_at(), gathered.take(start + 2 * DEBOUNCE)),
            (None, None)
        );
    }
}
