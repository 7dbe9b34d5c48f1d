use std::collections::BTreeSet;
use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::instance::{AnnouncedPort, Before, Interface, Life, Origin, Publication};
use crate::spec::limit::LimitsSpec;
use crate::spec::name::Name;
use crate::spec::policy::PolicySpec;
use crate::spec::publish::{ExposedPort, PortProtocol};
use crate::spec::{Grant, InstanceSpec};

mod policy;
mod relay;

struct Scratch {
    _directory: TempDir,
    path: PathBuf,
}

fn scratch() -> Scratch {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("netagent.db");
    Scratch {
        _directory: directory,
        path,
    }
}

fn interface(slot: u32) -> Interface {
    let [_, _, high, low] = slot.to_be_bytes();
    Interface {
        id: Uuid::new_v4(),
        name: Name::parse(&format!("eth-{slot}")).unwrap(),
        slot,
        ifindex: 0x1_0000 | slot,
        tap_name: format!("tap{slot}"),
        tap_owner: Some(1000),
        tap_group: None,
        queues: 2,
        origin: Origin::Pool,
        host_v4: "172.16.0.1/30".parse().unwrap(),
        guest_v4: format!("10.{high}.{low}.2/30").parse().unwrap(),
        guest_v6: Some(format!("fd00:0:0:{slot:x}::2/64").parse().unwrap()),
        mac: [0xaa, 0xfc, 0, 0, high, low],
        model: "virtio-net-pci".into(),
        autoconfig: false,
        mtu: (slot % 2 == 1).then_some(9000),
        relay: None,
    }
}

fn instance(name: &str, slots: &[u32]) -> Instance {
    Instance {
        id: Uuid::new_v4(),
        account: AccountName::default(),
        name: Name::parse(name).unwrap(),
        request: json!({"name": name, "tags": [1]})
            .as_object()
            .unwrap()
            .clone(),
        gateway: Some("192.168.0.100".parse().unwrap()),
        nameserver: Some("2001:db8::53".parse().unwrap()),
        snat_address: Some("198.51.100.7".parse().unwrap()),
        life: Life::Pending,
        generation: 3,
        announced: vec![AnnouncedPort {
            port: 80,
            protocol: PortProtocol::Tcp,
        }],
        publications: vec![],
        exposed: BTreeSet::new(),
        policy: PolicySpec::default(),
        limits: LimitsSpec::default(),
        policy_generation: 1,
        created_ms: 1_700_000_000_123,
        interfaces: slots.iter().map(|slot| interface(*slot)).collect(),
    }
}

fn insert(instance: &Instance) -> Change {
    Change::Insert(Box::new(instance.clone()))
}

#[test]
fn everything_comes_back_as_it_was() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let mut first = instance("a", &[0, 1]);
    let before = Before {
        ifindex: 57,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1400,
        alias: Some("mine".into()),
        up: true,
        addresses: ["10.7.0.1/24".parse().unwrap()].into(),
        settings: [("ipv4/conf/vpc0/forwarding".to_owned(), "1".to_owned())].into(),
    };
    first.interfaces[1].origin = Origin::Existing(before);
    first.interfaces[1].guest_v6 = None;
    let second = instance("b", &[7]);
    let (token, _) = TokenRecord::new(AccountName::parse("acme").unwrap(), true, 5);
    let changes = [
        insert(&second),
        insert(&first),
        Change::SlotUses { slot: 7, uses: 4 },
        Change::NextGeneration(9),
        Change::NextPublication(12),
        Change::InsertToken(token.clone()),
    ];
    store.commit(&changes).unwrap();
    let mut started = first.clone();
    started.life = Life::Running;
    started.generation = 8;
    started.interfaces[0].ifindex = 0x2_0000;
    store
        .commit(&[Change::Update(Box::new(started.clone()))])
        .unwrap();
    drop(store);
    let stored = Store::open(&scratch.path).unwrap().load().unwrap();
    assert_eq!(stored.instances, [second, started]);
    assert_eq!(stored.tokens, [token]);
    assert_eq!(stored.slot_uses, [(7, 4)].into());
    assert_eq!((stored.next_generation, stored.next_publication), (9, 12));
}

/// `spoil` makes the second instance clash with the first in one column.
fn check_unique(column: &str, spoil: impl Fn(&mut Instance, &Instance)) {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let first = instance("a", &[0]);
    store.commit(&[insert(&first)]).unwrap();
    let mut second = instance("b", &[1]);
    spoil(&mut second, &first);
    let error = store.commit(&[insert(&second)]).unwrap_err();
    let named = matches!(&error, StoreError::Conflict(text) if text.contains(column));
    assert!(named, "{column}: {error:?}");
    assert_eq!(store.load().unwrap().instances, [first]);
}

#[test]
fn the_schema_itself_keeps_unique_what_must_be() {
    check_unique("instances.id", |two, one| two.id = one.id);
    check_unique("instances.name", |two, one| two.name = one.name.clone());
    check_unique("interfaces.name", |two, one| {
        two.interfaces[0].name = one.interfaces[0].name.clone();
    });
    check_unique("slot", |two, _| two.interfaces[0].slot = 0);
    check_unique("tap_name", |two, _| {
        two.interfaces[0].tap_name = "tap0".into()
    });
    check_unique("guest_v4", |two, one| {
        // The same address in another network is the same address.
        let address = one.interfaces[0].guest_v4.addr();
        two.interfaces[0].guest_v4 = ipnet::Ipv4Net::new_assert(address, 24);
    });
    check_unique("guest_v6", |two, one| {
        two.interfaces[0].guest_v6 = one.interfaces[0].guest_v6;
    });
    check_unique("mac", |two, one| {
        two.interfaces[0].mac = one.interfaces[0].mac
    });
}

#[test]
fn names_are_unique_in_their_account_alone() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let mut foreign = instance("a", &[1]);
    foreign.account = AccountName::parse("other").unwrap();
    foreign.interfaces[0].name = interface(0).name;
    store
        .commit(&[insert(&instance("a", &[0])), insert(&foreign)])
        .unwrap();
    assert_eq!(store.load().unwrap().instances.len(), 2);
}

#[test]
fn what_is_being_deleted_frees_its_name_and_nothing_else() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let first = instance("a", &[0]);
    store
        .commit(&[insert(&first), Change::MarkDeleting(first.id)])
        .unwrap();
    let mut same_slot = instance("a", &[0]);
    assert!(matches!(
        store.commit(&[insert(&same_slot)]),
        Err(StoreError::Conflict(_))
    ));
    same_slot.interfaces = vec![interface(1)];
    same_slot.interfaces[0].name = first.interfaces[0].name.clone();
    store.commit(&[insert(&same_slot)]).unwrap();
    assert_eq!(store.load().unwrap().instances[0].life, Life::Deleting);
    store.commit(&[Change::Remove(first.id)]).unwrap();
    let mut reuse = instance("c", &[0]);
    reuse.interfaces[0].name = Name::parse("eth-c").unwrap();
    store.commit(&[insert(&reuse)]).unwrap();
    assert_eq!(store.load().unwrap().instances, [same_slot, reuse]);
}

#[test]
fn a_commit_is_all_or_nothing() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let changes = [
        insert(&instance("a", &[0])),
        Change::NextGeneration(5),
        insert(&instance("b", &[0])),
    ];
    assert!(store.commit(&changes).is_err());
    assert_eq!(
        store.load().unwrap(),
        Stored {
            next_generation: 1,
            next_publication: 1,
            ..Stored::default()
        }
    );
}

#[test]
fn the_audit_can_only_grow() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let entry = |action: &str| AuditEntry {
        at_ms: 1,
        account: AccountName::default(),
        actor: "uid 0 pid 1".into(),
        action: action.into(),
        object: "a".into(),
        detail: String::new(),
    };
    let changes = [Change::Audit(entry("create")), Change::Audit(entry("stop"))];
    store.commit(&changes).unwrap();
    assert_eq!(store.audit(9).unwrap(), [entry("stop"), entry("create")]);
    assert_eq!(store.audit(1).unwrap(), [entry("stop")]);
    for change in ["DELETE FROM audit", "UPDATE audit SET actor = 'nobody'"] {
        let refused = store.connection.execute(change, []).unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{refused}");
    }
}

#[test]
fn a_revoked_token_stays_revoked() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let (token, secret) = TokenRecord::new(AccountName::default(), false, 5);
    let id = token.id;
    store.commit(&[Change::InsertToken(token)]).unwrap();
    store
        .commit(&[Change::RevokeToken { id, at_ms: 7 }])
        .unwrap();
    store
        .commit(&[Change::RevokeToken { id, at_ms: 8 }])
        .unwrap();
    assert_eq!(store.load().unwrap().tokens[0].revoked_ms, Some(7));
    drop(store);
    let bytes = fs::read(&scratch.path).unwrap();
    let held = bytes
        .windows(secret.len())
        .any(|part| part == secret.as_bytes());
    assert!(!held, "the secret is nowhere in the file");
}

fn check_refused(path: &Path, expected: &str) {
    let before = fs::read(path).unwrap();
    let error = Store::open(path).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert!(
        error.contains(&path.display().to_string()) && error.contains("down --all"),
        "{error}"
    );
    assert_eq!(fs::read(path).unwrap(), before, "not a byte is changed");
}

#[test]
fn a_database_of_a_newer_version_is_left_alone() {
    let scratch = scratch();
    let store = Store::open(&scratch.path).unwrap();
    store
        .connection
        .pragma_update(None, "user_version", 99)
        .unwrap();
    drop(store);
    check_refused(
        &scratch.path,
        "newer netagent (version 99, this one knows 6)",
    );
}

#[test]
fn what_is_no_database_of_ours_is_left_alone() {
    let scratch = scratch();
    fs::write(
        &scratch.path,
        "not a database, but long enough to be one ".repeat(50),
    )
    .unwrap();
    check_refused(&scratch.path, "is damaged");
    fs::remove_file(&scratch.path).unwrap();
    let foreign = Connection::open(&scratch.path).unwrap();
    foreign
        .execute_batch("CREATE TABLE t (x); PRAGMA user_version = 1")
        .unwrap();
    drop(foreign);
    check_refused(&scratch.path, "another program's");
}

#[test]
fn a_damaged_page_is_noticed() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let many: Vec<Change> = (0..200)
        .map(|slot| insert(&instance(&format!("i{slot}"), &[slot])))
        .collect();
    store.commit(&many).unwrap();
    drop(store);
    let mut bytes = fs::read(&scratch.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8_192].fill(0xa5);
    fs::write(&scratch.path, bytes).unwrap();
    check_refused(&scratch.path, "is damaged");
}

#[test]
fn a_value_that_cannot_be_is_named_with_its_row() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let made = instance("a", &[0]);
    store.commit(&[insert(&made)]).unwrap();
    store
        .connection
        .execute("UPDATE instances SET gateway = 'x'", [])
        .unwrap();
    let error = store.load().unwrap_err().to_string();
    assert!(
        error.contains(&format!("{}: gateway is 'x'", made.id)),
        "{error}"
    );
}

#[test]
fn a_full_disk_refuses_the_request_and_the_store_goes_on() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let pages: u32 = store
        .connection
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    store
        .connection
        .pragma_update(None, "max_page_count", pages + 1)
        .unwrap();
    let many: Vec<Change> = (0..200)
        .map(|slot| insert(&instance(&format!("i{slot}"), &[slot])))
        .collect();
    let error = store.commit(&many).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(store.load().unwrap().instances.is_empty());
    store
        .connection
        .pragma_update(None, "max_page_count", 100_000)
        .unwrap();
    store.commit(&many).unwrap();
    assert_eq!(store.load().unwrap().instances.len(), 200);
}

#[test]
fn a_migration_runs_once_and_a_failed_one_changes_nothing() {
    let scratch = scratch();
    drop(Store::open(&scratch.path).unwrap());
    let and_then = |script| [MIGRATIONS, &[script]].concat();
    let broken = and_then("CREATE TABLE extra (x) STRICT; nonsense");
    assert!(Store::open_with(&scratch.path, &broken).is_err());
    drop(Store::open(&scratch.path).unwrap());
    let next = and_then("CREATE TABLE extra (x INTEGER) STRICT");
    for _ in 0..2 {
        let store = Store::open_with(&scratch.path, &next).unwrap();
        store
            .connection
            .execute("INSERT INTO extra VALUES (1)", [])
            .unwrap();
    }
    assert!(matches!(
        Store::open(&scratch.path),
        Err(StoreError::Newer { found: 7, .. })
    ));
}

/// A file of version 1 as its code left it.
const VERSION_1: &str = include_str!("tests/version_1.sql");

#[test]
fn a_file_of_version_1_is_taken_over_in_place() {
    let scratch = scratch();
    let old = Connection::open(&scratch.path).unwrap();
    old.execute_batch(VERSION_1).unwrap();
    drop(old);
    // By way of version 2, as a host that was never left behind.
    drop(Store::open_with(&scratch.path, &MIGRATIONS[..2]).unwrap());
    let mut store = Store::open(&scratch.path).unwrap();
    let stored = store.load().unwrap();
    let [old] = &stored.instances[..] else {
        panic!("{:?}", stored.instances)
    };
    let taps = old.interfaces.iter();
    let taps: Vec<_> = taps.map(|one| (one.tap_name.as_str(), one.mtu)).collect();
    assert_eq!(taps, [("tap0", None), ("vpc0", None)]);
    assert!(matches!(&old.interfaces[1].origin, Origin::Existing(before) if before.mtu == 1400));
    assert_eq!((old.life, old.generation), (Life::Running, 2));
    assert_eq!(stored.slot_uses, [(0, 2)].into());
    assert_eq!((stored.tokens.len(), stored.next_generation), (1, 3));
    assert_eq!(store.audit(9).unwrap().len(), 4);
    assert_eq!((old.policy_generation, stored.next_publication), (1, 1));
    assert!(old.publications.is_empty() && old.exposed.is_empty());
    assert_eq!(old.snat_address, None);
    assert_eq!(old.policy, PolicySpec::default());
    assert_eq!(old.limits, LimitsSpec::default());
    assert!(old.interfaces.iter().all(|one| one.relay.is_none()));
    let new = instance("b", &[7]);
    store.commit(&[insert(&new)]).unwrap();
    drop(store);
    let again = Store::open(&scratch.path).unwrap().load().unwrap();
    assert_eq!(again.instances, [old.clone(), new]);
}

#[test]
fn the_schema_keeps_mtus_within_bounds() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    for mtu in [67, 65_536] {
        let mut bad = instance("a", &[0]);
        bad.interfaces[0].mtu = Some(mtu);
        assert!(store.commit(&[insert(&bad)]).is_err(), "{mtu}");
    }
}

fn publication(id: u32, text: &str) -> Publication {
    let request = json!({ "publish": [text] });
    let spec = InstanceSpec::parse(request.to_string().as_bytes(), Grant::ALL);
    let port = spec.expect(text).ports.published.remove(0);
    Publication { id, port }
}

fn publishing(name: &str, slot: u32, ports: &[(u32, &str)]) -> Instance {
    let ports = ports.iter();
    Instance {
        publications: ports.map(|(id, text)| publication(*id, text)).collect(),
        ..instance(name, &[slot])
    }
}

#[test]
fn published_and_exposed_ports_come_back_as_they_were() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let ports = [
        (1, "8080:80 from 10.0.0.0/8,2001:db8::/32"),
        (u32::MAX, "[::1]:53:53/udp"),
    ];
    let mut made = publishing("a", 0, &ports);
    let exposed = |port, protocol| ExposedPort { port, protocol };
    made.exposed = [
        exposed(80, PortProtocol::Tcp),
        exposed(53, PortProtocol::Udp),
    ]
    .into();
    let other = publishing("b", 1, &[(2, "8080/udp"), (3, "127.0.0.1:53:53/udp")]);
    store.commit(&[insert(&made), insert(&other)]).unwrap();
    assert_eq!(
        store.load().unwrap().instances,
        [made.clone(), other.clone()]
    );
    // The first stays, the second goes, and another comes before it.
    made.publications = vec![publication(4, "9000"), made.publications[0].clone()];
    made.policy_generation = 2;
    made.exposed.clear();
    let publish = Change::Publish(Box::new(made.clone()));
    store.commit(&[publish]).unwrap();
    drop(store);
    let mut store = Store::open(&scratch.path).unwrap();
    assert_eq!(
        store.load().unwrap().instances,
        [made.clone(), other.clone()]
    );
    store.commit(&[Change::Remove(made.id)]).unwrap();
    let again = publishing("a", 0, &[(5, "8080:80")]);
    store.commit(&[insert(&again)]).unwrap();
    assert_eq!(store.load().unwrap().instances, [other, again]);
}

#[test]
fn the_schema_keeps_published_ports_apart_as_binds_would_be() {
    let check = |first: &str, second: &str, fits: bool| {
        let scratch = scratch();
        let mut store = Store::open(&scratch.path).unwrap();
        store
            .commit(&[insert(&publishing("a", 0, &[(1, first)]))])
            .unwrap();
        let result = store.commit(&[insert(&publishing("b", 1, &[(2, second)]))]);
        match result {
            Ok(()) => assert!(fits, "{first} {second}"),
            Err(StoreError::Conflict(text)) => {
                assert!(
                    !fits && text.contains("publications.host_port"),
                    "{first} {second}: {text}"
                );
            }
            Err(error) => panic!("{first} {second}: {error}"),
        }
    };
    check("8080", "8080", false);
    check("8080", "8080:81", false);
    check("8080", "127.0.0.1:8080:80", false);
    check("[::1]:8080:80", "8080", false);
    check("[::1]:8080:80", "[::1]:8080:81", false);
    check("8080", "8080/udp", true);
    check("127.0.0.1:8080:80", "127.0.0.2:8080:80", true);
    check("127.0.0.1:8080:80", "[::1]:8080:80", true);
}

#[test]
fn a_publication_is_of_one_instance_and_never_changes() {
    let scratch = scratch();
    let mut store = Store::open(&scratch.path).unwrap();
    let first = publishing("a", 0, &[(1, "8080")]);
    store.commit(&[insert(&first)]).unwrap();
    let same_number = publishing("b", 1, &[(1, "8081")]);
    assert!(matches!(
        store.commit(&[insert(&same_number)]),
        Err(StoreError::Conflict(_))
    ));
    let update = "UPDATE publications SET guest_port = 81";
    let refused = store.connection.execute(update, []).unwrap_err();
    assert!(refused.to_string().contains("never changes"), "{refused}");
    // A port goes from one to the other in one commit.
    let without = Instance {
        publications: vec![],
        ..first.clone()
    };
    let with = publishing("b", 1, &[(2, "8080")]);
    let changes = [Change::Publish(Box::new(without)), insert(&with)];
    store.commit(&changes).unwrap();
    store
        .connection
        .execute("DROP TRIGGER publication_stays", [])
        .unwrap();
    let spoil = "UPDATE publications SET allow_from = 'x'";
    store.connection.execute(spoil, []).unwrap();
    let error = store.load().unwrap_err().to_string();
    assert!(
        error.contains("2: allow_from is 'x: expected value"),
        "{error}"
    );
}

#[test]
fn only_its_owner_reads_the_file() {
    use std::os::unix::fs::PermissionsExt;

    let scratch = scratch();
    let _store = Store::open(&scratch.path).unwrap();
    let directory = scratch.path.parent().unwrap();
    let files: BTreeSet<u32> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().permissions().mode() & 0o777)
        .collect();
    assert_eq!(files, [0o600].into());
}
