//! Where netagent stands beside its peers in a comparison.

use crate::report::noise;
use crate::report::{Better, Cell, Table};

/// Our own way.
pub const OWN: &str = "netagent";

/// Ways that nobody uses as they are: what no other can be faster than.
const LIMITS: [&str; 2] = ["tcx redirect", "XDP devmap"];

/// Ways that leave out what netagent does for the same frames.
const LESS: [&str; 3] = ["kernel route", "linux bridge", "u32 + mirred"];

/// What a way does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Our own.
    Own,
    /// The same, as people do it today.
    Peer,
    /// What people use today, and less: addresses are not translated.
    Less,
    /// Nothing but carry frames.
    Limit,
}

impl Role {
    /// Of a way.
    #[must_use]
    pub fn of(way: &str) -> Self {
        if is_a(way, OWN) {
            Self::Own
        } else if LIMITS.iter().any(|limit| is_a(way, limit)) {
            Self::Limit
        } else if LESS.iter().any(|less| is_a(way, less)) {
            Self::Less
        } else {
            Self::Peer
        }
    }
}

/// Whether a way is that of a name: it may say more after that, `netagent, 1,000 networks`.
fn is_a(way: &str, name: &str) -> bool {
    let more = way.strip_prefix(name);
    more.is_some_and(|more| more.is_empty() || more.starts_with([',', ' ']))
}

/// What a reader has to know of a way, in a few words. Nobody does less than the others where none of them does more.
#[must_use]
pub fn remark(table: &Table, way: &str) -> &'static str {
    let has_peers = || {
        table
            .cells
            .iter()
            .any(|cell| Role::of(&cell.way) == Role::Peer)
    };
    match Role::of(way) {
        Role::Less if has_peers() => "no NAT",
        Role::Own | Role::Peer | Role::Less => "",
        Role::Limit => "the limit",
    }
}

/// Who is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// netagent, beyond noise.
    Ahead,
    /// Nobody, beyond noise.
    Even,
    /// The peer, beyond noise.
    Behind,
}

/// netagent beside the best of its peers, at one size.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing<'a> {
    /// The size, where the table has an axis.
    pub at: Option<f64>,
    /// Our own.
    pub own: &'a Cell,
    /// The best of those that do the same; of those that do less where there is no other.
    pub peer: &'a Cell,
    /// What the peer has, in what netagent has.
    pub ratio: f64,
    /// Who is ahead.
    pub verdict: Verdict,
    /// Those that people use today and that are ahead, but do less.
    pub ahead_with_less: Vec<&'a Cell>,
}

/// netagent beside its peers, at every size.
#[must_use]
pub fn standings(table: &Table) -> Vec<Standing<'_>> {
    let own = table.cells.iter();
    let own = own.filter(|cell| cell.way == OWN && !cell.rounds.is_empty());
    own.filter_map(|own| standing(table, own)).collect()
}

fn standing<'a>(table: &'a Table, own: &'a Cell) -> Option<Standing<'a>> {
    let of = |role: Role| {
        let cells = table.cells.iter();
        cells.filter(move |cell| {
            cell.at == own.at && !cell.rounds.is_empty() && Role::of(&cell.way) == role
        })
    };
    let best = |role: Role| {
        of(role).reduce(|best, cell| {
            if is_better(table.better, cell, best) {
                cell
            } else {
                best
            }
        })
    };
    let peer = best(Role::Peer).or_else(|| best(Role::Less))?;
    let is_ahead = |cell: &&Cell| verdict(table.better, own, cell) == Verdict::Behind;
    Some(Standing {
        at: own.at,
        own,
        peer,
        ratio: peer.figures().median() / own.figures().median(),
        verdict: verdict(table.better, own, peer),
        ahead_with_less: of(Role::Less)
            .filter(is_ahead)
            .filter(|cell| cell.way != peer.way)
            .collect(),
    })
}

/// The best way at a size, limits aside; none where netagent is not compared with anybody.
#[must_use]
pub fn winner(table: &Table, at: Option<f64>) -> Option<&Cell> {
    let is_compared = table.cells.iter().any(|cell| cell.way == OWN)
        && table.cells.iter().any(|cell| cell.way != OWN);
    let cells = table.cells.iter().filter(|cell| {
        is_compared
            && cell.at == at
            && !cell.rounds.is_empty()
            && Role::of(&cell.way) != Role::Limit
    });
    cells.reduce(|best, cell| {
        if is_better(table.better, cell, best) {
            cell
        } else {
            best
        }
    })
}

/// What ratios of a table are about: netagent, or the first way where it is not there.
#[must_use]
pub fn measure_of(table: &Table, at: Option<f64>) -> Option<&Cell> {
    let mut cells = table.cells.iter();
    let measured = |cell: &&Cell| cell.at == at && !cell.rounds.is_empty();
    let own = cells.clone().filter(measured).find(|cell| cell.way == OWN);
    own.or_else(|| cells.find(measured))
}

fn is_better(better: Better, one: &Cell, other: &Cell) -> bool {
    let (one, other) = (one.figures().median(), other.figures().median());
    match better {
        Better::Lower => one < other,
        Better::Higher => one > other,
    }
}

fn verdict(better: Better, own: &Cell, peer: &Cell) -> Verdict {
    if !noise::is_beyond(&own.rounds, &peer.rounds) {
        Verdict::Even
    } else if is_better(better, own, peer) {
        Verdict::Ahead
    } else {
        Verdict::Behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::table;

    #[test]
    fn limits_are_no_peers_and_less_is_said_to_be_less() {
        let found = table(&[
            ("tcx redirect", &[50.0, 51.0, 49.0]),
            ("kernel route", &[80.0, 81.0, 79.0]),
            ("netagent", &[100.0, 101.0, 99.0]),
            ("nft masquerade", &[200.0, 201.0, 199.0]),
        ]);
        let standings = standings(&found);
        let [standing] = &standings[..] else {
            panic!("one size: {standings:?}");
        };
        assert_eq!(standing.peer.way, "nft masquerade");
        assert_eq!(standing.ratio, 2.0);
        assert_eq!(standing.verdict, Verdict::Ahead);
        assert_eq!(standing.ahead_with_less[0].way, "kernel route");
        assert_eq!(winner(&found, None).unwrap().way, "kernel route");
    }

    #[test]
    fn variants_of_our_own_are_no_peers() {
        let found = table(&[
            ("netagent", &[100.0; 3]),
            ("netagent, 1,000 networks", &[90.0; 3]),
            ("linux bridge", &[95.0; 3]),
        ]);
        assert_eq!(standings(&found)[0].peer.way, "linux bridge");
        assert_eq!(remark(&found, "linux bridge"), "");
        assert_eq!(Role::of("netagentless"), Role::Peer);
    }

    #[test]
    fn a_peer_that_wins_is_shown_as_such() {
        let mut found = table(&[("netagent", &[100.0; 3]), ("passt", &[90.0; 3])]);
        assert_eq!(standings(&found)[0].verdict, Verdict::Behind);
        found.better = Better::Higher;
        assert_eq!(standings(&found)[0].verdict, Verdict::Ahead);
        found.cells[1].rounds.clear();
        assert!(standings(&found).is_empty(), "nobody to be compared with");
    }

    #[test]
    fn what_is_within_noise_is_even() {
        let found = table(&[
            ("netagent", &[100.0, 120.0, 110.0]),
            ("nft masquerade", &[105.0, 115.0, 125.0]),
        ]);
        assert_eq!(standings(&found)[0].verdict, Verdict::Even);
    }
}
