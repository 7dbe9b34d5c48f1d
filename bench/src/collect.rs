//! A collection pass over 65,536 flows.

use netagent_common::limit::FLOWS_MAX;
use netagent_common::names::COLLECT_FLOWS;

use crate::figures::Figures;
use crate::report::{Better, Table};
use crate::session::Session;
use netagent_tests::prog_run::Sizes;
use netagent_tests::scene::{self, Scene};

const FLOWS: u32 = 65_536;
/// Rounds of a full run.
const ROUNDS: u32 = 7;

/// Measures both cases with tables as small as can be and of the usual size.
pub fn run(session: &mut Session) {
    for flows_max in [FLOWS, FLOWS_MAX] {
        let title = format!("collection over {FLOWS} flows in tables for {flows_max}");
        let rounds = session.rounds(ROUNDS);
        let bar = session.bar(&title, rounds);
        let sizes = Sizes {
            flows_max,
            ..Sizes::default()
        };
        let mut scene = Scene::new(sizes, &scene::record());
        scene.add_flows(FLOWS, u64::MAX / 2);
        let mut none = Figures::default();
        for _ in 0..rounds {
            let (collected, took) = scene.datapath.collect(COLLECT_FLOWS);
            assert_eq!(
                (collected.seen, collected.removed),
                (FLOWS, 0),
                "nothing is out of time"
            );
            none.add(took.as_secs_f64() * 1e3);
        }
        let (mut all, mut longest) = (Figures::default(), Figures::default());
        for _ in 0..rounds {
            scene.add_flows(FLOWS, 0);
            let (total, slice) = collect_all(&mut scene);
            all.add(total);
            longest.add(slice);
            bar.inc(1);
        }
        let id = format!("collect/{flows_max}");
        let mut table = Table::new(&id, &title, ("ms", Better::Lower));
        table.add("none out of time", &none);
        table.add("all out of time", &all);
        table.add("its longest slice", &longest);
        session.add(table);
        for (what, figures, target) in [
            ("none out of time", &none, 10.0),
            ("all out of time", &all, 80.0),
        ] {
            let what = format!("{title}: {what}, ms");
            session.goal(&what, figures.median(), (Better::Lower, target));
        }
    }
}

/// Total and longest slice, ms.
fn collect_all(scene: &mut Scene) -> (f64, f64) {
    let (mut total, mut longest, mut removed) = (0.0, 0.0_f64, 0);
    loop {
        let (collected, took) = scene.datapath.collect(COLLECT_FLOWS);
        let took = took.as_secs_f64() * 1e3;
        (total, longest, removed) = (total + took, longest.max(took), removed + collected.removed);
        if collected.more == 0 {
            assert_eq!(removed, FLOWS, "all are out of time");
            return (total, longest);
        }
    }
}
