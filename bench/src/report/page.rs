//! The page: every comparison in one file.

use anyhow::Result;

use crate::report::Report;

/// The page of a report.
///
/// # Errors
/// Where a chart cannot be drawn.
pub fn render(report: &Report) -> Result<String> {
    let mut text = "<!doctype html><pre>".to_owned();
    for table in &report.tables {
        text += &crate::report::terminal::table(table);
    }
    Ok(text)
}
