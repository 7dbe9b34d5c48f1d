//! What the next start finds, brings back or refuses.

use super::*;

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
