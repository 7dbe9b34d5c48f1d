use netagent_common::limit::Rate;
use netagent_common::policy::{NO_POLICY, PolicyId, policy_flag};
use netagent_common::vm::Interface;
use serde_json::{Map, Value};

use super::*;
use crate::plan::Step;
use crate::policy::compile;
use crate::spec::limit::LimitsSpec;
use crate::spec::policy::PolicySpec;
use crate::spec::publish::ExposedPort;

impl Local {
    pub(super) async fn policy(
        &self,
        key: &str,
        body: &str,
    ) -> Result<InstanceState, RequestError> {
        let (caller, key) = (caller(), key.to_owned());
        self.0.replace_policy(&caller, key, policy(body)).await
    }

    async fn limits(&self, key: &str, body: &str) -> Result<InstanceState, RequestError> {
        let limits = LimitsSpec::parse(&object(body)).unwrap();
        let (caller, key) = (caller(), key.to_owned());
        self.0.replace_limits(&caller, key, limits).await
    }
}

fn object(body: &str) -> Map<String, Value> {
    serde_json::from_str(body).unwrap()
}

fn policy(body: &str) -> PolicySpec {
    PolicySpec::parse(&object(body)).unwrap()
}

fn id_of(body: &str) -> PolicyId {
    compile(&policy(body), false).map_or(NO_POLICY, |compiled| compiled.id)
}

fn record(host: &FakeHost, slot: u32) -> Interface {
    let state = host.state();
    state.observed.datapath.as_ref().unwrap().interfaces[&slot]
}

fn check(host: &FakeHost, body: &str, (flags, generation): (u32, u32)) {
    let record = record(host, 0);
    assert_eq!(record.policy, id_of(body), "{body}");
    let found = (record.policy_flags, record.policy_generation);
    assert_eq!(found, (flags, generation), "{body}");
}

#[tokio::test]
async fn p9_records_name_the_policy_and_its_generation_moves_with_every_change() {
    let Running { host, handle, .. } = agent().await;
    let some =
        r#"{"allowed_cidrs": ["10.0.0.0/8"], "denied_cidrs": ["10.1.0.0/16"], "audit": true}"#;
    handle.create(spec(some)).await.unwrap();
    let name = handle.list().await.unwrap()[0].name.to_string();
    check(&host, some, (policy_flag::AUDIT, 1));
    let all = r#"{"network_policy": "deny-all"}"#;
    let state = handle.policy(&name, all).await.unwrap();
    assert_eq!(state.policy, policy(all));
    check(&host, all, (policy_flag::DENY_ALL, 2));
    host.state().applied.clear();
    handle.policy(&name, all).await.unwrap();
    assert_eq!(host.state().applied, []);
    check(&host, all, (policy_flag::DENY_ALL, 2));
    handle.policy(&name, "{}").await.unwrap();
    check(&host, "{}", (0, 3));
    // It holds just the same nothing, and is another policy.
    handle
        .policy(&name, r#"{"denied_cidrs": []}"#)
        .await
        .unwrap();
    check(&host, r#"{"denied_cidrs": []}"#, (0, 4));
    assert!(handle.plan().await.unwrap().steps.is_empty());
    let unknown = handle.policy("x", "{}").await.unwrap_err();
    assert_eq!(unknown.to_string(), "Instance 'x' not found");
}

#[tokio::test]
async fn d2_records_say_that_there_is_a_list_of_names_and_every_change_of_it_is_judged() {
    let Running { host, handle, .. } = agent().await;
    let one = r#"{"name": "a", "allowed_domains": ["a.example"]}"#;
    handle.create(spec(one)).await.unwrap();
    let named = r#"{"allowed_domains": ["a.example"]}"#;
    check(&host, named, (policy_flag::NAMES, 1));
    // What it compiles to is the same, and what was learned is not.
    let other = r#"{"allowed_domains": ["b.example"]}"#;
    assert_eq!(id_of(named), id_of(other));
    handle.policy("a", other).await.unwrap();
    check(&host, other, (policy_flag::NAMES, 2));
    handle.policy("a", other).await.unwrap();
    check(&host, other, (policy_flag::NAMES, 2));
    let empty = r#"{"allowed_domains": [], "audit": true}"#;
    handle.policy("a", empty).await.unwrap();
    check(&host, empty, (policy_flag::NAMES | policy_flag::AUDIT, 3));
    handle
        .policy("a", r#"{"allowed_cidrs": []}"#)
        .await
        .unwrap();
    check(&host, r#"{"allowed_cidrs": []}"#, (0, 4));
    assert!(handle.plan().await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn policy_and_limits_outlive_the_agent_and_are_in_the_audit() {
    let one = agent().await;
    one.handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    let some = r#"{"allowed_domains": ["*.b.example", "a.example"], "allowed_cidrs": ["10.0.0.0/8", "::/0"]}"#;
    one.handle.policy("a", some).await.unwrap();
    let limits = r#"{"bandwidth": "1mbit", "limits": {"flows": 5}}"#;
    one.handle.limits("a", limits).await.unwrap();
    let before = record(&one.host, 0);
    let (host, directory) = one.ended().await;
    let audit = store_in(&directory).audit(2).unwrap();
    let lines = audit
        .iter()
        .map(|entry| (entry.action.as_str(), entry.detail.as_str()));
    let expected = [
        ("limits", r#"{"bandwidth":"1mbit","limits":{"flows":5}}"#),
        ("policy", "custom, 2 allowed_domains, 2 allowed_cidrs"),
    ];
    assert_eq!(lines.collect::<Vec<_>>(), expected);
    let two = running_on(host, Config::default(), directory).await;
    assert_eq!(record(&two.host, 0), before);
    assert!(two.handle.plan().await.unwrap().steps.is_empty());
    let state = two.handle.inspect("a".into()).await.unwrap();
    assert_eq!(state.policy, policy(some));
}

#[tokio::test]
async fn compiled_policies_that_say_the_same_are_one_in_memory() {
    let one = agent().await;
    let some = |name: &str, network: &str| {
        spec(&format!(
            r#"{{"name": "{name}", "denied_cidrs": ["{network}"]}}"#
        ))
    };
    for (name, network) in [("a", "10.0.0.0/8"), ("b", "10.0.0.0/8"), ("c", "::/0")] {
        one.handle.create(some(name, network)).await.unwrap();
    }
    let (host, directory) = one.ended().await;
    let (id, store) = (store_id(), store_in(&directory));
    let started = start(host, Config::default(), &id, store).await;
    let (agent, _handle) = started.unwrap();
    let held = agent.registry.all().map(|(_, held)| held);
    let compiled: Vec<_> = held.map(|held| held.compiled.clone().unwrap()).collect();
    assert!(Arc::ptr_eq(&compiled[0], &compiled[1]));
    assert!(!Arc::ptr_eq(&compiled[0], &compiled[2]));
}

#[tokio::test]
async fn equal_lists_of_names_are_one_in_memory() {
    let one = agent().await;
    for (name, domain) in [("a", "a.example"), ("b", "A.example."), ("c", "c.example")] {
        let text = format!(r#"{{"name": "{name}", "allowed_domains": ["{domain}"]}}"#);
        one.handle.create(spec(&text)).await.unwrap();
    }
    let (host, directory) = one.ended().await;
    let (id, store) = (store_id(), store_in(&directory));
    let started = start(host, Config::default(), &id, store).await;
    let (agent, _handle) = started.unwrap();
    let held = agent.registry.all().map(|(_, held)| &held.instance.policy);
    let lists: Vec<_> = held
        .map(|one| one.allowed_domains.clone().unwrap())
        .collect();
    assert!(Arc::ptr_eq(&lists[0], &lists[1]));
    assert!(!Arc::ptr_eq(&lists[0], &lists[2]));
}

#[tokio::test]
async fn p13_limits_are_in_the_records_and_change_without_a_new_generation() {
    let Running { host, handle, .. } = agent().await;
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    let default = record(&host, 0);
    assert_eq!(
        (default.bandwidth, default.bandwidth_in),
        (Rate::NONE, Rate::NONE)
    );
    assert_eq!((default.packets, default.flow_limit), (Rate::NONE, 8_192));
    let body =
        r#"{"bandwidth": 50, "bandwidth_in": "1gbit", "limits": {"pps": 1000, "flows": 8192}}"#;
    handle.limits("a", body).await.unwrap();
    let expected = Interface {
        bandwidth: Rate::of_bits(50_000_000),
        bandwidth_in: Rate::of_bits(1_000_000_000),
        packets: Rate::of_packets(1_000),
        ..default
    };
    assert_eq!(record(&host, 0), expected);
    let refused = handle.limits("a", r#"{"limits": {"flows": 8193}}"#).await;
    let text =
        "Member 'flows' cannot be 8193: limits.flows of the configuration allows an instance 8192";
    assert_eq!(refused.unwrap_err().to_string(), text);
    let refused = handle.create(spec(r#"{"limits": {"flows": 8193}}"#)).await;
    assert_eq!(refused.unwrap_err().to_string(), text);
    assert_eq!(record(&host, 0), expected);
    handle
        .limits("a", r#"{"limits": {"flows": 1}}"#)
        .await
        .unwrap();
    let flows = Interface {
        flow_limit: 1,
        ..default
    };
    assert_eq!(record(&host, 0), flows);
    handle.limits("a", "{}").await.unwrap();
    assert_eq!(record(&host, 0), default);
}

#[tokio::test]
async fn an_instance_keeps_within_a_configuration_that_allows_less_by_now() {
    let one = agent().await;
    let request = r#"{"limits": {"flows": 5000}}"#;
    one.handle.create(spec(request)).await.unwrap();
    let (host, directory) = one.ended().await;
    let mut config = Config::default();
    config.limits.flows = 100;
    let two = running_on(host, config, directory).await;
    assert_eq!(record(&two.host, 0).flow_limit, 100);
}

#[tokio::test]
async fn p5_private_networks_are_closed_to_every_instance() {
    let mut config = Config::default();
    config.policy.deny_private = true;
    let Running { host, handle, .. } = running(host(), config).await;
    handle.create(spec("{}")).await.unwrap();
    let private = compile(&PolicySpec::default(), true).unwrap();
    assert_eq!(record(&host, 0).policy, private.id);
}

#[tokio::test]
async fn p7_flows_are_judged_anew_by_a_configuration_that_closes_a_port_of_the_host() {
    let opening = |ports: &[u16]| {
        let mut config = Config::default();
        let ports = ports.iter().map(|port| (*port).into());
        let ports = ports.map(|entry| ExposedPort::parse(&entry).unwrap());
        config.policy.allow_host_ports = ports.collect();
        config
    };
    let mut one = running(host(), opening(&[80])).await;
    one.handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    one.handle.create(spec(r#"{"name": "b"}"#)).await.unwrap();
    one.handle.stop("b".into()).await.unwrap();
    for (ports, generation) in [
        (&[80][..], 1),
        (&[80, 443], 1),
        (&[443], 2),
        (&[443], 2),
        (&[443, 53], 2),
        (&[], 3),
    ] {
        let (host, directory) = one.ended().await;
        host.state().applied.clear();
        one = running_on(host, opening(ports), directory).await;
        let found = record(&one.host, 0).policy_generation;
        assert_eq!(found, generation, "{ports:?}");
        let plan = one.handle.plan().await.unwrap();
        assert!(plan.steps.is_empty(), "{plan:?}");
        let applied = one.host.state().applied.clone();
        let place = |is: fn(&Step) -> bool| applied.iter().position(is);
        let closed = place(|step| matches!(step, Step::CloseHostPort { .. }));
        let raised = place(|step| matches!(step, Step::WriteInterface { .. }));
        assert_eq!(closed.is_some(), raised.is_some(), "{applied:?}");
        assert!(closed <= raised, "{applied:?}");
    }
    let state = one.handle.start("b".into()).await;
    assert_eq!(state.unwrap().status, Status::Running);
}

#[tokio::test]
async fn i19_a_template_has_the_policy_and_the_limits_of_now() {
    let Running { handle, .. } = agent().await;
    let request = r#"{"name": "a", "image": "x", "denied_cidrs": ["10.0.0.0/8"], "bandwidth": 7}"#;
    handle.create(spec(request)).await.unwrap();
    let template = async || {
        let template = handle.0.template(&caller(), "a".into()).await;
        Value::Object(template.unwrap().request).to_string()
    };
    let made = r#"{"image":"x","network_policy":"custom","denied_cidrs":["10.0.0.0/8"],"bandwidth":"7mbit"}"#;
    assert_eq!(template().await, made);
    handle
        .policy("a", r#"{"allowed_cidrs": []}"#)
        .await
        .unwrap();
    handle.limits("a", "{}").await.unwrap();
    let changed = r#"{"image":"x","network_policy":"custom","allowed_cidrs":[]}"#;
    assert_eq!(template().await, changed);
}
