//! What a packet costs in netagent's programs alone, branch by branch, and how far the verifier follows them.

use netagent_tests::prog_run::PROGRAMS;
use netagent_tests::program_cost::{Branch, Prepared, empty};
use netagent_tests::scene::Scene;

use crate::figures::Figures;
use crate::path::pin_to;
use crate::report::{Better, Table};
use crate::session::Session;

const ROUNDS: u32 = 15;
/// Measurements of each branch in a round; the fastest counts.
const MEASUREMENTS: u32 = 5;

/// Measures, interleaved.
pub fn run(session: &mut Session) {
    let rounds = session.rounds(ROUNDS);
    let bar = session.bar("the programs alone", rounds);
    pin_to(0);
    let prepare = |branch| (branch, Prepared::new(branch), Figures::default());
    let mut branches: Vec<(Branch, Prepared, Figures)> =
        Branch::ALL.into_iter().map(prepare).collect();
    for _ in 0..rounds {
        for (_, prepared, figures) in &mut branches {
            let nothing = fastest(&mut empty);
            figures.add(fastest(&mut || prepared.measure()) - nothing);
        }
        bar.inc(1);
    }
    let title = "a packet in the program alone, above a program that does nothing";
    let mut table = Table::new("program-cost/run", title, ("ns", Better::Lower));
    for (branch, _, figures) in &branches {
        table.add(branch.name(), figures);
    }
    table.note(
        "With warm caches, by BPF_PROG_TEST_RUN: each branch runs 200 times on a packet, and each run is shown to have passed it on. New flows run once each.",
    );
    session.add(table);
    session.add(verified());
}

fn fastest(measure: &mut dyn FnMut() -> f64) -> f64 {
    (0..MEASUREMENTS)
        .map(|_| measure())
        .fold(f64::MAX, f64::min)
}

fn verified() -> Table {
    let title = "instructions that the verifier follows, of a million";
    let mut table = Table::new(
        "program-cost/verified",
        title,
        ("instructions", Better::Lower),
    );
    let mut scene = Scene::usual();
    for program in PROGRAMS {
        let count = scene.datapath.verified_instructions(program);
        table.add(program, &[f64::from(count)].into_iter().collect());
    }
    table
}
