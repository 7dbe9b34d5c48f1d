//! Loads by the agent: what they keep, what they make anew, and what stays attached.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use aya::maps::MapInfo;
use aya::programs::{SchedClassifier, TcAttachType};
use netagent::apply::KernelHost;
use netagent::apply::datapath::Datapath;
use netagent::apply::pins::Pins;
use netagent::apply::programs;
use netagent::host::{Attach, Host, HostOptions};
use netagent::plan::Step;
use netagent_common::limit::FLOWS_MAX;
use netagent_common::names::{ABI_VERSION, FROM_SERVICES, FROM_VM, TO_VM, map};
use netagent_common::timeouts::Timeouts;
use netagent_tests::bpffs::PinDir;
use netagent_tests::netns::NetNs;
use netagent_tests::prog_run::MARK;
use netagent_tests::scene;
use netagent_tests::tap::Tap;
use uuid::Uuid;

/// Where an agent would pin.
pub(crate) struct Home {
    pins: PinDir,
    state: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            pins: PinDir::new(),
            state: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn options(&self) -> HostOptions {
        HostOptions {
            bpf_dir: self.pins.path().to_owned(),
            state_dir: self.state.path().to_owned(),
            store_id: Uuid::nil(),
            attach: Attach::Tcx,
            expedite_rcu: false,
            flows_max: 1_024,
            instances_max: 16,
            nat_ports: (16_384, 1_000),
            eim_ports: 64,
            filters_nobody: true,
            timeouts: Timeouts::DEFAULT,
            mark: MARK,
        }
    }

    pub(crate) fn open(&self) -> Pins {
        Pins::open(self.pins.path()).unwrap()
    }

    fn version(&self) -> PathBuf {
        self.pins.path().join(format!("v{ABI_VERSION}"))
    }

    /// Ids of the pinned maps.
    fn maps(&self) -> BTreeMap<&'static str, u32> {
        let id = |name| MapInfo::from_pin(self.version().join(name)).unwrap().id();
        map::ALL.into_iter().map(|name| (name, id(name))).collect()
    }
}

fn opened(pins: &Pins, options: &HostOptions) -> Datapath {
    Datapath::open(pins, options)
        .unwrap()
        .expect("it is loaded")
}

/// Loads as the agent does, a record in force included.
fn load(pins: &Pins, options: &HostOptions) -> Datapath {
    programs::load(pins, options).unwrap();
    let mut datapath = opened(pins, options);
    assert!(datapath.stale, "what was attached may not have them yet");
    datapath.settle().unwrap();
    datapath.maps.write_interface(&scene::record()).unwrap();
    datapath
}

#[test]
fn what_this_binary_loaded_is_not_stale_at_the_next_start() {
    let home = Home::new();
    let pins = home.open();
    drop(load(&pins, &home.options()));
    assert!(!opened(&pins, &home.options()).stale);
}

#[test]
fn other_constants_make_the_programs_stale_and_a_load_keeps_the_maps() {
    let home = Home::new();
    let pins = home.open();
    drop(load(&pins, &home.options()));
    let maps = home.maps();
    let options = HostOptions {
        nat_ports: (16_384, 999),
        ..home.options()
    };
    assert!(opened(&pins, &options).stale);
    programs::load(&pins, &options).unwrap();
    assert_eq!(home.maps(), maps);
    let mut datapath = opened(&pins, &options);
    let records = datapath.maps.interfaces().unwrap();
    assert_eq!(records.into_values().collect::<Vec<_>>(), [scene::record()]);
    assert!(datapath.stale, "nothing attached has the new ones yet");
    datapath.settle().unwrap();
    datapath.maps.raise_route_generation().unwrap();
    assert!(!opened(&pins, &options).stale);
    assert!(opened(&pins, &home.options()).stale);
}

/// Checks that the next load makes every map anew, with nothing in them.
fn check_rebuilt(home: &Home, pins: &Pins, before: &BTreeMap<&'static str, u32>, flows_max: u32) {
    let options = HostOptions {
        flows_max,
        ..home.options()
    };
    let opened = Datapath::open(pins, &options);
    assert!(opened.unwrap().is_none(), "they cannot be used");
    programs::load(pins, &options).unwrap();
    let maps = home.maps();
    for (name, id) in before {
        assert_ne!(maps[name], *id, "{name} is the old one");
    }
    let datapath = self::opened(pins, &options);
    assert!(datapath.stale);
    assert!(datapath.maps.interfaces().unwrap().is_empty());
    let flows = MapInfo::from_pin(home.version().join(map::FLOWS_V4)).unwrap();
    assert_eq!(flows.max_entries(), flows_max);
}

#[test]
fn maps_of_another_size_are_made_anew_all_together() {
    let home = Home::new();
    let pins = home.open();
    drop(load(&pins, &home.options()));
    let before = home.maps();
    assert_ne!(home.options().flows_max, FLOWS_MAX);
    check_rebuilt(&home, &pins, &before, FLOWS_MAX);
}

#[test]
fn a_pinned_map_of_another_layout_is_not_used() {
    let shapes = [
        (map::INTERFACES, "type array key 4 value 128 entries 131072"),
        (map::ADOPTED, "type hash key 4 value 4 entries 65536"),
        (map::DROPS, "type lru_hash key 8 value 8 entries 262144"),
        (map::STATE, "type array key 4 value 12 entries 1"),
    ];
    for (name, shape) in shapes {
        let home = Home::new();
        let pins = home.open();
        drop(load(&pins, &home.options()));
        let before = home.maps();
        let pin = home.version().join(name);
        fs::remove_file(&pin).unwrap();
        let made = Command::new("bpftool")
            .args(["map", "create"])
            .arg(&pin)
            .args(shape.split(' '))
            .args(["name", name])
            .status();
        assert!(made.unwrap().success(), "{name}");
        check_rebuilt(&home, &pins, &before, home.options().flows_max);
    }
}

#[test]
fn the_maps_of_a_load_that_was_killed_are_not_used() {
    let home = Home::new();
    let pins = home.open();
    drop(load(&pins, &home.options()));
    let before = home.maps();
    fs::remove_file(home.version().join(map::STATE)).unwrap();
    assert!(Datapath::open(&pins, &home.options()).unwrap().is_none());
    check_rebuilt(&home, &pins, &before, home.options().flows_max);
}

#[test]
fn a_version_with_more_maps_keeps_what_an_earlier_one_left() {
    let home = Home::new();
    let pins = home.open();
    drop(load(&pins, &home.options()));
    let mut before = home.maps();
    for name in [map::SERVICES, map::ALLOWANCES] {
        fs::remove_file(home.version().join(name)).unwrap();
        before.remove(name);
    }
    fs::remove_file(pins.program(FROM_SERVICES)).unwrap();
    assert!(Datapath::open(&pins, &home.options()).unwrap().is_none());
    programs::load(&pins, &home.options()).unwrap();
    let mut after = home.maps();
    after.retain(|name, _| before.contains_key(name));
    assert_eq!(after, before, "flows and records live on");
    let datapath = opened(&pins, &home.options());
    assert!(datapath.stale, "what is attached gets the new programs");
    let records = datapath.maps.interfaces().unwrap();
    assert_eq!(records.into_values().collect::<Vec<_>>(), [scene::record()]);
}

#[test]
fn a_load_that_fails_leaves_no_pin_and_the_next_one_succeeds() {
    let home = Home::new();
    let pins = home.open();
    pins.make_directories().unwrap();
    // In the way of the last program.
    let obstacle = pins.program("collect_orphans-new");
    fs::create_dir(&obstacle).unwrap();
    programs::load(&pins, &home.options()).unwrap_err();
    assert_eq!(home.pins.pins(), Vec::<PathBuf>::new());
    fs::remove_dir(&obstacle).unwrap();
    drop(load(&pins, &home.options()));
}

const TAP: u32 = 70_000;

/// Programs attached to the TAP, on its two sides.
fn attached() -> [Vec<u32>; 2] {
    [TcAttachType::Ingress, TcAttachType::Egress].map(|side| {
        let (_, programs) = SchedClassifier::query_tcx("t0", side).unwrap();
        programs.iter().map(|program| program.id()).collect()
    })
}

fn links(home: &Home) -> Vec<PathBuf> {
    let mut pins = home.pins.pins();
    pins.retain(|pin| pin.parent().is_some_and(|parent| parent.ends_with("links")));
    pins
}

async fn apply(host: &mut KernelHost, step: Step) {
    host.apply(&step).await.unwrap();
}

#[test]
fn what_another_version_attached_gets_this_ones_programs_and_is_never_without() {
    let (home, netns) = (Home::new(), NetNs::new());
    let _tap = Tap::create(&netns, "t0", TAP);
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut host = KernelHost::open(home.options()).unwrap();
            apply(&mut host, Step::LoadDatapath).await;
            let tap = Step::AttachTap {
                ifindex: TAP,
                name: "t0".into(),
            };
            apply(&mut host, tap).await;
            let before = attached();
            assert_eq!(before.clone().map(|programs| programs.len()), [1, 1]);
            drop(host);
            let other = home.pins.path().join("v1");
            fs::rename(home.version(), &other).unwrap();

            let mut host = KernelHost::open(home.options()).unwrap();
            assert_eq!(attached(), before, "a start alone changes nothing");
            apply(&mut host, Step::LoadDatapath).await;
            let after = attached();
            assert_eq!(after.clone().map(|programs| programs.len()), [1, 1]);
            for (before, after) in before.iter().zip(&after) {
                assert_ne!(before, after);
            }
            assert!(!other.exists());
            let expected = [FROM_VM, TO_VM].map(|program| {
                home.version()
                    .join("links")
                    .join(format!("{TAP}-{program}"))
            });
            assert_eq!(links(&home), expected);
            drop(host);
            assert!(!opened(&home.open(), &home.options()).stale);
        });
    });
}

#[test]
fn filters_get_the_programs_of_a_new_load_on_the_uplink_too() {
    let (home, netns) = (Home::new(), NetNs::new());
    let _uplink = Tap::create(&netns, "t0", TAP);
    let filter = || netns.shell("tc -s filter show dev t0 ingress");
    let program = |shown: &str| {
        let mut words = shown.split_whitespace().skip_while(|word| *word != "id");
        words.nth(1).expect("a program").to_owned()
    };
    let options = HostOptions {
        attach: Attach::Clsact,
        ..home.options()
    };
    let before = netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut host = KernelHost::open(options.clone()).unwrap();
            apply(&mut host, Step::LoadDatapath).await;
            let uplink = Step::AttachUplink {
                ifindex: TAP,
                name: "t0".into(),
            };
            apply(&mut host, uplink).await;
            let before = program(&filter());
            apply(&mut host, Step::LoadDatapath).await;
            before
        })
    });
    assert_ne!(program(&filter()), before);
}
