//! Steps that fail, and devices that others made or took away.

use netagent_common::policy::policy_flag::DENY_ALL;

use super::*;
use crate::plan::Step;
use crate::spec::policy::PolicySpec;

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
    for (text, status) in [
        (r#"{"name": "a"}"#, Status::Error),
        (r#"{"name": "b"}"#, Status::Running),
    ] {
        assert_eq!(handle.create(spec(text)).await.unwrap().status, status);
    }
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

/// Somebody took the program off the uplink, and it cannot be attached again.
async fn block(host: &FakeHost, handle: &Local) {
    {
        let mut state = host.state();
        let datapath = state.observed.datapath.as_mut().unwrap();
        datapath.attached.remove(&UPLINK);
        state.refuse = Some("attach from_uplink");
    }
    host.notify();
    wait_for("the trouble", async || {
        handle.health().await.unwrap().is_some()
    })
    .await;
}

#[tokio::test]
async fn what_denies_is_in_force_at_once_while_the_host_is_blocked_and_what_opens_waits() {
    let Running { host, handle, .. } = agent().await;
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    block(&host, &handle).await;
    let deny = r#"{"network_policy": "deny-all"}"#;
    let deny = PolicySpec::parse(&serde_json::from_str(deny).unwrap()).unwrap();
    let replaced = handle.0.replace_policy(&caller(), "a".into(), deny).await;
    let replaced = replaced.unwrap();
    let flags = || {
        let state = host.state();
        state.observed.datapath.as_ref().unwrap().interfaces[&0].policy_flags
    };
    assert_eq!(flags(), DENY_ALL);
    assert_eq!(replaced.status, Status::Error);
    let reason = replaced.reason.unwrap();
    assert!(reason.starts_with("attach from_uplink"), "{reason}");
    let made = handle.create(spec(r#"{"name": "b"}"#)).await.unwrap();
    assert_eq!(made.status, Status::Error);
    assert_eq!(tap_names(&host), ["tap0"]);
    host.state().refuse = None;
    wait_for("the retry", async || {
        let list = handle.list().await.unwrap();
        list.iter().all(|state| state.status == Status::Running)
    })
    .await;
    assert_eq!(tap_names(&host), ["tap0", "tap1"]);
    assert!(handle.plan().await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn a_policy_that_cannot_be_removed_blocks_nothing_and_is_tried_again() {
    let Running { host, handle, .. } = agent().await;
    for (name, network) in [("a", "10.1.0.0/16"), ("b", "10.2.0.0/16")] {
        let text = format!(r#"{{"name": "{name}", "denied_cidrs": ["{network}"]}}"#);
        handle.create(spec(&text)).await.unwrap();
    }
    let policies = || {
        let state = host.state();
        state.observed.datapath.as_ref().unwrap().policies.clone()
    };
    let first = policies().into_iter().next().unwrap();
    let text = Step::RemovePolicy { id: first }.to_string();
    host.state().refuse = Some(text.leak());
    for name in ["a", "b"] {
        handle.delete(name.into()).await.unwrap();
    }
    assert_eq!(policies(), [first].into(), "the other one went");
    // What they reserved is free.
    let made = handle.create(spec("{}")).await.unwrap();
    assert_eq!(made.interfaces[0].tap_name, "tap0");
    host.state().refuse = None;
    host.notify();
    wait_for("the removal", async || policies().is_empty()).await;
}
