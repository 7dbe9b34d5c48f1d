//! A report on disk: never half of one, and none of another format.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tempfile::Builder;

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
        // Root measures; the person who asked is to read it.
        let mut file = Builder::new()
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(parent)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{report, table};
    use crate::report::{Better, Goal, Ran};

    #[test]
    fn what_is_written_is_read() {
        let mut table = table(&[("netagent", &[1.5, 2.0]), ("passt", &[])]).over("instances");
        table.cells[0].at = Some(10.0);
        table.note("a <note>");
        let mut report = report(vec![table]);
        report.goals.push(Goal {
            what: "something".to_owned(),
            value: 0.3,
            target: 0.25,
            better: Better::Lower,
        });
        report.benchmarks.push(Ran {
            name: "some".to_owned(),
            about: "something".to_owned(),
            seconds: 1.25,
        });
        report.failures.push("some: it stopped".to_owned());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new").join("report.json");
        save(&report, &path).unwrap();
        assert_eq!(load(&path).unwrap(), report);
        save(&report, &path).unwrap();
        let files = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_report_of_another_format_is_refused() {
        let told = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert_eq!(
            told(r#"{"format": 7, "something": "else"}"#),
            "this report is of format 7, and this program reads format 1: measure again"
        );
        assert!(told(r#"{"format": 1}"#).starts_with("this report is not complete: missing field"));
        assert!(told("[]").starts_with("this is no report of a benchmark"));
        assert!(told("").starts_with("this is no report of a benchmark"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let refused = load(Path::new("/nowhere/report.json")).unwrap_err();
        assert_eq!(refused.to_string(), "cannot read /nowhere/report.json");
    }
}
