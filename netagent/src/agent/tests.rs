use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv6Net;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::state::InstanceState;
use super::state::Status;
use super::store_id::StoreId;
use super::*;
use crate::access::Caller;
use crate::host::fake::{FakeHost, UPLINK, host};
use crate::plan::ObservedLink;
use crate::spec::InstanceSpec;

/// Longest wait for a condition.
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn store_id() -> StoreId {
    StoreId {
        store_id: Uuid::from_u128(7),
        subnet6: Ipv6Net::new_assert("fd12:3456:789a::".parse().unwrap(), 48),
        mark: 9,
    }
}

/// An agent that runs on a fake host, until it is told to end.
pub(crate) struct Running {
    pub(crate) host: FakeHost,
    pub(crate) handle: Local,
    pub(crate) end: Arc<Notify>,
    pub(crate) task: JoinHandle<()>,
    pub(crate) directory: Arc<TempDir>,
}

/// Asks as one who speaks through the unix socket.
#[derive(Clone)]
pub(crate) struct Local(pub(crate) AgentHandle);

impl Local {
    pub(crate) async fn create(&self, spec: InstanceSpec) -> Result<InstanceState, RequestError> {
        self.0.create(&caller(), spec).await
    }

    async fn list(&self) -> Result<Vec<InstanceState>, RequestError> {
        self.0.list(&caller()).await
    }

    async fn inspect(&self, key: String) -> Result<InstanceState, RequestError> {
        self.0.inspect(&caller(), key).await
    }

    async fn start(&self, key: String) -> Result<InstanceState, RequestError> {
        self.0.start(&caller(), key).await
    }

    async fn stop(&self, key: String) -> Result<InstanceState, RequestError> {
        self.0.stop(&caller(), key).await
    }

    async fn delete(&self, key: String) -> Result<(), RequestError> {
        self.0.delete(&caller(), key).await
    }

    async fn plan(&self) -> Result<PlanView, RequestError> {
        self.0.plan(&caller()).await
    }

    async fn health(&self) -> Result<Option<String>, RequestError> {
        self.0.health().await
    }
}

fn caller() -> Caller {
    Caller::local("test")
}

fn store_in(directory: &TempDir) -> Store {
    Store::open(&directory.path().join("netagent.db")).unwrap()
}

pub(crate) async fn running(host: FakeHost, config: Config) -> Running {
    running_on(host, config, Arc::new(TempDir::new().unwrap())).await
}

/// On the database of an agent before it.
async fn running_on(host: FakeHost, config: Config, directory: Arc<TempDir>) -> Running {
    let (agent, handle) = start(host.clone(), config, &store_id(), store_in(&directory))
        .await
        .unwrap();
    let end = Arc::new(Notify::new());
    let ended = end.clone();
    let task = tokio::spawn(agent.run(async move { ended.notified().await }));
    Running {
        host,
        handle: Local(handle),
        end,
        task,
        directory,
    }
}

impl Running {
    async fn ended(self) -> (FakeHost, Arc<TempDir>) {
        self.end.notify_one();
        self.task.await.unwrap();
        (self.host, self.directory)
    }
}

async fn agent() -> Running {
    running(host(), Config::default()).await
}

fn spec(text: &str) -> InstanceSpec {
    InstanceSpec::parse(text.as_bytes(), crate::spec::Grant::ALL).unwrap()
}

fn tap_names(host: &FakeHost) -> Vec<String> {
    let links = &host.state().observed.links;
    links
        .values()
        .filter(|link| link.alias.is_some())
        .map(|link| link.name.clone())
        .collect()
}

async fn wait_for(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect(what);
}

#[tokio::test]
async fn an_instance_lives_from_create_to_delete() {
    let Running { host, handle, .. } = agent().await;
    let made = handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    assert_eq!(made.status, Status::Running);
    let first = &made.interfaces[0];
    assert_eq!(first.tap_name, "tap0");
    assert_eq!(first.guest_v4.to_string(), "172.16.0.2/30");
    assert_eq!(first.guest_v6.unwrap().to_string(), "fd12:3456:789a::2/64");
    assert_eq!((first.name.as_str(), first.mtu), ("a-eth0", 1500));
    assert_eq!(tap_names(&host), ["tap0"]);

    let stopped = handle.stop("a".into()).await.unwrap();
    assert_eq!(
        (stopped.status, tap_names(&host).len()),
        (Status::Stopped, 0)
    );
    let again = handle.start(made.id.to_string()).await.unwrap();
    assert_eq!(
        (again.status, again.interfaces[0].tap_name.as_str()),
        (Status::Running, "tap0")
    );
    handle.delete("a".into()).await.unwrap();
    assert!(tap_names(&host).is_empty());
    assert!(
        host.state()
            .observed
            .datapath
            .as_ref()
            .unwrap()
            .interfaces
            .is_empty()
    );
    assert!(matches!(
        handle.inspect("a".into()).await,
        Err(RequestError::NotFound(_))
    ));
    assert!(handle.plan().await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn every_start_has_its_own_device_and_generation() {
    let Running { host, handle, .. } = agent().await;
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
        let record = *host
            .state()
            .observed
            .datapath
            .as_ref()
            .unwrap()
            .interfaces
            .get(&0)
            .unwrap();
        assert!(seen.insert((record.ifindex, record.generation)));
        handle.stop("a".into()).await.unwrap();
        handle.start("a".into()).await.unwrap();
        let record = *host
            .state()
            .observed
            .datapath
            .as_ref()
            .unwrap()
            .interfaces
            .get(&0)
            .unwrap();
        assert!(seen.insert((record.ifindex, record.generation)));
        handle.delete("a".into()).await.unwrap();
    }
}

#[tokio::test]
async fn the_interfaces_of_one_instance_know_each_other() {
    let Running { host, handle, .. } = agent().await;
    handle
        .create(spec(r#"{"network_interfaces": [{}, {}]}"#))
        .await
        .unwrap();
    let datapath = host.state().observed.datapath.clone().unwrap();
    let second = datapath.interfaces[&1];
    assert_eq!(
        (second.instance, second.addresses, second.has_v6),
        (0, 2, 1)
    );
    assert_eq!(second.addresses_v4[..2], [[172, 16, 0, 6], [172, 16, 0, 2]]);
    assert_eq!(
        second.addresses_v6[0][..8],
        [0xfd, 0x12, 0x34, 0x56, 0x78, 0x9a, 0, 1]
    );
    assert_eq!(second.prefixes_v6, [64, 64, 0, 0]);
    assert_eq!(second.gateway_v4, [172, 16, 0, 5]);
}

#[tokio::test]
async fn without_autostart_addresses_are_reserved_and_no_device_is_made() {
    let Running { host, handle, .. } = agent().await;
    let made = handle
        .create(spec(r#"{"autostart": false}"#))
        .await
        .unwrap();
    assert_eq!(made.status, Status::Pending);
    assert!(made.name.as_str().starts_with("vm-"));
    assert!(tap_names(&host).is_empty());
    let next = handle.create(spec("{}")).await.unwrap();
    assert_eq!(next.interfaces[0].tap_name, "tap1");
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_behind() {
    let mut config = Config::default();
    config.pool.subnet = "172.16.0.0/29".parse().unwrap();
    let Running { host, handle, .. } = running(host(), config).await;
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    let refused = [
        (r#"{"name": "a"}"#, "Instance name 'a' is already in use"),
        (
            r#"{"network_interfaces": [{"name": "a-eth0"}]}"#,
            "Network interface name 'a-eth0' is already in use",
        ),
        (
            r#"{"network_interfaces": [{}, {}]}"#,
            "Address pool 172.16.0.0/29 is exhausted",
        ),
        (
            r#"{"network_interfaces": [{"tap_owner": "no-such-user"}]}"#,
            "Unknown user 'no-such-user'",
        ),
        (
            r#"{"network_interfaces": [{"tap_group": "no-such-group"}]}"#,
            "Unknown group 'no-such-group'",
        ),
    ];
    for (text, expected) in refused {
        let error = handle.create(spec(text)).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(tap_names(&host), ["tap0"]);
    // The last place of the pool is still free.
    assert_eq!(
        handle.create(spec("{}")).await.unwrap().interfaces[0].tap_name,
        "tap1"
    );
    assert_eq!(handle.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_limit_on_instances_holds() {
    let mut config = Config::default();
    config.limits.instances = 1;
    let Running { handle, .. } = running(host(), config).await;
    handle.create(spec("{}")).await.unwrap();
    let error = handle.create(spec("{}")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "limits.instances = 1 instances exist already"
    );
}

#[tokio::test]
async fn a_generated_interface_name_that_is_taken_gives_way() {
    let Running { handle, .. } = agent().await;
    handle
        .create(spec(r#"{"network_interfaces": [{"name": "b-eth0"}]}"#))
        .await
        .unwrap();
    let made = handle.create(spec(r#"{"name": "b"}"#)).await.unwrap();
    assert!(made.interfaces[0].name.as_str().starts_with("eth-"));
}

#[tokio::test]
async fn a_failed_step_is_an_error_with_its_reason_and_is_tried_again() {
    let Running { host, handle, .. } = agent().await;
    host.state().refuse = Some("attach from_vm");
    let made = handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    assert_eq!(made.status, Status::Error);
    let reason = made.reason.unwrap();
    assert!(
        reason.starts_with("attach from_vm and to_vm to tap0")
            && reason.contains("as the test wants"),
        "{reason}"
    );
    // Others are not concerned: here none fails.
    host.state().refuse = None;
    wait_for("the retry", async || {
        handle.inspect("a".into()).await.unwrap().status == Status::Running
    })
    .await;
    assert!(handle.plan().await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn one_instance_in_error_disturbs_no_other() {
    let Running { host, handle, .. } = agent().await;
    host.state().refuse = Some("tap0");
    assert_eq!(
        handle
            .create(spec(r#"{"name": "a"}"#))
            .await
            .unwrap()
            .status,
        Status::Error
    );
    assert_eq!(
        handle
            .create(spec(r#"{"name": "b"}"#))
            .await
            .unwrap()
            .status,
        Status::Running
    );
    handle.delete("a".into()).await.unwrap();
    assert_eq!(tap_names(&host), ["tap1"]);
}

#[tokio::test]
async fn delete_works_when_removal_fails_and_the_place_stays_reserved() {
    let Running { host, handle, .. } = agent().await;
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    host.state().refuse = Some("remove TAP");
    handle.delete("a".into()).await.unwrap();
    assert!(matches!(
        handle.inspect("a".into()).await,
        Err(RequestError::NotFound(_))
    ));
    assert_eq!(
        handle.create(spec("{}")).await.unwrap().interfaces[0].tap_name,
        "tap1"
    );
    host.state().refuse = None;
    host.notify();
    wait_for("the removal", async || tap_names(&host) == ["tap1"]).await;
    assert_eq!(
        handle.create(spec("{}")).await.unwrap().interfaces[0].tap_name,
        "tap0"
    );
}

#[tokio::test]
async fn a_foreign_device_on_a_name_is_passed_by_and_later_named() {
    let Running { host, handle, .. } = agent().await;
    let foreign = |name: &str| ObservedLink {
        name: name.into(),
        ..ObservedLink::default()
    };
    let made = handle
        .create(spec(r#"{"name": "a", "autostart": false}"#))
        .await
        .unwrap();
    assert_eq!(made.interfaces[0].tap_name, "tap0");
    host.state().observed.links.insert(50, foreign("tap0"));
    // A question makes the agent look at the host.
    handle.plan().await.unwrap();
    let started = handle.start("a".into()).await.unwrap();
    assert_eq!(started.status, Status::Error);
    assert!(
        started
            .reason
            .unwrap()
            .contains("device 'tap0' is not netagent's")
    );
    assert_eq!(host.state().observed.links[&50], foreign("tap0"));
    host.state().observed.links.remove(&50);
    wait_for("the retry", async || {
        handle.list().await.unwrap()[0].status == Status::Running
    })
    .await;
}

#[tokio::test]
async fn changes_of_the_host_are_followed() {
    let Running { host, handle, .. } = agent().await;
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    host.state().observed.links.get_mut(&UPLINK).unwrap().mtu = 1400;
    host.notify();
    wait_for("the new MTU", async || {
        handle.list().await.unwrap()[0].interfaces[0].mtu == 1400
    })
    .await;
    let state = host.state();
    assert_eq!(
        state
            .observed
            .links
            .values()
            .filter(|link| link.mtu == 1400)
            .count(),
        2
    );
    assert_eq!(
        state.observed.datapath.as_ref().unwrap().interfaces[&0].mtu,
        1400
    );
}

#[tokio::test]
async fn an_mtu_that_was_asked_for_stays_and_below_ipv6s_lowest_there_is_no_ipv6() {
    let Running { host, handle, .. } = agent().await;
    handle.create(spec(r#"{"mtu": 1279}"#)).await.unwrap();
    handle.create(spec(r#"{"mtu": 9000}"#)).await.unwrap();
    let made = handle.create(spec("{}")).await.unwrap();
    let check = |expected: [(u32, u8); 3]| {
        let state = host.state();
        let records = &state.observed.datapath.as_ref().unwrap().interfaces;
        let records = records.values();
        let records: Vec<_> = records.map(|one| (one.mtu, one.has_v6)).collect();
        assert_eq!(records, expected);
        let taps = state.observed.links.values();
        let taps = taps.filter(|link| link.alias.is_some());
        let taps: Vec<_> = taps.map(|link| link.mtu).collect();
        assert_eq!(taps, expected.map(|(mtu, _)| mtu));
    };
    check([(1279, 0), (9000, 1), (1500, 1)]);
    for (uplink, followed) in [
        (1000, (1000, 0)),
        (65_536, (65_521, 1)),
        (60, (68, 0)),
        (1280, (1280, 1)),
    ] {
        host.state().observed.links.get_mut(&UPLINK).unwrap().mtu = uplink;
        host.notify();
        wait_for("the MTU", async || {
            handle.list().await.unwrap()[2].interfaces[0].mtu == followed.0
        })
        .await;
        check([(1279, 0), (9000, 1), followed]);
    }
    let shown = handle.list().await.unwrap()[2].interfaces[0].guest_v6;
    assert_eq!(shown, made.interfaces[0].guest_v6);
}

#[tokio::test]
async fn an_existing_device_says_itself_which_mtu_it_takes() {
    let Running { host, handle, .. } = agent().await;
    let tap = ObservedLink {
        name: "vpc0".into(),
        tap: true,
        mtu_range: Some(100..=2000),
        ..ObservedLink::default()
    };
    host.state().observed.links.insert(50, tap);
    let ask = |mtu: u32| {
        let interface = format!(r#"{{"ip": "10.7.0.5/24", "tap_name": "vpc0", "mtu": {mtu}}}"#);
        spec(&format!(
            r#"{{"autostart": false, "network_interfaces": [{interface}]}}"#
        ))
    };
    for mtu in [99, 2001] {
        let error = handle.create(ask(mtu)).await.unwrap_err().to_string();
        let expected = format!("Invalid mtu '{mtu}': TAP device 'vpc0' takes 100 to 2000");
        assert_eq!(error, expected);
    }
    let made = handle.create(ask(2000)).await.unwrap();
    assert_eq!(made.interfaces[0].mtu, 2000);
}

#[tokio::test]
async fn a_tap_that_was_deleted_behind_the_agents_back_is_made_again() {
    let Running { host, handle, .. } = agent().await;
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    let ifindex = netagent_common::vm::ifindex(0, 0);
    {
        let mut state = host.state();
        state.observed.links.remove(&ifindex);
        state.observed.neighbours.clear();
        state
            .observed
            .routes
            .retain(|route| route.ifindex != ifindex);
        let datapath = state.observed.datapath.as_mut().unwrap();
        datapath.attached.remove(&ifindex);
    }
    host.say(Changes {
        links: [ifindex].into(),
        ..Changes::default()
    });
    wait_for("the TAP", async || tap_names(&host) == ["tap0"]).await;
    wait_for("all of it", async || {
        handle.plan().await.unwrap().steps.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_generation_that_could_not_be_raised_is_owed() {
    let Running { host, handle, .. } = agent().await;
    host.state().observed.links.get_mut(&UPLINK).unwrap().mtu = 1400;
    host.state().refuse = Some("look up their way");
    host.notify();
    wait_for("the trouble", async || {
        handle.health().await.unwrap().is_some()
    })
    .await;
    host.state().refuse = None;
    let steps = handle.plan().await.unwrap().steps;
    assert_eq!(
        steps,
        [(None, "let flows look up their way again".to_owned())]
    );
    host.notify();
    wait_for("the mending", async || {
        handle.health().await.unwrap().is_none()
    })
    .await;
    assert!(handle.plan().await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn an_inspection_shows_counters_and_who_holds_the_tap() {
    let Running { host, handle, .. } = agent().await;
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    let attached = async || {
        handle.inspect("a".into()).await.unwrap().interfaces[0]
            .inspected
            .clone()
            .unwrap()
            .0
    };
    assert!(!attached().await);
    let ifindex = netagent_common::vm::ifindex(0, 0);
    host.state()
        .observed
        .links
        .get_mut(&ifindex)
        .unwrap()
        .carrier = true;
    assert!(attached().await);
    assert!(
        handle.list().await.unwrap()[0].interfaces[0]
            .inspected
            .is_none()
    );
}

#[tokio::test]
async fn a_start_brings_back_what_is_stored_and_touches_nothing_that_is_in_order() {
    let first = agent().await;
    let made = first.handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    let stopped = spec(r#"{"name": "b", "network_interfaces": [{}, {}]}"#);
    first.handle.create(stopped).await.unwrap();
    first.handle.stop("b".into()).await.unwrap();
    let (host, directory) = first.ended().await;
    let before = host.state().applied.len();
    let second = running_on(host, Config::default(), directory).await;
    assert_eq!(
        second.host.state().applied.len(),
        before,
        "nothing was to be done"
    );
    let list = second.handle.list().await.unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!((list[0].id, list[0].status), (made.id, Status::Running));
    assert_eq!(list[0].interfaces[0].id, made.interfaces[0].id);
    assert_eq!(list[1].status, Status::Stopped);
    let next = second.handle.create(spec("{}")).await.unwrap();
    assert_eq!(next.interfaces[0].tap_name, "tap3");
}

#[tokio::test]
async fn after_a_reboot_everything_that_ran_is_made_again() {
    let first = agent().await;
    first.handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    let (_, directory) = first.ended().await;
    let second = running_on(host(), Config::default(), directory).await;
    assert_eq!(tap_names(&second.host), ["tap0"]);
    assert_eq!(
        second.handle.list().await.unwrap()[0].status,
        Status::Running
    );
    assert!(second.handle.plan().await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn an_index_is_not_used_again_after_a_restart() {
    let first = agent().await;
    first.handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    first.handle.delete("a".into()).await.unwrap();
    let (host, directory) = first.ended().await;
    let second = running_on(host, Config::default(), directory).await;
    second
        .handle
        .create(spec(r#"{"name": "a"}"#))
        .await
        .unwrap();
    let observed = second.host.state().observed.clone();
    let record = observed.datapath.unwrap().interfaces[&0];
    assert_eq!(record.ifindex, netagent_common::vm::ifindex(0, 1));
    assert_eq!(record.generation, 2);
}

#[tokio::test]
async fn a_pool_that_changed_under_its_instances_is_refused() {
    let first = agent().await;
    first.handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    let (host, directory) = first.ended().await;
    let mut config = Config::default();
    config.pool.subnet = "10.0.0.0/16".parse().unwrap();
    let started = start(host, config, &store_id(), store_in(&directory)).await;
    let error = started.err().unwrap().to_string();
    assert!(
        error.contains("instance 'a' holds 172.16.0.2/30"),
        "{error}"
    );
}

#[tokio::test]
async fn requests_that_wait_together_get_places_of_their_own() {
    let Running { handle, host, .. } = agent().await;
    let creates = (0..64).map(|_| handle.create(spec("{}")));
    let made = futures_util::future::join_all(creates).await;
    let taps: BTreeSet<String> = made
        .into_iter()
        .map(|one| one.unwrap().interfaces[0].tap_name.clone())
        .collect();
    assert_eq!(taps.len(), 64);
    assert_eq!(tap_names(&host).len(), 64);
    assert!(handle.plan().await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn an_account_sees_its_own_instances_alone() {
    let Running { handle, .. } = agent().await;
    let other = Caller {
        account: crate::access::AccountName::parse("other").unwrap(),
        ..caller()
    };
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    let same = handle
        .0
        .create(&other, spec(r#"{"name": "a"}"#))
        .await
        .unwrap();
    assert_eq!(handle.0.list(&other).await.unwrap().len(), 1);
    let foreign = handle.inspect(same.id.to_string()).await;
    assert!(matches!(foreign, Err(RequestError::NotFound(_))));
}

#[tokio::test]
async fn a_start_that_cannot_work_says_why() {
    let fail = async |config: Config, host: FakeHost| {
        let directory = TempDir::new().unwrap();
        start(host, config, &store_id(), store_in(&directory))
            .await
            .err()
            .unwrap()
            .to_string()
    };
    let named = |name: &str| Config {
        uplink: vec![name.into()],
        ..Config::default()
    };
    assert!(
        fail(named("eth9"), host())
            .await
            .starts_with("uplink 'eth9' does not exist")
    );
    assert!(
        fail(named("lo"), host())
            .await
            .contains("is not an Ethernet-type device")
    );
    let bare = host();
    bare.state().observed.routes.clear();
    assert!(fail(Config::default(), bare).await.starts_with("no uplink"));
    let mut overlap = Config::default();
    overlap.pool.subnet = "192.0.0.0/16".parse().unwrap();
    assert!(
        fail(overlap, host())
            .await
            .contains("overlaps network 192.0.2.0/24")
    );
    let broken = host();
    broken.state().refuse = Some("load the programs");
    let error = fail(Config::default(), broken).await;
    assert!(
        error.starts_with("load the programs") && error.contains("netagent doctor"),
        "{error}"
    );
}

#[tokio::test]
async fn a_start_that_cannot_work_removes_nothing() {
    let first = agent().await;
    first.handle.create(spec("{}")).await.unwrap();
    let (host, directory) = first.ended().await;
    let config = Config {
        uplink: vec!["eth9".into()],
        ..Config::default()
    };
    assert!(
        start(host.clone(), config, &store_id(), store_in(&directory))
            .await
            .is_err()
    );
    assert_eq!(tap_names(&host), ["tap0"]);
}

#[tokio::test]
async fn a_host_without_ipv6_gives_guests_none() {
    let bare = host();
    for link in bare.state().observed.links.values_mut() {
        link.addresses.retain(|address| address.addr().is_ipv4());
    }
    let Running { handle, host, .. } = running(bare, Config::default()).await;
    let made = handle.create(spec("{}")).await.unwrap();
    assert_eq!(made.interfaces[0].guest_v6, None);
    assert_eq!(
        host.state().observed.datapath.as_ref().unwrap().interfaces[&0].has_v6,
        0
    );
}

mod publish;
mod snat;
