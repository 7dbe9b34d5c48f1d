//! What was asked of the agent, and what it acknowledged: this must be there after any crash.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use serde_json::Value;

use crate::http::{self, Answer};
use crate::recovery::shown::{Shown, ShownNic};

/// How far an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Life {
    Absent,
    Running,
    Stopped,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Request {
    Create,
    Stop,
    Start,
    Delete,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It holds from now on.
    Acknowledged,
    /// It changed nothing, as was expected.
    Refused,
    /// It was on its way when the agent died: it holds or it does not.
    Lost,
    /// Nobody listened.
    Unsent,
}

/// The notes on one name.
#[derive(Clone, Debug)]
pub struct Entry {
    name: String,
    spec: Value,
    /// What it may be: two while the outcome of a request is unknown.
    lives: Vec<Life>,
    /// What is reserved for it, once that was told.
    nics: Option<Vec<ShownNic>>,
    /// Indices of its TAPs by name, while nothing changed it since they were seen.
    ifindexes: Option<BTreeMap<String, u32>>,
}

impl Request {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Create, Self::Stop, Self::Start, Self::Delete];

    /// What it makes of an instance; `None` where it must be refused.
    #[must_use]
    pub const fn outcome(self, life: Life) -> Option<Life> {
        match (self, life) {
            (Self::Create, Life::Absent) | (Self::Start, Life::Running | Life::Stopped) => {
                Some(Life::Running)
            }
            (Self::Stop, Life::Running | Life::Stopped) => Some(Life::Stopped),
            (Self::Delete, Life::Running | Life::Stopped) => Some(Life::Absent),
            (Self::Create, Life::Running | Life::Stopped)
            | (Self::Stop | Self::Start | Self::Delete, Life::Absent) => None,
        }
    }

    fn perform(self, socket: &Path, entry: &Entry) -> io::Result<Answer> {
        let one = format!("/v1/instances/{}", entry.name);
        match self {
            Self::Create => http::request(socket, "POST", "/v1/instances", &entry.spec.to_string()),
            Self::Stop => http::request(socket, "PUT", &format!("{one}/stop"), ""),
            Self::Start => http::request(socket, "PUT", &format!("{one}/start"), ""),
            Self::Delete => http::request(socket, "DELETE", &one, ""),
        }
    }
}

impl Life {
    fn of(shown: Option<&Shown>) -> Self {
        match shown.map(|shown| shown.status.as_str()) {
            None => Self::Absent,
            Some("running") => Self::Running,
            Some("stopped") => Self::Stopped,
            Some(_) => panic!("neither running nor stopped: {shown:?}"),
        }
    }
}

impl Entry {
    /// An instance that is not there yet.
    ///
    /// # Panics
    /// Where the specification names it not.
    #[must_use]
    pub fn absent(spec: Value) -> Self {
        let name = spec["name"].as_str().expect("it has a name").to_owned();
        Self {
            name,
            spec,
            lives: vec![Life::Absent],
            nics: None,
            ifindexes: None,
        }
    }

    /// An instance that the agent just answered with, and that runs.
    #[must_use]
    pub fn running(answer: &Value) -> Self {
        let shown = Shown::parse(answer);
        assert_eq!(Life::of(Some(&shown)), Life::Running, "{answer}");
        Self {
            name: shown.name,
            spec: Value::Null,
            lives: vec![Life::Running],
            nics: Some(shown.nics),
            ifindexes: None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is; `None` while the outcome of a request is unknown.
    #[must_use]
    pub fn life(&self) -> Option<Life> {
        match self.lives[..] {
            [life] => Some(life),
            _ => None,
        }
    }

    /// Sends a request and notes what came of it.
    ///
    /// # Panics
    /// Where the answer is another than what the instance was acknowledged to be asks for.
    pub fn send(&mut self, socket: &Path, request: Request) -> Sent {
        let life = self
            .life()
            .expect("nothing is asked while an outcome is unknown");
        let outcome = request.outcome(life);
        let what = format!("{request:?} of {}, which is {life:?}", self.name);
        match request.perform(socket, self) {
            Ok(answer) if answer.status < 300 => {
                let outcome = outcome.unwrap_or_else(|| panic!("{what}: {answer:?}"));
                if outcome != life {
                    self.ifindexes = None;
                }
                self.acknowledge(outcome, &answer.body);
                Sent::Acknowledged
            }
            Ok(answer) => {
                assert_eq!(outcome, None, "{what}: {answer:?}");
                Sent::Refused
            }
            Err(error) if nobody_listens(&error) => Sent::Unsent,
            Err(_died) => {
                if let Some(outcome) = outcome.filter(|outcome| *outcome != life) {
                    self.lives.push(outcome);
                    self.ifindexes = None;
                }
                Sent::Lost
            }
        }
    }

    fn acknowledge(&mut self, life: Life, body: &Value) {
        self.lives = vec![life];
        if life == Life::Absent {
            self.nics = None;
            return;
        }
        let shown = Shown::parse(body);
        assert_eq!(Life::of(Some(&shown)), life, "{body}");
        self.keep_reserved(&shown);
    }

    /// What is reserved stays so until it is deleted.
    fn keep_reserved(&mut self, shown: &Shown) {
        if let Some(nics) = &self.nics {
            assert_eq!(nics, &shown.nics, "{} keeps what is its own", self.name);
        }
        self.nics = Some(shown.nics.clone());
    }

    /// Compares with what the agent shows after its start: everything that was acknowledged holds, and what was
    /// on its way holds entirely or not at all.
    ///
    /// # Panics
    /// Where it does not.
    pub fn settle(&mut self, shown: Option<&Shown>) {
        let life = Life::of(shown);
        assert!(
            self.lives.contains(&life),
            "{} may be {:?}, and is {shown:?}",
            self.name,
            self.lives
        );
        self.lives = vec![life];
        match shown {
            Some(shown) => self.keep_reserved(shown),
            None => self.nics = None,
        }
    }

    /// Compares the indices of its TAPs with those that were seen before: a restart makes none anew.
    ///
    /// # Panics
    /// Where one was made anew.
    pub fn keep_ifindexes(&mut self, seen: BTreeMap<String, u32>) {
        if let Some(before) = &self.ifindexes {
            assert_eq!(before, &seen, "the TAPs of {} were not touched", self.name);
        }
        self.ifindexes = Some(seen);
    }

    /// Its TAPs were taken off the host: those of the next look are others.
    pub fn expect_new_taps(&mut self) {
        self.ifindexes = None;
    }
}

/// Whether a request reached nobody.
fn nobody_listens(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_that_was_lost_leaves_both_outcomes_open_until_one_is_seen() {
        let mut entry = Entry::absent(json!({ "name": "a" }));
        assert_eq!(entry.life(), Some(Life::Absent));
        let nowhere = Path::new("/nonexistent/socket");
        assert_eq!(entry.send(nowhere, Request::Create), Sent::Unsent);
        assert_eq!(entry.life(), Some(Life::Absent));
        entry.lives.push(Life::Running);
        assert_eq!(entry.life(), None);
        entry.settle(None);
        assert_eq!(entry.life(), Some(Life::Absent));
    }

    #[test]
    #[should_panic(expected = "may be [Absent]")]
    fn an_instance_that_nobody_asked_for_is_noticed() {
        let shown = Shown {
            name: "a".to_owned(),
            id: String::new(),
            status: "running".to_owned(),
            nics: Vec::new(),
        };
        Entry::absent(json!({ "name": "a" })).settle(Some(&shown));
    }
}
