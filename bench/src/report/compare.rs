//! What changed from one report to another, beyond noise.
//!
//! A machine is faster on one day than on the other, and all ways of a comparison with it: they were measured in turn. So
//! where netagent stands beside others, each round of a way is divided by that of a reference of the same round: the bare
//! redirect, else the first peer that both reports have. What is left is the change of the way itself. Other tables have
//! no such reference, and their values are compared as they are.

use std::fmt::Write;

use crate::figures::Figures;
use crate::report::noise;
use crate::report::number::{size, tidy, times};
use crate::report::standing::OWN;
use crate::report::{Better, Cell, Report, Table};

/// What no peer is preferred to.
const REFERENCE: &str = "tcx redirect";

/// What changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Of one way each, the largest change first.
    pub changes: Vec<Change>,
    /// Cells that both reports have.
    pub compared: usize,
    /// Tables that only the old report has.
    pub gone: Vec<String>,
    /// Tables that only the new report has.
    pub new: Vec<String>,
    /// What makes the two hard to compare.
    pub caveats: Vec<String>,
}

/// What a way is now, in what it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The table.
    pub id: String,
    /// The way.
    pub way: String,
    /// The size, where the table has an axis.
    pub at: Option<f64>,
    /// Medians before and now, as they were measured.
    pub medians: (f64, f64),
    /// The new median in the old one, both beside the reference where there is one.
    pub ratio: f64,
    /// What both are beside.
    pub beside: Option<String>,
    /// Whether it is for the better.
    pub is_better: bool,
}

/// Compares two reports.
#[must_use]
pub fn compare(old: &Report, new: &Report) -> Comparison {
    let find = |report: &'_ Report, id: &str| report.tables.iter().position(|one| one.id == id);
    let only = |one: &Report, other: &Report| {
        let tables = one.tables.iter();
        let tables = tables.filter(|table| find(other, &table.id).is_none());
        tables.map(|table| table.id.clone()).collect()
    };
    let mut comparison = Comparison {
        gone: only(old, new),
        new: only(new, old),
        caveats: caveats(old, new),
        ..Comparison::default()
    };
    for table in &new.tables {
        let before = old.tables.iter().find(|before| before.id == table.id);
        if let Some(before) = before.filter(|before| before.unit == table.unit) {
            compare_tables(before, table, &mut comparison);
        }
    }
    let extent = |change: &Change| change.ratio.ln().abs();
    let by_size = |one: &Change, other: &Change| extent(other).total_cmp(&extent(one));
    comparison.changes.sort_by(by_size);
    comparison
}

fn caveats(old: &Report, new: &Report) -> Vec<String> {
    let mut caveats = Vec::new();
    if old.quick != new.quick {
        caveats.push(
            "one of the runs was quick, the other full: frames are fewer in the former".to_owned(),
        );
    }
    let machine = |report: &Report| {
        let machine = &report.machine;
        (
            machine.processor.clone(),
            machine.processors,
            machine.kernel.clone(),
        )
    };
    if machine(old) != machine(new) {
        caveats.push("the machines, or their kernels, are not the same".to_owned());
    }
    for (report, name) in [(old, "old"), (new, "new")] {
        if !report.machine.was_idle() {
            caveats.push(format!("the machine was not idle before the {name} run"));
        }
    }
    caveats
}

fn compare_tables(old: &Table, new: &Table, comparison: &mut Comparison) {
    for cell in &new.cells {
        let Some(before) = old.cell(&cell.way, cell.at) else {
            continue;
        };
        if before.rounds.is_empty() || cell.rounds.is_empty() {
            continue;
        }
        comparison.compared += 1;
        let beside = reference(old, new, cell);
        let [then, now] = [(old, before), (new, cell)].map(|(table, cell)| {
            let reference = beside.and_then(|way| table.cell(way, cell.at));
            reference.map_or_else(|| cell.rounds.clone(), |other| divided(cell, other))
        });
        if !noise::is_beyond(&then, &now) {
            continue;
        }
        let ratio = median(&now) / median(&then);
        comparison.changes.push(Change {
            id: new.id.clone(),
            way: cell.way.clone(),
            at: cell.at,
            medians: (before.figures().median(), cell.figures().median()),
            ratio,
            beside: beside.map(str::to_owned),
            is_better: match new.better {
                Better::Lower => ratio < 1.0,
                Better::Higher => ratio > 1.0,
            },
        });
    }
}

/// What a way is put beside, where netagent is one of several: not the way itself, which is compared as it is.
fn reference<'a>(old: &Table, new: &'a Table, cell: &Cell) -> Option<&'a str> {
    let ways = new.ways();
    if !ways.contains(&OWN) {
        return None;
    }
    let is_measured = |table: &Table, way: &str| {
        let cell = table.cell(way, cell.at);
        cell.is_some_and(|cell| {
            !cell.rounds.is_empty() && cell.rounds.iter().all(|round| *round > 0.0)
        })
    };
    let mut others = ways
        .into_iter()
        .filter(|way| *way != OWN && is_measured(old, way) && is_measured(new, way));
    let first = others.clone().find(|way| *way == REFERENCE);
    first
        .or_else(|| others.next())
        .filter(|way| *way != cell.way)
}

/// Each round beside that of the reference, which was measured in turn with it; beside its median where rounds of one are
/// missing.
fn divided(cell: &Cell, reference: &Cell) -> Vec<f64> {
    let rounds = cell.rounds.iter();
    if cell.rounds.len() == reference.rounds.len() {
        let both = rounds.zip(&reference.rounds);
        both.map(|(round, other)| round / other).collect()
    } else {
        let other = reference.figures().median();
        rounds.map(|round| round / other).collect()
    }
}

fn median(rounds: &[f64]) -> f64 {
    rounds.iter().copied().collect::<Figures>().median()
}

impl Comparison {
    /// For the terminal.
    ///
    /// # Panics
    /// Never: a text takes what is written to it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut say = |line: &str| writeln!(text, "{line}").expect("a text takes all");
        self.caveats
            .iter()
            .for_each(|caveat| say(&format!("note: {caveat}")));
        let (changes, compared) = (self.changes.len(), self.compared);
        say(&format!(
            "{changes} of {compared} figures changed beyond noise (more than 5 %, and rounds that differ by more than chance)"
        ));
        self.changes.iter().for_each(|change| say(&change.text()));
        for (what, ids) in [("no longer there", &self.gone), ("new", &self.new)] {
            if !ids.is_empty() {
                say(&format!("{what}: {}", ids.join(", ")));
            }
        }
        text
    }
}

impl Change {
    fn text(&self) -> String {
        let verdict = if self.is_better { "better" } else { "WORSE " };
        let at = self
            .at
            .map_or_else(String::new, |at| format!(" at {}", size(at)));
        let (before, now) = (tidy(self.medians.0), tidy(self.medians.1));
        let beside = match &self.beside {
            Some(way) => format!(", beside {way}"),
            None => String::new(),
        };
        format!(
            "  {verdict} {}  {} {}{at}: {before} -> {now}{beside}",
            times(self.ratio),
            self.id,
            self.way
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{report, table};

    const ROUNDS: [f64; 7] = [100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 106.0];

    fn with(factor: f64, redirect: f64) -> Report {
        let [own, bare] = [factor, redirect].map(|factor| ROUNDS.map(|round| round * factor));
        report(vec![table(&[("netagent", &own), ("tcx redirect", &bare)])])
    }

    #[test]
    fn a_slower_machine_changes_nothing_but_the_reference() {
        let comparison = compare(&with(2.0, 1.0), &with(2.6, 1.3));
        assert_eq!(comparison.compared, 2);
        let [change] = &comparison.changes[..] else {
            panic!("{comparison:?}");
        };
        assert_eq!(
            (change.way.as_str(), &change.beside),
            ("tcx redirect", &None)
        );
    }

    #[test]
    fn a_slower_way_is_worse_and_a_faster_one_better() {
        let comparison = compare(&with(2.0, 1.0), &with(2.4, 1.0));
        let [change] = &comparison.changes[..] else {
            panic!("{comparison:?}");
        };
        assert!(!change.is_better && (change.ratio - 1.2).abs() < 1e-9);
        assert_eq!(change.beside.as_deref(), Some("tcx redirect"));
        assert!(
            comparison
                .text()
                .contains("WORSE  1.20x  some/id netagent: 206 -> 247, beside tcx redirect")
        );
        let back = compare(&with(2.4, 1.0), &with(2.0, 1.0));
        assert!(back.changes[0].is_better);
    }

    #[test]
    fn what_is_within_noise_is_not_told() {
        assert!(
            compare(&with(2.0, 1.0), &with(2.05, 1.0))
                .changes
                .is_empty()
        );
    }

    #[test]
    fn tables_that_are_missing_or_new_are_named() {
        let (mut old, mut new) = (with(1.0, 1.0), with(1.0, 1.0));
        old.tables[0].id = "was".to_owned();
        new.tables[0].id = "is".to_owned();
        let comparison = compare(&old, &new);
        assert_eq!(
            (comparison.gone.join(" "), comparison.new.join(" ")),
            ("was".into(), "is".into())
        );
        assert_eq!(comparison.compared, 0);
        assert!(comparison.text().contains("no longer there: was\nnew: is"));
    }

    #[test]
    fn tables_without_netagent_are_compared_as_they_are() {
        let of = |factor: f64| {
            let rounds = ROUNDS.map(|round| round * factor);
            let mut table = table(&[("answers", &rounds), ("others", &rounds)]);
            table.better = Better::Higher;
            report(vec![table])
        };
        let comparison = compare(&of(1.0), &of(1.5));
        assert_eq!(comparison.changes.len(), 2);
        assert!(
            comparison
                .changes
                .iter()
                .all(|change| change.is_better && change.beside.is_none())
        );
    }

    #[test]
    fn quick_runs_and_other_machines_are_named() {
        let (old, mut new) = (with(1.0, 1.0), with(1.0, 1.0));
        new.quick = true;
        new.machine.processors = 64;
        new.machine.load_before = 3.0;
        assert_eq!(compare(&old, &new).caveats.len(), 3);
    }
}
