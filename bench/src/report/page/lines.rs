//! Lines: what each way is at every size, over powers of ten.

use anyhow::Result;
use plotters::prelude::RGBColor;
use plotters::style::Color;

use crate::report::number::size;
use crate::report::page::chart::{
    Anchor, Canvas, GRID, INK, OWN as OWN_COLOUR, PEERS, QUIET, Scale, WIDTHS, picture,
};
use crate::report::page::escaped;
use crate::report::standing::{OWN, remark};
use crate::report::{Cell, Table};

const LEFT: i32 = 62;
const TOP: i32 = 14;
const FOOT: i32 = 46;
/// Values that are further apart than this are shown by powers of ten.
const LINEAR_MAX: f64 = 8.0;

/// The chart of a table with an axis, in every width, and its legend.
///
/// # Errors
/// Where it cannot be drawn.
pub(super) fn charts(table: &Table) -> Result<String> {
    let mut charts = legend(table);
    for (class, width) in WIDTHS {
        let height = if width < 600 { 280 } else { 360 };
        charts += &picture((class, &table.title), (width, height), |canvas| {
            draw(canvas, table, (width, height))
        })?;
    }
    Ok(charts)
}

/// Colour of a way: those of the others in their order.
fn colour(table: &Table, way: &str) -> RGBColor {
    if way == OWN {
        return OWN_COLOUR;
    }
    let ways = table.ways();
    let mut others = ways.iter().filter(|other| **other != OWN);
    let index = others.position(|other| *other == way).unwrap_or_default();
    PEERS[index % PEERS.len()]
}

fn legend(table: &Table) -> String {
    let item = |way: &str| {
        let RGBColor(red, green, blue) = colour(table, way);
        let remark = match remark(table, way) {
            "" => String::new(),
            remark => format!(" <small>({remark})</small>"),
        };
        format!(
            "<li><svg class=\"key\" viewBox=\"0 0 22 10\" aria-hidden=\"true\"><rect width=\"22\" height=\"10\" fill=\"#{red:02X}{green:02X}{blue:02X}\"></rect></svg>{}{remark}</li>\n",
            escaped(way)
        )
    };
    let items: String = table.ways().into_iter().map(item).collect();
    format!("<ul class=\"legend\">\n{items}</ul>\n")
}

fn draw(canvas: &Canvas<'_>, table: &Table, (width, height): (i32, i32)) -> Result<()> {
    let (right, bottom) = (width - 24, height - FOOT);
    let across = Scale::sizes(&table.sizes(), (LEFT, right));
    let up = vertical(table, (bottom, TOP));
    for tick in up.ticks() {
        let y = up.at(tick);
        canvas.line(&[(LEFT, y), (right, y)], GRID)?;
        canvas.text(&size(tick), (LEFT - 8, y), (Anchor::Right, 14, QUIET))?;
    }
    for tick in across.ticks() {
        let x = across.at(tick);
        canvas.line(&[(x, TOP), (x, bottom)], GRID)?;
        canvas.text(&size(tick), (x, bottom + 14), (Anchor::Middle, 14, QUIET))?;
    }
    let axis = table.axis.as_deref().unwrap_or_default();
    canvas.text(
        axis,
        ((LEFT + right) / 2, bottom + 34),
        (Anchor::Middle, 14, QUIET),
    )?;
    // Our own last: on top of the others.
    let mut ways = table.ways();
    ways.sort_by_key(|way| *way == OWN);
    for way in ways {
        draw_way(canvas, (table, way), (&across, &up))?;
    }
    Ok(())
}

/// The scale of the values.
fn vertical(table: &Table, pixels: (i32, i32)) -> Scale {
    let values = || {
        table
            .cells
            .iter()
            .flat_map(|cell| cell.rounds.iter().copied())
    };
    let (lowest, highest) = range(values());
    if lowest > 0.0 && highest / lowest > LINEAR_MAX {
        Scale::log((lowest, highest), pixels)
    } else {
        Scale::linear((lowest, highest), pixels)
    }
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

fn draw_way(
    canvas: &Canvas<'_>,
    (table, way): (&Table, &str),
    (across, up): (&Scale, &Scale),
) -> Result<()> {
    let colour = colour(table, way);
    let is_own = way == OWN;
    let cells = table.cells.iter();
    let mut cells: Vec<(f64, &Cell)> = cells
        .filter(|cell| cell.way == way && !cell.rounds.is_empty())
        .filter_map(|cell| Some((cell.at?, cell)))
        .collect();
    cells.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let mut places = Vec::new();
    for (size, cell) in cells {
        let (x, figures) = (across.at(size), cell.figures());
        let [low, middle, high] = [
            figures.quantile(0.0),
            figures.median(),
            figures.quantile(1.0),
        ]
        .map(|value| up.at(value));
        canvas.line(&[(x, low), (x, high)], INK.mix(0.5))?;
        places.push((x, middle));
    }
    let (width, radius) = if is_own { (4, 5) } else { (2, 3) };
    canvas.line(&places, colour.stroke_width(width))?;
    for place in places {
        canvas.dot(place, radius, colour.filled())?;
    }
    Ok(())
}
