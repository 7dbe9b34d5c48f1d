use std::net::IpAddr;

use super::*;
use crate::dns::{Learner, Start};
use crate::learned::Addresses;
use crate::policy::explain::Subject;
use crate::spec::domain::Domain;

const BOTH: &str = r#"{"allowed_domains": ["a.example", "b.example"]}"#;
const ONE: &str = r#"{"allowed_domains": ["a.example"]}"#;

fn ip(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

/// As the resolver of an agent did on this host: each name led to an address.
fn learn(host: &FakeHost, generation: u32, led: &[(&str, u8)]) {
    let (table, start) = {
        let state = host.state();
        let start = Start {
            instance: 0,
            generation,
        };
        (state.learned.clone(), start)
    };
    let addresses = Addresses::default();
    addresses.resume(Box::new(table), &[start]).unwrap();
    let names = led.iter().map(|(name, _)| Domain::parse(name).unwrap());
    addresses.retain(start, &Arc::new(names.collect())).unwrap();
    for (name, last) in led {
        let to = [(ip(*last), Duration::ZERO)];
        addresses.learn(start, name, &to).unwrap();
    }
}

fn open(host: &FakeHost) -> Vec<IpAddr> {
    host.state().learned.open_to(0)
}

fn generations(host: &FakeHost) -> (u32, u32) {
    let state = host.state();
    let record = state.observed.datapath.as_ref().unwrap().interfaces[&0];
    (record.generation, record.policy_generation)
}

/// An agent with an instance under this policy, and the names that it learned before the agent was started.
async fn with_learned(policy: &str, led: &[(&str, u8)]) -> Running {
    let one = agent().await;
    let mut specification = policy.replacen('{', r#"{"name": "a", "#, 1);
    if policy == "{}" {
        specification = r#"{"name": "a"}"#.to_owned();
    }
    one.handle.create(spec(&specification)).await.unwrap();
    let (host, directory) = one.ended().await;
    let (generation, _) = generations(&host);
    learn(&host, generation, led);
    running_on(host, Config::default(), directory).await
}

#[tokio::test]
async fn p9_a_shorter_list_is_in_force_when_what_only_others_led_to_is_closed() {
    let led = [("a.example", 1), ("b.example", 2)];
    let Running { host, handle, .. } = with_learned(BOTH, &led).await;
    assert_eq!(open(&host), [ip(1), ip(2)]);
    let (_, before) = generations(&host);
    host.state().learned.state().until_fault = Some(0);
    let state = handle.policy("a", ONE).await.unwrap();
    let reason = state.reason.unwrap();
    assert!(reason.starts_with("close what names led to"), "{reason}");
    assert_eq!(generations(&host).1, before, "the old policy is in force");
    host.state().learned.state().until_fault = None;
    let state = handle.policy("a", ONE).await.unwrap();
    assert_eq!(state.reason, None);
    assert_eq!(open(&host), [ip(1)]);
    assert_eq!(generations(&host).1, before + 1);
}

#[tokio::test]
async fn nothing_that_was_learned_outlives_its_list_or_its_instance() {
    let led = [("a.example", 1)];
    let Running { host, handle, .. } = with_learned(ONE, &led).await;
    assert_eq!(open(&host), [ip(1)]);
    handle.policy("a", "{}").await.unwrap();
    assert_eq!(open(&host), [] as [IpAddr; 0], "no list");
    let Running { host, handle, .. } = with_learned(ONE, &led).await;
    handle.stop("a".into()).await.unwrap();
    assert_eq!(open(&host), [] as [IpAddr; 0], "stopped");
    let Running { host, handle, .. } = with_learned(ONE, &led).await;
    handle.delete("a".into()).await.unwrap();
    assert_eq!(open(&host), [] as [IpAddr; 0], "deleted");
}

#[tokio::test]
async fn a_start_closes_what_the_stored_policy_does_not_allow() {
    let led = [("a.example", 1), ("c.example", 3)];
    let running = with_learned(BOTH, &led).await;
    assert_eq!(open(&running.host), [ip(1)]);
    let running = with_learned("{}", &led).await;
    assert_eq!(open(&running.host), [] as [IpAddr; 0]);
}

#[tokio::test]
async fn what_belongs_to_another_start_is_closed_at_the_first_look() {
    let one = agent().await;
    let named = ONE.replacen('{', r#"{"name": "a", "#, 1);
    one.handle.create(spec(&named)).await.unwrap();
    let (host, directory) = one.ended().await;
    let (generation, _) = generations(&host);
    learn(&host, generation + 1, &[("a.example", 1)]);
    let running = running_on(host, Config::default(), directory).await;
    assert_eq!(open(&running.host), [] as [IpAddr; 0]);
}

#[tokio::test]
async fn explain_names_what_led_to_an_address() {
    let running = with_learned(ONE, &[("a.example", 1)]).await;
    let subject = Subject::parse("192.0.2.1", Some("443"), None).unwrap();
    let explained = running
        .handle
        .0
        .explain(&caller(), "a".into(), subject)
        .await;
    let explained = format!("{:?}", explained.unwrap());
    assert!(explained.contains("a.example"), "{explained}");
}
