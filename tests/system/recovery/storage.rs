//! The database: damaged, on a full disk, and with many requests at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;

use netagent_tests::agent::Agent;
use netagent_tests::recovery::book::{Entry, Request, Sent};
use netagent_tests::recovery::check::check;
use netagent_tests::recovery::database::{self, DATABASE};
use netagent_tests::recovery::disk::SmallDisk;
use netagent_tests::recovery::kernel;
use netagent_tests::world::{UPLINK, World};
use serde_json::json;

use crate::recovery::{check_flows, every_kind, open};

/// A way to make a database one that cannot be used, and words that the refusal says.
type Damage = (fn(&Path), &'static [&'static str]);

const DAMAGES: [Damage; 4] = [
    (
        |state| fs::write(state.join(DATABASE), vec![0x5a; 8_192]).unwrap(),
        &["damaged", "copy"],
    ),
    (
        |state| {
            // Its header is whole, its first pages are not.
            let mut bytes = fs::read(state.join(DATABASE)).unwrap();
            let length = bytes.len();
            bytes[4_096..length].fill(0x5a);
            fs::write(state.join(DATABASE), bytes).unwrap();
        },
        &["damaged", "copy"],
    ),
    (
        |state| database::set_version(state, 99),
        &["newer", "version 99", "install"],
    ),
    (
        |state| {
            fs::remove_file(state.join(DATABASE)).unwrap();
            database::make_foreign(state);
        },
        &["another program's", "copy"],
    ),
];

/// Every file of the database with what is in it.
fn files(state_dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(state_dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(DATABASE))
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_database_that_is_damaged_newer_or_anothers_is_refused_and_stays_as_it_is() {
    let world = World::new();
    let mut agent = world.agent("");
    let mut entries = every_kind(&agent);
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
    agent.stop();
    let state = agent.state_dir().to_owned();
    let whole = files(&state);
    let links = kernel::lasting_links(&world.host);
    for (damage, words) in DAMAGES {
        damage(&state);
        let damaged = files(&state);
        let output: Output = agent.run_to_end();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{complaint}");
        let path = state.join(DATABASE).display().to_string();
        for word in words.iter().chain([&path.as_str()]) {
            assert!(complaint.contains(word), "{word}: {complaint}");
        }
        for (path, bytes) in &damaged {
            let is_same = fs::read(path).unwrap() == *bytes;
            assert!(is_same, "{} is overwritten", path.display());
        }
        // To look at it, SQLite makes an index and an empty log where there are none.
        for (path, bytes) in files(&state) {
            let is_old = damaged.iter().any(|(old, _)| *old == path);
            let is_log = path.to_string_lossy().ends_with("-wal");
            assert!(is_old || !is_log || bytes.is_empty(), "{}", path.display());
        }
        assert_eq!(
            kernel::lasting_links(&world.host),
            links,
            "nothing is removed"
        );
        for (path, _) in files(&state) {
            fs::remove_file(path).unwrap();
        }
        for (path, bytes) in &whole {
            fs::write(path, bytes).unwrap();
        }
    }
    agent.run();
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
}

/// Creates until one is refused; what was created, and the refusal.
fn create_until_refused(agent: &Agent) -> (Vec<Entry>, netagent_tests::http::Answer) {
    let mut created = Vec::new();
    for number in 0..CREATES_MAX {
        let spec = json!({ "name": format!("full-{number}") });
        let answer = agent.api("POST", "/v1/instances", &spec.to_string());
        if answer.status >= 300 {
            return (created, answer);
        }
        created.push(Entry::running(&answer.body));
    }
    panic!("{CREATES_MAX} creates fit on a full disk");
}

/// More than fit into what the database holds in reserve.
const CREATES_MAX: u32 = 64;

#[test]
fn on_a_full_disk_requests_are_refused_and_the_agent_lives() {
    let disk = SmallDisk::mount(2_048);
    let world = World::new();
    let mut agent = Agent::prepare(&world.host, Some(UPLINK), "");
    agent.keep_state_in(&disk.path().join("state"));
    agent.run();
    let mut entries = every_kind(&agent);
    disk.fill();
    let (created, refused) = create_until_refused(&agent);
    entries.extend(created);
    assert_eq!(refused.status, 507, "{refused:?}");
    let message = refused.message();
    assert!(
        message.contains("nothing was changed") && message.contains(DATABASE),
        "{message}"
    );
    for (method, what) in [("PUT", "runs/stop"), ("DELETE", "runs")] {
        let refused = agent.api(method, &format!("/v1/instances/{what}"), "");
        assert_eq!(refused.status, 507, "{refused:?}");
    }
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
    check_flows(&world, &open(&world, &agent, "runs"), 8_000);
    disk.free();
    let mut late = Entry::absent(json!({ "name": "late" }));
    let sent = late.send(&agent.socket(), Request::Create);
    assert_eq!(sent, Sent::Acknowledged);
    entries.push(late);
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
    agent.kill9();
    agent.run();
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
}

#[test]
fn sixty_four_creates_at_once_give_sixty_four_of_everything() {
    let world = World::new();
    let mut agent = world.agent("");
    let socket = agent.socket();
    let mut entries: Vec<Entry> = (0..64)
        .map(|number| Entry::absent(json!({ "name": format!("many-{number}") })))
        .collect();
    let create = |entry: &mut Entry| entry.send(&socket, Request::Create);
    thread::scope(|scope| {
        let threads: Vec<_> = entries
            .iter_mut()
            .map(|entry| scope.spawn(|| create(entry)))
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Sent::Acknowledged);
        }
    });
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
    let rows = database::read(agent.state_dir());
    let places = rows.iter().flat_map(|row| &row.places);
    let mut slots: Vec<u32> = places.map(|place| place.slot).collect();
    slots.sort_unstable();
    assert_eq!(slots, (0..64).collect::<Vec<u32>>(), "the lowest ones");
    agent.kill9();
    agent.run();
    check(&agent, (&world.host, UPLINK, &[]), &mut entries);
}
