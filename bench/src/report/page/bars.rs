//! Bars: a way each, the best first, with the range of its rounds.

use anyhow::Result;
use plotters::style::Color;

use crate::report::number::{tidy, times};
use crate::report::page::chart::{
    Anchor, Canvas, GRID, INK, OWN as OWN_COLOUR, Place, QUIET, Scale, WIDTHS, bar_colour, picture,
};
use crate::report::standing::{OWN, Role, remark};
use crate::report::{Better, Cell, Table};

/// Height of the numbers below the bars.
const FOOT: i32 = 30;
/// Rounds that are shown as dots, at most: more would be a blot.
const DOTS_MAX: usize = 30;

/// Where things are in a picture of a width.
struct Layout {
    left: i32,
    right: i32,
    /// Of a way.
    row: i32,
    bar: i32,
    /// Whether names stand above their bars, not beside them.
    is_stacked: bool,
}

impl Layout {
    /// For names of so many letters at most.
    fn of(width: i32, letters: usize) -> Self {
        if width < 600 {
            Self {
                left: 4,
                right: width - 12,
                row: 48,
                bar: 16,
                is_stacked: true,
            }
        } else {
            Self {
                left: (letters as i32 * 7 + 26).clamp(120, 290),
                right: width - 150,
                row: 36,
                bar: 20,
                is_stacked: false,
            }
        }
    }

    /// Middle of the bar of a row.
    const fn middle(&self, row: i32) -> i32 {
        let above = if self.is_stacked { 32 } else { self.row / 2 };
        6 + row * self.row + above
    }
}

/// The chart of a table without an axis, in every width.
///
/// # Errors
/// Where it cannot be drawn.
pub(super) fn charts(table: &Table) -> Result<String> {
    let cells = in_order(table);
    let names = cells.iter().map(|cell| named(table, cell).chars().count());
    let letters = names.max().unwrap_or_default();
    let mut charts = String::new();
    for (class, width) in WIDTHS {
        let layout = Layout::of(width, letters);
        let height = 6 + cells.len() as i32 * layout.row + FOOT;
        charts += &picture((class, &table.title), (width, height), |canvas| {
            draw(canvas, table, &cells, &layout)
        })?;
    }
    Ok(charts)
}

/// What was measured, the best first where netagent is one of several; else as it was added.
fn in_order(table: &Table) -> Vec<&Cell> {
    let cells = table.cells.iter();
    let mut cells: Vec<&Cell> = cells.filter(|cell| !cell.rounds.is_empty()).collect();
    if cells.iter().any(|cell| cell.way == OWN) {
        cells.sort_by(|one, other| {
            let order = one.figures().median().total_cmp(&other.figures().median());
            match table.better {
                Better::Lower => order,
                Better::Higher => order.reverse(),
            }
        });
    }
    cells
}

fn draw(canvas: &Canvas<'_>, table: &Table, cells: &[&Cell], layout: &Layout) -> Result<()> {
    let values = || cells.iter().flat_map(|cell| cell.rounds.iter().copied());
    let lowest = values().fold(f64::INFINITY, f64::min);
    let highest = values().fold(f64::NEG_INFINITY, f64::max);
    let scale = Scale::linear((lowest, highest), (layout.left, layout.right));
    let bottom = 6 + cells.len() as i32 * layout.row;
    for tick in scale.ticks() {
        let x = scale.at(tick);
        canvas.line(&[(x, 6), (x, bottom)], GRID)?;
        let text = (Anchor::Middle, 14, QUIET);
        canvas.text(&tidy(tick), (x.max(12), bottom + 14), text)?;
    }
    for (row, cell) in (0..).zip(cells) {
        let place = (*cell, layout.middle(row));
        draw_bar(canvas, place, (&scale, layout.bar / 2))?;
        write_row(canvas, table, place, layout)?;
    }
    let zero = scale.at(0.0);
    canvas.line(&[(zero, 6), (zero, bottom)], QUIET)?;
    Ok(())
}

fn draw_bar(
    canvas: &Canvas<'_>,
    (cell, middle): (&Cell, i32),
    (scale, half): (&Scale, i32),
) -> Result<()> {
    let (figures, role) = (cell.figures(), Role::of(&cell.way));
    let end = scale.at(figures.median());
    let (from, to) = (scale.at(0.0).min(end), scale.at(0.0).max(end));
    canvas.bar(
        [(from, middle - half), (to, middle + half)],
        bar_colour(role),
    )?;
    let ends = [0.0, 1.0].map(|place| scale.at(figures.quantile(place)));
    draw_range(canvas, ends, middle)?;
    if cell.rounds.len() <= DOTS_MAX {
        for round in &cell.rounds {
            canvas.dot((scale.at(*round), middle), 2, INK.mix(0.45).filled())?;
        }
    }
    Ok(())
}

/// Name, median, and the ratio to netagent's.
fn write_row(
    canvas: &Canvas<'_>,
    table: &Table,
    (cell, middle): (&Cell, i32),
    layout: &Layout,
) -> Result<()> {
    let colour = if cell.way == OWN { OWN_COLOUR } else { INK };
    let median = cell.figures().median();
    let own = table.cell(OWN, None).filter(|own| !own.rounds.is_empty());
    let ratio = own.map_or_else(String::new, |own| times(median / own.figures().median()));
    let [name, value, beside]: [(Place, Anchor); 3] = if layout.is_stacked {
        let y = middle - 20;
        [
            ((layout.left, y), Anchor::Left),
            ((layout.right - 58, y), Anchor::Right),
            ((layout.right, y), Anchor::Right),
        ]
    } else {
        [
            ((layout.left - 12, middle), Anchor::Right),
            ((layout.right + 78, middle), Anchor::Right),
            ((layout.right + 142, middle), Anchor::Right),
        ]
    };
    canvas.text(&named(table, cell), name.0, (name.1, 15, colour))?;
    canvas.text(&tidy(median), value.0, (value.1, 16, colour))?;
    canvas.text(&ratio, beside.0, (beside.1, 14, QUIET))
}

/// A line from the lowest to the highest round.
fn draw_range(canvas: &Canvas<'_>, [low, high]: [i32; 2], middle: i32) -> Result<()> {
    canvas.line(&[(low, middle), (high, middle)], INK)?;
    for end in [low, high] {
        canvas.line(&[(end, middle - 4), (end, middle + 4)], INK)?;
    }
    Ok(())
}

fn named(table: &Table, cell: &Cell) -> String {
    match remark(table, &cell.way) {
        "" => cell.way.clone(),
        remark => format!("{} ({remark})", cell.way),
    }
}
