//! Where the files of a run go.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use xtask::paths;

use crate::report::files;
use crate::report::{Report, page};

/// Name of the copies of the last run's files.
const LATEST: &str = "latest";

/// Where the files of a run go.
#[derive(Clone, Debug)]
pub struct Outputs {
    json: Vec<PathBuf>,
    html: Vec<PathBuf>,
}

impl Outputs {
    /// The files that the command line names, and others in the target directory.
    #[must_use]
    pub fn choose(json: Option<PathBuf>, html: Option<PathBuf>) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let name = date_time(since.unwrap_or_default());
        let place = |named: Option<PathBuf>, kind: &str| {
            let dated = directory().join(format!("{name}.{kind}"));
            vec![
                named.unwrap_or(dated),
                directory().join(format!("{LATEST}.{kind}")),
            ]
        };
        Self {
            json: place(json, "json"),
            html: place(html, "html"),
        }
    }

    /// The run before this one, where there was one.
    #[must_use]
    pub fn previous() -> Option<Report> {
        files::load(&directory().join(format!("{LATEST}.json"))).ok()
    }

    /// Writes all of them.
    ///
    /// # Errors
    /// Where a place cannot be written to.
    pub fn save(&self, report: &Report) -> Result<()> {
        for path in &self.json {
            files::save(report, path)?;
        }
        let page = page::render(report)?;
        for path in &self.html {
            files::replace(path, &page)?;
        }
        Ok(())
    }

    /// The two files that a person is told, and what is in them.
    pub fn told(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let both = [("page:", &self.html), ("figures:", &self.json)];
        both.into_iter()
            .filter_map(|(what, files)| Some((what, files.first()?.as_path())))
    }
}

fn directory() -> PathBuf {
    paths::built("bench")
}

/// A time since 1970 as the name of a file, UTC.
fn date_time(since: Duration) -> String {
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}-{hour:02}{minute:02}{second:02}")
}

/// Year, month and day so many days after the first of 1970.
#[must_use]
pub fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1_970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        (days, year) = (days - length, year + 1);
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        (days, month) = (days - length, month + 1);
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_name_that_sorts() {
        let name = |seconds| date_time(Duration::from_secs(seconds));
        assert_eq!(name(0), "1970-01-01-000000");
        assert_eq!(name(951_827_696), "2000-02-29-123456");
        assert_eq!(name(1_767_225_599), "2025-12-31-235959");
    }
}
