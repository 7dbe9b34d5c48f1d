//! Says when the tables of the host fill up (N-5), once, and when there is room again.

use std::collections::BTreeMap;

/// A table is filling up from this part on, percent.
const HIGH_PERCENT: u64 = 80;
/// It has room again below this part: a table at the border is not worth a line every few seconds.
const LOW_PERCENT: u64 = 70;

/// Which tables were said to fill up.
#[derive(Debug, Default)]
pub struct Alerts {
    said: BTreeMap<&'static str, bool>,
}

/// What is to be said of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// It fills up.
    High,
    /// It has room again.
    Low,
}

impl Alerts {
    /// What is to be said of a table that holds `count` entries of at most `most`.
    pub fn note(&mut self, table: &'static str, count: u64, most: u64) -> Option<Alert> {
        let is_said = self.said.entry(table).or_default();
        let part = |percent: u64| most.saturating_mul(percent) / 100;
        if !*is_said && count >= part(HIGH_PERCENT).max(1) {
            *is_said = true;
            return Some(Alert::High);
        }
        if *is_said && count < part(LOW_PERCENT).max(1) {
            *is_said = false;
            return Some(Alert::Low);
        }
        None
    }

    /// The same, into the log.
    pub fn say(&mut self, table: &'static str, count: u64, most: u64) {
        let percent = count.saturating_mul(100) / most.max(1);
        match self.note(table, count, most) {
            Some(Alert::High) => {
                tracing::warn!(table, count, most, percent, "a table of the host fills up");
            }
            Some(Alert::Low) => {
                tracing::info!(
                    table,
                    count,
                    most,
                    percent,
                    "a table of the host has room again"
                );
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_said_to_fill_up_once_until_it_has_room_again() {
        let mut alerts = Alerts::default();
        let counts = [
            (0, None),
            (799, None),
            (800, Some(Alert::High)),
            (1_000, None),
            (799, None),
            (700, None),
            (801, None),
            (699, Some(Alert::Low)),
            (750, None),
            (800, Some(Alert::High)),
        ];
        for (count, expected) in counts {
            assert_eq!(alerts.note("flows", count, 1_000), expected, "{count}");
        }
        assert_eq!(alerts.note("others", 900, 1_000), Some(Alert::High));
    }

    #[test]
    fn a_table_of_one_is_full_or_empty() {
        let mut alerts = Alerts::default();
        assert_eq!(alerts.note("one", 0, 1), None);
        assert_eq!(alerts.note("one", 1, 1), Some(Alert::High));
        assert_eq!(alerts.note("one", 0, 1), Some(Alert::Low));
    }
}
