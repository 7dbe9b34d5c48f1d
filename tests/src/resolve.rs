//! Real resolvers in a guest: dig, and glibc by getent, with a resolv.conf of the guest's own.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::IpAddr;

use tempfile::{NamedTempFile, TempDir};

use crate::netns::NetNs;

/// What dig was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dug {
    /// `NOERROR`, `REFUSED` and so on; of what was not answered `None`.
    pub status: Option<String>,
    /// Type and data of each record of the answer, in order.
    pub records: Vec<(String, String)>,
}

impl Dug {
    /// The addresses of the answer.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let records = self.records.iter();
        records.filter_map(|(_, data)| data.parse().ok()).collect()
    }

    /// Whether it has this status.
    #[must_use]
    pub fn is(&self, status: &str) -> bool {
        self.status.as_deref() == Some(status)
    }
}

/// Asks with dig: `words` are its own (`@server name type +tcp`). Once, for an answer may be taken from nobody but who
/// was asked, which dig checks.
///
/// # Panics
/// Where dig does not run, or says that another address answered.
#[must_use]
pub fn dig(netns: &NetNs, words: &str) -> Dug {
    let text = run_dig(netns, words);
    Dug {
        status: status_of(&text),
        records: records_of(&text),
    }
}

/// Asks all of these, each after the answer to the one before, with one dig.
///
/// # Panics
/// As [`dig`], and where one is not answered.
#[must_use]
pub fn dig_all(netns: &NetNs, questions: &[String]) -> Vec<Dug> {
    let mut file = NamedTempFile::with_prefix("netagent-test-").expect("a temporary file");
    file.write_all(questions.join("\n").as_bytes())
        .expect("a file of our own");
    let text = run_dig(netns, &format!("-f {}", file.path().display()));
    let answers = text.split(";; Got answer:\n").skip(1);
    let dug: Vec<Dug> = answers
        .map(|text| Dug {
            status: status_of(text),
            records: records_of(text),
        })
        .collect();
    assert_eq!(dug.len(), questions.len(), "answers: {text}");
    dug
}

fn run_dig(netns: &NetNs, words: &str) -> String {
    let output = netns.try_shell(&format!("dig -r +tries=1 +time=8 +noidnout {words}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("unexpected source"), "{words}: {text}");
    // 9 is for no answer, others for a command line that is none.
    let code = output.status.code();
    assert!(
        matches!(code, Some(0 | 9)),
        "dig {words}: {code:?}: {text}{complaint}"
    );
    text
}

fn status_of(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("status: ")?;
    let (status, _) = rest.split_once(',')?;
    Some(status.to_owned())
}

fn records_of(text: &str) -> Vec<(String, String)> {
    let section = text.split_once(";; ANSWER SECTION:\n");
    let lines = section
        .into_iter()
        .flat_map(|(_, rest)| rest.lines())
        .take_while(|line| !line.is_empty());
    let read = |line: &str| {
        let mut words = line.split_whitespace().skip(3);
        let kind = words.next()?.to_owned();
        Some((kind, words.collect::<Vec<&str>>().join(" ")))
    };
    lines.filter_map(read).collect()
}

/// The files that glibc reads, for a guest.
#[derive(Debug)]
pub struct Glibc {
    netns: NetNs,
    directory: TempDir,
}

impl Glibc {
    /// A guest that asks these servers, with these options of resolv.conf(5).
    ///
    /// # Panics
    /// Where files cannot be written.
    #[must_use]
    pub fn new(netns: &NetNs, servers: &[&str], options: &str) -> Self {
        let directory = TempDir::with_prefix("netagent-test-").expect("a temporary directory");
        let servers = servers
            .iter()
            .map(|server| format!("nameserver {server}\n"));
        let resolv = format!(
            "{}options attempts:1 timeout:8 {options}\n",
            servers.collect::<String>()
        );
        for (name, text) in [
            ("resolv.conf", resolv.as_str()),
            ("nsswitch.conf", "hosts: dns\n"),
        ] {
            fs::write(directory.path().join(name), text).expect("a file of our own");
        }
        Self {
            netns: netns.clone(),
            directory,
        }
    }

    /// The addresses of a name; none where it is refused, or is nobody's.
    ///
    /// # Panics
    /// Where getent does not run.
    #[must_use]
    pub fn resolve(&self, name: &str) -> BTreeSet<IpAddr> {
        const SCRIPT: &str = "mount --bind \"$1/resolv.conf\" /etc/resolv.conf && \
            mount --bind \"$1/nsswitch.conf\" /etc/nsswitch.conf && exec getent ahosts \"$2\"";
        let mut command = self.netns.command("unshare");
        command.args(["--mount", "sh", "-c", SCRIPT, "sh"]);
        command.arg(self.directory.path()).arg(name);
        let output = command.output().expect("util-linux is there");
        // 2 is for a name without addresses.
        assert!(
            matches!(output.status.code(), Some(0 | 2)),
            "{name}: {output:?}"
        );
        let text = String::from_utf8_lossy(&output.stdout);
        let words = text
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        words.filter_map(|word| word.parse().ok()).collect()
    }
}
