//! The gate of the programs' cost: a change that makes one of them cost much more is seen at once.
//!
//! `program_cost.json` holds what was recorded: instructions that the verifier followed, and for each branch how many
//! runs of a fixed program a packet takes. `UPDATE_PROGRAM_COST=1 cargo test --test kernel program_cost` records anew,
//! on a machine that is idle; say in the commit what was bought for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use netagent_tests::prog_run::PROGRAMS;
use netagent_tests::program_cost::{Branch, Prepared, Reference, empty};
use netagent_tests::scene::Scene;
use serde_json::{Value, json};

/// The verifier gives up at a million, and a start of the agent waits for it.
const VERIFIED_MAX: f64 = 750_000.0;
/// A program may grow to so many times what is recorded. The verifiers of two kernels do not follow the same.
const VERIFIED_MORE: f64 = 1.15;
/// A branch may take so many times what is recorded: other tests run beside this one.
const TIME_MORE: f64 = 1.6;
/// Measurements of each branch; the fastest counts.
const ROUNDS: u32 = 15;
/// Rounds that follow where a branch seems to be too slow.
const ROUNDS_MAX: u32 = 100;

fn recorded_at() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel/program_cost.json")
}

fn is_recording() -> bool {
    std::env::var_os("UPDATE_PROGRAM_COST").is_some()
}

fn recorded() -> Value {
    let path = recorded_at();
    let text = fs::read_to_string(&path).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Writes one part of what is recorded; the other stays.
fn record(part: &str, values: &BTreeMap<&str, f64>) {
    let path = recorded_at();
    let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
    let mut all: Value = serde_json::from_str(&text).unwrap();
    all[part] = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), number(*value)))
        .collect();
    fs::write(&path, format!("{all:#}\n")).unwrap();
}

fn number(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as u64)
    } else {
        json!(value)
    }
}

fn check(part: &str, values: &BTreeMap<&str, f64>, most: f64) {
    let recorded = &recorded()[part];
    let names: Vec<&str> = recorded
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let measured: Vec<&str> = values.keys().copied().collect();
    assert_eq!(names, measured, "{part}: record anew");
    let over: Vec<String> = values
        .iter()
        .filter_map(|(name, value)| {
            let before = recorded[name].as_f64().unwrap();
            let is_over = *value > before * most;
            is_over.then(|| format!("{name}: {value:.2}, recorded {before:.2}"))
        })
        .collect();
    assert!(
        over.is_empty(),
        "{part}: more than {most} times:\n{}",
        over.join("\n")
    );
}

#[test]
fn the_verifier_follows_no_program_much_further_than_recorded() {
    let mut scene = Scene::usual();
    let verified: BTreeMap<&str, f64> = PROGRAMS
        .into_iter()
        .map(|program| {
            (
                program,
                scene.datapath.verified_instructions(program).into(),
            )
        })
        .collect();
    assert!(
        verified.values().all(|count| *count < VERIFIED_MAX),
        "{verified:?}"
    );
    if is_recording() {
        return record("verified instructions", &verified);
    }
    check("verified instructions", &verified, VERIFIED_MORE);
}

/// The fastest of many: what runs beside makes a measurement longer, and never shorter.
struct Fastest<'a> {
    reference: &'a Reference,
    prepared: Prepared,
    runs: f64,
    best: f64,
}

impl Fastest<'_> {
    fn measure(&mut self, rounds: u32) -> f64 {
        for _ in 0..rounds {
            self.runs = self.runs.min(self.reference.measure());
            self.best = self.best.min(self.prepared.measure());
        }
        self.best / self.runs
    }
}

#[test]
fn no_branch_of_a_program_takes_much_longer_than_recorded() {
    let reference = Reference::new();
    assert!(empty() < reference.measure());
    let mut costs = BTreeMap::new();
    for branch in Branch::ALL {
        let mut fastest = Fastest {
            reference: &reference,
            prepared: Prepared::new(branch),
            runs: f64::MAX,
            best: f64::MAX,
        };
        let mut cost = fastest.measure(ROUNDS);
        if !is_recording() {
            let most = recorded()["runs of the reference"][branch.name()].as_f64();
            if most.is_some_and(|most| cost > most * TIME_MORE) {
                cost = fastest.measure(ROUNDS_MAX);
            }
        }
        costs.insert(branch.name(), (cost * 1e3).round() / 1e3);
    }
    if is_recording() {
        return record("runs of the reference", &costs);
    }
    check("runs of the reference", &costs, TIME_MORE);
}
