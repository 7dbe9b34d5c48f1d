//! Tables in the terminal.

use comfy_table::{CellAlignment, Table as Grid, presets};

use crate::report::{Better, Goal, Table};

/// Prints a comparison: of every way median, range, and how it stands beside the first.
pub fn print_table(table: &Table) {
    let mut grid = Grid::new();
    grid.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    let axis = table.axis.as_deref().unwrap_or("");
    grid.set_header(["", axis, &table.unit, "lowest", "highest", "beside"]);
    for column in 1..6 {
        if let Some(column) = grid.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for cell in &table.cells {
        let at = cell.at.map_or_else(String::new, |at| at.to_string());
        if cell.rounds.is_empty() {
            grid.add_row([&cell.way, &at, "-", "", "", ""]);
            continue;
        }
        let figures = cell.figures();
        let first = table
            .cells
            .iter()
            .find(|first| first.at == cell.at && !first.rounds.is_empty());
        let beside = first.map_or(1.0, |first| figures.median() / first.figures().median());
        let number = |value: f64| format!("{value:.1}");
        grid.add_row([
            cell.way.clone(),
            at,
            number(figures.median()),
            number(figures.quantile(0.0)),
            number(figures.quantile(1.0)),
            format!("{beside:.2}"),
        ]);
    }
    println!("\n{} ({})\n{grid}", table.title, table.id);
    for note in &table.notes {
        println!("  {note}");
    }
}

/// Says whether something was reached.
pub fn print_goal(goal: &Goal) {
    let sign = match goal.better {
        Better::Lower => "<=",
        Better::Higher => ">=",
    };
    let verdict = if goal.is_met() { "met" } else { "MISSED" };
    let Goal {
        what,
        value,
        target,
        ..
    } = goal;
    println!("  {what}: {value:.3} (goal {sign} {target}): {verdict}");
}
