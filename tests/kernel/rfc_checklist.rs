//! The requirements of the RFCs about NAT, each with its verdict and the tests that show it: `docs/nat.md` is the list.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LIST: &str = include_str!("../../docs/nat.md");

/// The RFCs, and how many requirements each has.
const RFCS: [(u16, u8); 3] = [(4_787, 14), (5_382, 10), (5_508, 11)];

/// A line of the list.
struct Line<'a> {
    requirement: &'a str,
    verdict: &'a str,
    what: &'a str,
    tests: Vec<&'a str>,
}

fn lines() -> Vec<Line<'static>> {
    let rows = LIST.lines().filter(|line| line.starts_with("| RFC "));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "four cells: {row}");
        Line {
            requirement: cells[1],
            verdict: cells[2],
            what: cells[3],
            tests: cells[4].split('`').skip(1).step_by(2).collect(),
        }
    })
    .collect()
}

/// Where tests of this suite are written.
fn root(suite: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    match suite {
        "kernel" | "system" => tests.join(suite),
        "common" => tests.join("../netagent-common/src"),
        other => panic!("no suite '{other}'"),
    }
}

/// Whether a test of this name, `suite::module::function`, is written where it says; a module may be in another.
fn exists(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let [suite, modules @ .., function] = &parts[..] else {
        panic!("'{name}' names no suite and function");
    };
    let file = root(suite).join(modules.join("/")).with_extension("rs");
    let text = fs::read_to_string(file).unwrap_or_default();
    // Whatever stands between belongs to the test: `#[test]`, other attributes, and its name.
    let mut tests = text.split("#[test]").skip(1);
    tests.any(|rest| {
        let declared = rest.split_once("fn ").map(|(_, rest)| rest);
        declared.and_then(|rest| rest.split('(').next()) == Some(*function)
    })
}

#[test]
fn every_requirement_has_a_line_a_verdict_and_tests_that_exist() {
    let lines = lines();
    let required: Vec<String> = RFCS
        .iter()
        .flat_map(|(rfc, count)| (1..=*count).map(move |number| format!("RFC {rfc} REQ-{number}")))
        .collect();
    let listed: Vec<&str> = lines.iter().map(|line| line.requirement).collect();
    assert_eq!(listed, required);
    for line in lines {
        let Line {
            requirement,
            verdict,
            what,
            tests,
        } = line;
        eprintln!("{requirement}: {verdict}: {what} {tests:?}");
        let verdicts = ["met", "in part", "not met"];
        assert!(verdicts.contains(&verdict), "{requirement}: '{verdict}'");
        assert!(
            what.ends_with('.'),
            "{requirement}: a sentence says what it does"
        );
        // A decision has its reason behind a colon, or in the configuration.
        let has_reason = what.contains(": ") || what.contains("`nat.");
        assert!(verdict == "met" || has_reason, "{requirement}: why?");
        assert!(!tests.is_empty(), "{requirement}: no test shows it");
        for test in tests {
            assert!(exists(test), "{requirement}: there is no test {test}");
        }
    }
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    assert!(exists(
        "kernel::rfc_checklist::a_test_that_is_not_there_is_missed"
    ));
    assert!(!exists("kernel::rfc_checklist::lines"), "it is no test");
    assert!(!exists("kernel::rfc_checklist::a_test"));
    assert!(!exists("kernel::nowhere::a_test"));
}

#[test]
fn no_test_is_named_twice_in_a_line() {
    for line in lines() {
        let distinct: BTreeSet<&str> = line.tests.iter().copied().collect();
        assert_eq!(distinct.len(), line.tests.len(), "{}", line.requirement);
    }
}
