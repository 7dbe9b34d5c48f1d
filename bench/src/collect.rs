//! A collection pass over 65,536 flows.

use netagent_common::limit::FLOWS_MAX;
use netagent_common::names::COLLECT_FLOWS;

use crate::figures::{Figures, print_target};
use netagent_tests::prog_run::Sizes;
use netagent_tests::scene::{self, Scene};

const FLOWS: u32 = 65_536;

/// Measures both cases with tables as small as can be and of the usual size, and prints the figures.
pub fn run(rounds: u32) {
    for flows_max in [FLOWS, FLOWS_MAX] {
        println!("\ncollection over {FLOWS} flows in tables for {flows_max}, ms:");
        let mut scene = Scene::new(
            Sizes {
                flows_max,
                ..Sizes::default()
            },
            &scene::record(),
        );
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
        }
        println!("  none out of time   {none}  [{}]", none.raw());
        println!("  all out of time    {all}  [{}]", all.raw());
        println!("  its longest slice  {longest}");
        print_target("none out of time, ms", none.median(), ('<', 10.0));
        print_target("all out of time, ms", all.median(), ('<', 80.0));
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
