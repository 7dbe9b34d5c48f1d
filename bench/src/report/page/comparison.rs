//! One comparison: its chart, what a reader has to know, and every figure behind it.

use anyhow::Result;

use crate::report::number::{self, tidy, times};
use crate::report::page::{bars, escaped, lines};
use crate::report::standing::{OWN, measure_of, winner};
use crate::report::{Better, Cell, Table};

/// Title, chart, notes, and the figures, folded.
///
/// # Errors
/// Where the chart cannot be drawn.
pub(super) fn article(table: &Table) -> Result<String> {
    let direction = match table.better {
        Better::Lower => "less is better",
        Better::Higher => "more is better",
    };
    let is_measured = table.cells.iter().any(|cell| !cell.rounds.is_empty());
    let charts = match (&table.axis, is_measured) {
        (_, false) => String::new(),
        (Some(_), true) => lines::charts(table)?,
        (None, true) => bars::charts(table)?,
    };
    let notes: String = table
        .notes
        .iter()
        .map(|note| format!("<p class=\"note\">{}</p>\n", escaped(note)))
        .collect();
    Ok(format!(
        "<article id=\"{}\">\n<h3>{}</h3>\n<p class=\"unit\">{}, {direction}</p>\n<figure>\n{charts}</figure>\n{notes}{}</article>\n",
        escaped(&table.id),
        escaped(&capitalised(&table.title)),
        escaped(&table.unit),
        details(table)
    ))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

fn details(table: &Table) -> String {
    let axis = table.axis.as_ref();
    let size = axis.map_or_else(String::new, |axis| format!("<th>{}</th>", escaped(axis)));
    let rows: String = table.cells.iter().map(|cell| row(table, cell)).collect();
    format!(
        "<details>\n<summary>Figures and rounds <code>{}</code></summary>\n<div class=\"scroll\">\n<table>\n<thead><tr><th></th>{size}<th>median</th><th>lowest</th><th>highest</th><th>ratio</th><th class=\"rounds\">rounds</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n</details>\n",
        escaped(&table.id)
    )
}

fn row(table: &Table, cell: &Cell) -> String {
    let is_best = winner(table, cell.at).is_some_and(|winner| winner.way == cell.way);
    let class = match (cell.way == OWN, is_best) {
        (true, true) => "own best",
        (true, false) => "own",
        (false, true) => "best",
        (false, false) => "",
    };
    let size = table.axis.as_ref().map_or_else(String::new, |_| {
        let at = cell.at.map(number::size).unwrap_or_default();
        format!("<td>{at}</td>")
    });
    let name = escaped(&cell.way);
    if cell.rounds.is_empty() {
        return format!(
            "<tr class=\"{class}\"><th>{name}</th>{size}<td colspan=\"5\">not measured</td></tr>\n"
        );
    }
    let figures = cell.figures();
    let [median, low, high] = [
        figures.median(),
        figures.quantile(0.0),
        figures.quantile(1.0),
    ]
    .map(tidy);
    let measure = measure_of(table, cell.at);
    let ratio = measure.map_or_else(String::new, |measure| {
        times(figures.median() / measure.figures().median())
    });
    let rounds: Vec<String> = cell.rounds.iter().copied().map(tidy).collect();
    format!(
        "<tr class=\"{class}\"><th>{name}</th>{size}<td>{median}</td><td>{low}</td><td>{high}</td><td>{ratio}</td><td class=\"rounds\">{}</td></tr>\n",
        rounds.join(" ")
    )
}
