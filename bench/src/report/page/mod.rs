//! The page: every comparison of a report in one file, which needs nothing else, and nobody's script.

mod bars;
mod chart;
mod comparison;
mod lines;
mod summary;

use anyhow::Result;

use crate::report::{Report, Table};

/// Ends of ids of tables that show the rounds of another one by another measure, and what that is.
const TWINS: [(&str, &str); 2] = [
    ("/processor", "The same by the processor's time"),
    ("/rate", "The same as a rate, by the clock"),
];

const STYLE: &str = include_str!("style.css");

/// The page of a report.
///
/// # Errors
/// Where a chart cannot be drawn.
pub fn render(report: &Report) -> Result<String> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>netagent: benchmarks</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    page += &summary::head(report);
    page += &summary::standing(report);
    page += &summary::goals(report);
    for (name, about) in sections(report) {
        page += &format!(
            "<section>\n<h2>{}</h2>\n<p class=\"about\">{}</p>\n",
            escaped(&name),
            escaped(&about)
        );
        for table in &report.tables {
            if section(&table.id) == name {
                page += &folded(twin(report, table), comparison::article(table)?);
            }
        }
        page += "</section>\n";
    }
    page += &summary::machine(report);
    page += "</main>\n</body>\n</html>\n";
    Ok(page)
}

/// By what other measure a table shows the rounds of another one: the page folds it, and the summary leaves it out.
fn twin(report: &Report, table: &Table) -> Option<&'static str> {
    let is_there = |id: &str| report.tables.iter().any(|table| table.id == id);
    let mut twins = TWINS.into_iter();
    let found = twins.find(|(end, _)| table.id.strip_suffix(end).is_some_and(is_there));
    found.map(|(_, what)| what)
}

/// The same comparison by another measure is there for those who ask.
fn folded(what: Option<&str>, article: String) -> String {
    match what {
        Some(what) => {
            format!("<details class=\"twin\">\n<summary>{what}</summary>\n{article}</details>\n")
        }
        None => article,
    }
}

/// What belongs together, and what it is about: the benchmarks, in the order of their tables.
fn sections(report: &Report) -> Vec<(String, String)> {
    let mut sections: Vec<(String, String)> = Vec::new();
    for table in &report.tables {
        let name = section(&table.id);
        if sections.iter().any(|(known, _)| known == name) {
            continue;
        }
        let ran = report.benchmarks.iter().find(|ran| ran.name == name);
        let about = ran.map_or_else(String::new, |ran| ran.about.clone());
        sections.push((name.to_owned(), about));
    }
    sections
}

/// The benchmark that a table is of.
fn section(id: &str) -> &str {
    id.split('/').next().unwrap_or(id)
}

/// A text as HTML has it, in an attribute too.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
