//! Policies that are replaced while frames are written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netagent_tests::deadline::now;
use netagent_tests::replacing::replace_under_traffic;
use nix::unistd::write;

use super::lists::{body, put};
use crate::figures::Figures;
use crate::path::{self, Flows, SHORT};
use crate::report::{Better, Table};
use crate::session::Session;
use crate::variant::{Kind, Variant};

/// Rounds of a full run.
const ROUNDS: u32 = 7;
/// Networks of a list that is replaced.
const REPLACED: u32 = 10_000;
/// Replacements whose time is measured, in each round.
const REPLACEMENTS: u32 = 10;
/// Replacements to an address that no version allows.
const NEVER: usize = 300;

/// Replaces a policy of many networks by another one, while frames of a flow that both permit are written.
pub(super) fn replacing(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("policies replaced under traffic", rounds);
    let variant = Variant::prepare(Kind::Netagent);
    let mut flows = Flows::udp(&variant.ends, 1, SHORT);
    path::establish(&variant, &mut flows);
    let frame = flows.frame(0);
    let bodies = [0, 1].map(|version| body(REPLACED, version));
    let (mut took, mut frames, mut lost) = (Figures::default(), 0, 0);
    for _ in 0..rounds {
        let before = variant.arrived();
        let is_over = AtomicBool::new(false);
        let written = thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let mut written = 0_u64;
                while !is_over.load(Ordering::Relaxed) {
                    write(variant.tap.file(), frame).expect("the TAP takes frames");
                    written += 1;
                }
                written
            });
            for number in 0..REPLACEMENTS {
                let started = now();
                put(&variant, &bodies[number as usize % 2]);
                took.add(started.elapsed().as_secs_f64() * 1e3);
            }
            is_over.store(true, Ordering::Relaxed);
            writing.join().expect("the writer does not panic")
        });
        frames += written;
        lost += written.saturating_sub(variant.arrived() - before);
        bar.inc(1);
    }
    let title = format!("a policy of {REPLACED} networks replaced under traffic");
    let mut table = Table::new("policy/replacing", &title, ("ms", Better::Lower));
    table.add("request to answer", &took);
    table.note(format!(
        "{frames} frames were written meanwhile; {lost} were lost"
    ));
    session.add(table);
    session.goal(
        &format!("{title}, ms"),
        took.median(),
        (Better::Lower, 50.0),
    );
    let what = format!("{title}: frames lost");
    session.goal(&what, lost as f64, (Better::Lower, 0.0));
}

pub(super) fn never(session: &mut Session) {
    let seen = replace_under_traffic(NEVER);
    let title = format!("{NEVER} replacements under traffic to addresses that no version allows");
    let mut table = Table::new("policy/never", &title, ("ms", Better::Lower));
    let took = seen.took.iter().map(|time| time.as_secs_f64() * 1e3);
    table.add("each replacement", &took.collect());
    table.note(format!(
        "{} frames sent at them, {} to permitted addresses, each of which arrived",
        seen.forbidden, seen.permitted
    ));
    session.add(table);
    let what = format!("{title}: forbidden frames that left");
    session.goal(&what, seen.leaked as f64, (Better::Lower, 0.0));
}
