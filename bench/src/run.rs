//! Runs benchmarks one after the other, and keeps what they found, whatever becomes of the next one.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::catalogue::Benchmark;
use crate::outputs::Outputs;
use crate::report::{Report, terminal};
use crate::session::{INTERRUPTED, Session};
use netagent_tests::deadline::now;

/// Longest full run, and longest quick one: what a benchmark is expected to take of it until it ran once.
const LONGEST: [Duration; 2] = [Duration::from_secs(1_800), Duration::from_secs(120)];

/// Measures, and writes the files anew after every benchmark.
///
/// # Errors
/// Where the files cannot be written.
pub fn all(
    chosen: &[&Benchmark],
    (is_quick, rounds): (bool, Option<u32>),
    outputs: &Outputs,
) -> Result<Report> {
    let expected = expected(chosen, is_quick);
    let is_over = interrupted()?;
    let mut session = Session::begin(is_quick, rounds, Arc::clone(&is_over));
    println!("{}", terminal::machine(session.report()));
    for (index, benchmark) in chosen.iter().enumerate() {
        let (done, left) = expected.split_at(index);
        session.start(benchmark, (done.iter().sum(), left.iter().sum()));
        let began = now();
        let run = AssertUnwindSafe(|| (benchmark.run)(&mut session));
        let panic = catch_unwind(run).err().map(|panic| message(&*panic));
        let failure = if is_over.load(Ordering::Relaxed) {
            Some(INTERRUPTED.to_owned())
        } else {
            panic
        };
        session.finish(benchmark, began.elapsed(), failure.as_deref());
        outputs.save(session.report())?;
        if is_over.load(Ordering::Relaxed) {
            break;
        }
    }
    let report = session.end();
    println!("{}\n", terminal::summary(&report));
    for (what, path) in outputs.told() {
        println!("{what:9} {}", path.display());
    }
    Ok(report)
}

/// Whether a person asked for the end: the benchmark stops at its next step, and cleans up; a second signal ends everything at
/// once.
fn interrupted() -> Result<Arc<AtomicBool>> {
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&is_over))?;
        flag::register(signal, Arc::clone(&is_over))?;
    }
    Ok(is_over)
}

/// How long each is expected to take: as long as in the run before, if that was of the same kind.
fn expected(chosen: &[&Benchmark], is_quick: bool) -> Vec<Duration> {
    let previous = Outputs::previous().filter(|report| report.quick == is_quick);
    let benchmarks = previous.map(|report| report.benchmarks).unwrap_or_default();
    let [full, quick] = LONGEST;
    let longest = if is_quick { quick } else { full };
    let share = longest / u32::try_from(crate::catalogue::ALL.len()).unwrap_or(1);
    let of = |one: &&Benchmark| {
        let ran = benchmarks.iter().find(|ran| ran.name == one.name);
        ran.map_or(share, |ran| Duration::from_secs_f64(ran.seconds.max(0.0)))
    };
    chosen.iter().map(of).collect()
}

/// What a panic says.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let fixed = || panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(fixed)
        .unwrap_or_else(|| "it panicked".to_owned())
}
