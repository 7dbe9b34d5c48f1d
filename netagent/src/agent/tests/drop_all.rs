//! When `drop_all` is attached, and when it goes.

use netagent_common::policy::policy_flag::{DENY_ALL, QUARANTINE};
use netagent_common::vm;

use super::*;
use crate::spec::policy::PolicySpec;

const TAP: u32 = vm::ifindex(0, 0);
const DENY: &str = r#"{"network_policy": "deny-all"}"#;
const ALLOW: &str = "{}";

async fn replace(handle: &Local, body: &str) {
    let policy = PolicySpec::parse(&serde_json::from_str(body).unwrap()).unwrap();
    let replaced = handle.0.replace_policy(&caller(), "a".into(), policy).await;
    replaced.unwrap();
}

fn is_attached(host: &FakeHost) -> bool {
    let state = host.state();
    let datapath = state.observed.datapath.as_ref().unwrap();
    datapath.drop_all.contains(&TAP)
}

fn flags(host: &FakeHost) -> u32 {
    let state = host.state();
    state.observed.datapath.as_ref().unwrap().interfaces[&0].policy_flags
}

/// An agent with an instance `a`, whose flows are these.
async fn with_instance(members: &str, open_flows: u64, config: Config) -> Running {
    let agent = running(host(), config).await;
    agent.host.state().open_flows = Some(open_flows);
    let spec = spec(&format!(r#"{{"name": "a"{members}}}"#));
    agent.handle.create(spec).await.unwrap();
    agent
}

#[tokio::test]
async fn it_comes_when_no_flow_is_left_and_goes_with_the_answer_that_allows() {
    let agent = with_instance("", 1, Config::default()).await;
    let (host, handle) = (&agent.host, &agent.handle);
    replace(handle, DENY).await;
    assert_eq!((flags(host), is_attached(host)), (DENY_ALL, false));
    host.state().open_flows = Some(0);
    wait_for("drop_all comes", async || is_attached(host)).await;
    replace(handle, ALLOW).await;
    assert_eq!((flags(host), is_attached(host)), (0, false));
    replace(handle, r#"{"network_policy": "deny-all", "audit": true}"#).await;
    replace(handle, DENY).await;
    assert!(!is_attached(host), "it waits anew");
    wait_for("drop_all comes again", async || is_attached(host)).await;
    handle.stop("a".into()).await.unwrap();
    assert!(!is_attached(host));
}

#[tokio::test]
async fn an_instance_that_publishes_never_has_it() {
    let members = r#", "network_policy": "deny-all", "publish": ["8080:80"]"#;
    let agent = with_instance(members, 0, Config::default()).await;
    agent.host.state().observed.links.remove(&3);
    agent.host.notify();
    let other = spec(r#"{"name": "b", "network_policy": "deny-all"}"#);
    agent.handle.create(other).await.unwrap();
    let second = vm::ifindex(1, 0);
    wait_for("the other one has it", async || {
        let state = agent.host.state();
        let datapath = state.observed.datapath.as_ref().unwrap();
        datapath.drop_all.contains(&second)
    })
    .await;
    assert!(!is_attached(&agent.host));
}

#[tokio::test]
async fn the_next_agent_keeps_what_an_earlier_one_attached() {
    let agent = with_instance(r#", "network_policy": "deny-all""#, 0, Config::default()).await;
    let host = agent.host.clone();
    wait_for("drop_all comes", async || is_attached(&host)).await;
    let (host, directory) = agent.ended().await;
    let before = host.state().applied.len();
    // Flows that the earlier agent reset long ago are not asked for.
    host.state().open_flows = Some(1);
    let next = running_on(host.clone(), Config::default(), directory).await;
    assert_eq!(host.state().applied.len(), before, "nothing was to be done");
    assert!(is_attached(&host));
    replace(&next.handle, ALLOW).await;
    assert!(!is_attached(&host));
}

#[tokio::test]
async fn the_next_agent_leaves_the_same_time_to_flows_that_were_denied_a_moment_ago() {
    let agent = with_instance("", 1, Config::default()).await;
    replace(&agent.handle, DENY).await;
    let (host, directory) = agent.ended().await;
    assert!(!is_attached(&host));
    let _next = running_on(host.clone(), Config::default(), directory).await;
    assert_eq!((flags(&host), is_attached(&host)), (DENY_ALL, false));
    host.state().open_flows = Some(0);
    wait_for("drop_all comes", async || is_attached(&host)).await;
}

fn watching(pps: Option<u32>) -> Config {
    let mut config = Config::default();
    config.policy.quarantine_pps = pps;
    config
}

#[tokio::test]
async fn a_guest_that_floods_is_held_and_the_next_agent_holds_it() {
    let agent = with_instance("", 0, watching(Some(1_000))).await;
    let (host, handle) = (agent.host.clone(), agent.handle.clone());
    wait_for("the guest is held", async || {
        // A hundred times the bound, at each look.
        *host.state().sent.entry(TAP).or_default() += 1_000;
        flags(&host) == QUARANTINE && is_attached(&host)
    })
    .await;
    let steps: Vec<String> = host
        .state()
        .applied
        .iter()
        .map(ToString::to_string)
        .collect();
    let last: Vec<&str> = steps.iter().rev().take(2).map(String::as_str).collect();
    let expected = [
        "attach drop_all to tap0 (65536)",
        "write interface record 0 (device 65536, generation 1)",
    ];
    assert_eq!(last, expected, "the record first");
    let state = handle.inspect("a".into()).await.unwrap();
    assert_eq!(state.status, Status::Error);
    let reason = state.reason.unwrap();
    assert!(reason.contains("policy.quarantine_pps is 1000"), "{reason}");
    drop(handle);
    let (host, directory) = agent.ended().await;
    let before = host.state().applied.len();
    let next = running_on(host.clone(), watching(Some(1_000)), directory.clone()).await;
    assert_eq!(host.state().applied.len(), before, "nothing was to be done");
    let state = next.handle.inspect("a".into()).await.unwrap();
    assert!(
        state
            .reason
            .unwrap()
            .contains("policy.quarantine_pps is 1000")
    );
    // A new life has a new chance.
    next.handle.stop("a".into()).await.unwrap();
    next.handle.start("a".into()).await.unwrap();
    assert_eq!((flags(&host), is_attached(&host)), (0, false));
}

#[tokio::test]
async fn without_a_bound_nobody_is_held_any_more() {
    let agent = with_instance("", 0, watching(Some(1_000))).await;
    let host = agent.host.clone();
    wait_for("the guest is held", async || {
        *host.state().sent.entry(TAP).or_default() += 1_000;
        is_attached(&host)
    })
    .await;
    let (host, directory) = agent.ended().await;
    let next = running_on(host.clone(), watching(None), directory).await;
    assert_eq!((flags(&host), is_attached(&host)), (0, false));
    let state = next.handle.inspect("a".into()).await.unwrap();
    assert_eq!((state.status, state.reason), (Status::Running, None));
}
