//! A report on disk: never half of one, and none of another format.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tempfile::NamedTempFile;

use crate::report::{FORMAT, Report};

/// What every format begins with.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// Writes a report as JSON.
///
/// # Errors
/// Where the place cannot be written to.
pub fn save(report: &Report, path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(report).context("a report is JSON")?;
    replace(path, &text)
}

/// Puts a text in the place of a file, at once.
///
/// # Errors
/// Where the place cannot be written to.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    let put = || -> Result<()> {
        fs::create_dir_all(parent)?;
        let mut file = NamedTempFile::new_in(parent)?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    put().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a report.
///
/// # Errors
/// Where there is none, or it is of another format.
pub fn load(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Report> {
    let Head { format } = serde_json::from_str(text).context("this is no report of a benchmark")?;
    ensure!(
        format == FORMAT,
        "this report is of format {format}, and this program reads format {FORMAT}: measure again"
    );
    serde_json::from_str(text).context("this report is not complete")
}
