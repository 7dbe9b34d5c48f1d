//! Tables in the terminal.

use comfy_table::{CellAlignment, Table as Grid, TableComponent, presets};

use crate::report::number::{size, tidy, times};
use crate::report::standing;
use crate::report::{Better, Cell, Goal, Report, Table};

/// What stands beside the best way.
const BEST: &str = "<- best";

/// A comparison: of every way median, range, and how it stands beside netagent; or, over an axis, a column for each size.
#[must_use]
pub fn table(table: &Table) -> String {
    let grid = if table.axis.is_some() {
        over_axis(table)
    } else {
        by_way(table)
    };
    let direction = match table.better {
        Better::Lower => "less is better",
        Better::Higher => "more is better",
    };
    let Table {
        id, title, unit, ..
    } = table;
    let mut text = format!("\n{title} [{id}]\n{unit}, {direction}\n{grid}");
    for note in &table.notes {
        text += &format!("\n  {note}");
    }
    text
}

fn by_way(table: &Table) -> Grid {
    let beside = match standing::measure_of(table, None) {
        Some(cell) => format!("beside {}", cell.way),
        None => String::new(),
    };
    let mut grid = grid(&["", "median", "lowest", "highest", &beside, ""]);
    let winner = standing::winner(table, None);
    for cell in &table.cells {
        if cell.rounds.is_empty() {
            grid.add_row([&cell.way, "-"]);
            continue;
        }
        let figures = cell.figures();
        let mark = match winner {
            Some(winner) if winner.way == cell.way => BEST,
            Some(_) => standing::remark(table, &cell.way),
            None => "",
        };
        grid.add_row([
            cell.way.clone(),
            tidy(figures.median()),
            tidy(figures.quantile(0.0)),
            tidy(figures.quantile(1.0)),
            ratio(table, cell),
            mark.to_owned(),
        ]);
    }
    grid
}

fn over_axis(table: &Table) -> Grid {
    let sizes = table.sizes();
    let names: Vec<String> = sizes.iter().copied().map(size).collect();
    let axis = table.axis.as_deref().unwrap_or_default();
    let header: Vec<&str> = [axis]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    let mut grid = grid(&header);
    for way in table.ways() {
        let of = |at: &f64| {
            let cell = table.cell(way, Some(*at));
            cell.map_or_else(String::new, |cell| at_size(table, cell))
        };
        let row = [way.to_owned()].into_iter().chain(sizes.iter().map(of));
        grid.add_row(row.collect::<Vec<String>>());
    }
    grid
}

/// Median, and its ratio below; a star at the best of a size.
fn at_size(table: &Table, cell: &Cell) -> String {
    if cell.rounds.is_empty() {
        return "-".to_owned();
    }
    let is_best = standing::winner(table, cell.at).is_some_and(|winner| winner.way == cell.way);
    let star = if is_best { "*" } else { "" };
    let figures = cell.figures();
    format!(
        "{star}{}\n{}-{}\n{}",
        tidy(figures.median()),
        tidy(figures.quantile(0.0)),
        tidy(figures.quantile(1.0)),
        ratio(table, cell)
    )
}

fn ratio(table: &Table, cell: &Cell) -> String {
    let measure = standing::measure_of(table, cell.at);
    measure.map_or_else(String::new, |measure| {
        times(cell.figures().median() / measure.figures().median())
    })
}

fn grid(header: &[&str]) -> Grid {
    let mut grid = Grid::new();
    grid.load_preset(presets::NOTHING);
    for line in [
        TableComponent::HeaderLines,
        TableComponent::MiddleHeaderIntersections,
    ] {
        grid.set_style(line, '-');
    }
    grid.set_header(header);
    for column in grid.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    grid
}

/// Whether something was reached.
#[must_use]
pub fn goal(goal: &Goal) -> String {
    let verdict = if goal.is_met() { "met" } else { "MISSED" };
    let (value, target) = (tidy(goal.value), goal.wanted());
    format!("  {}: {value} (goal {target}): {verdict}", goal.what)
}

/// What comes next.
#[must_use]
pub fn heading(name: &str, about: &str) -> String {
    format!("\n== {name}: {about}")
}

/// Where and when, and whether the figures can be trusted.
#[must_use]
pub fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{}\n{} x {}, load {}",
        machine.kernel, machine.processors, machine.processor, machine.load_before
    );
    if !machine.was_idle() {
        text += "\nthe machine is not idle: trust the ratios, not the figures";
    }
    text
}

/// What the whole run comes to.
#[must_use]
pub fn summary(report: &Report) -> String {
    let (met, missed): (Vec<&Goal>, Vec<&Goal>) =
        report.goals.iter().partition(|goal| goal.is_met());
    let mut text = format!("\n{} of {} goals met", met.len(), report.goals.len());
    for one in missed {
        text += &format!("\n{}", goal(one));
    }
    for failure in &report.failures {
        text += &format!("\nFAILED: {failure}");
    }
    text
}
