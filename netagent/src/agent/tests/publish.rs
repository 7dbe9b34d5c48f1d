use std::net::{IpAddr, Ipv6Addr};

use crate::plan::publish::{PublishedAt, PublishedTo};
use crate::spec::publish::{ExposedPort, HostPort, PortProtocol, PortsSpec};

use super::*;

impl Local {
    async fn publish(&self, key: &str, body: &str) -> Result<InstanceState, RequestError> {
        self.0.publish(&caller(), key.to_owned(), ports(body)).await
    }
}

fn ports(body: &str) -> PortsSpec {
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    PortsSpec::parse(body.as_object().unwrap()).unwrap()
}

/// What the datapath leads where: `<address>:<port>` and `<guest>:<port>`.
fn led(host: &FakeHost) -> Vec<String> {
    let state = host.state();
    let there = &state.observed.datapath.as_ref().unwrap().ports;
    let published = there.published.iter();
    published.map(|(at, to)| format!("{at} {to}")).collect()
}

fn entry(host: &FakeHost, address: &str, port: u16) -> Option<PublishedTo> {
    let at = PublishedAt {
        address: address.parse().unwrap(),
        port,
        protocol: PortProtocol::Tcp,
    };
    let state = host.state();
    let there = &state.observed.datapath.as_ref().unwrap().ports;
    there.published.get(&at).copied()
}

fn generations(host: &FakeHost) -> (u32, u32) {
    let state = host.state();
    let record = state.observed.datapath.as_ref().unwrap().interfaces[&0];
    (record.generation, record.policy_generation)
}

fn waiting(state: &InstanceState) -> Vec<Option<&str>> {
    let published = state.published.iter();
    published.map(|port| port.waiting.as_deref()).collect()
}

#[tokio::test]
async fn n3_published_ports_lead_to_the_first_interface_as_long_as_it_runs() {
    let Running { host, handle, .. } = agent().await;
    let request = r#"{"name": "a", "network_interfaces": [{}, {}], "exposed_ports": [80],
        "publish": ["8080:80 from 10.0.0.0/8,2001:db8::/32", "127.0.0.1:9090:90", "[::1]:9090:90"]}"#;
    let made = handle.create(spec(request)).await.unwrap();
    assert_eq!(waiting(&made), [None, None, None]);
    let expected = [
        "127.0.0.1:9090/tcp 172.16.0.2:90 for all (publication 2)",
        "0.0.0.0:8080/tcp 172.16.0.2:80 for its senders (publication 1)",
        "[::]:8080/tcp [fd12:3456:789a::2]:80 for its senders (publication 1)",
        "[::1]:9090/tcp [fd12:3456:789a::2]:90 for all (publication 3)",
    ];
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    let expected = sorted(expected.map(str::to_owned).to_vec());
    assert_eq!(sorted(led(&host)), expected);
    assert_eq!(generations(&host), (1, 1));
    let senders = host
        .state()
        .observed
        .datapath
        .as_ref()
        .unwrap()
        .ports
        .senders
        .len();
    assert_eq!(senders, 2);
    assert!(handle.plan().await.unwrap().steps.is_empty());

    let stopped = handle.stop("a".into()).await.unwrap();
    assert_eq!(waiting(&stopped), [Some("the instance does not run"); 3]);
    assert_eq!(led(&host), [""; 0]);
    let again = handle.start("a".into()).await.unwrap();
    assert_eq!(waiting(&again), [None, None, None]);
    assert_eq!(entry(&host, "0.0.0.0", 8080).unwrap().generation, 2);
    handle.delete("a".into()).await.unwrap();
    let ports = host
        .state()
        .observed
        .datapath
        .as_ref()
        .unwrap()
        .ports
        .clone();
    assert_eq!(ports, crate::plan::publish::Ports::default());
    assert!(handle.plan().await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn p9_a_running_instance_gets_others_and_what_stays_is_not_touched() {
    let Running { host, handle, .. } = agent().await;
    let request = r#"{"name": "a", "publish": ["8080:80", "9090"], "exposed_ports": ["80"]}"#;
    handle.create(spec(request)).await.unwrap();
    let kept = entry(&host, "0.0.0.0", 8080);
    host.state().applied.clear();
    let body = r#"{"publish": ["8080:80", "7070 from 10.0.0.0/8"], "exposed_ports": ["443"]}"#;
    let changed = handle.publish("a", body).await.unwrap();
    assert_eq!(waiting(&changed), [None, None]);
    assert_eq!(entry(&host, "0.0.0.0", 8080), kept);
    assert_eq!(entry(&host, "0.0.0.0", 9090), None);
    assert_eq!(generations(&host), (1, 2));
    let steps: Vec<String> = host
        .state()
        .applied
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        !steps.iter().any(|step| step.contains("8080")),
        "{steps:#?}"
    );
    assert!(
        steps
            .last()
            .unwrap()
            .starts_with("write interface record 0"),
        "{steps:#?}"
    );
    // The same again changes nothing.
    host.state().applied.clear();
    handle.publish("a", body).await.unwrap();
    assert_eq!(host.state().applied, []);
    assert_eq!(generations(&host), (1, 2));
    // What is not named is none.
    let none = handle.publish("a", "{}").await.unwrap();
    assert!(none.published.is_empty() && none.exposed.is_empty());
    assert_eq!((led(&host).len(), generations(&host)), (0, (1, 3)));
    assert!(handle.plan().await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn a_failed_change_is_seen_and_done_later() {
    let Running { host, handle, .. } = agent().await;
    handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    host.state().refuse = Some("publish 0.0.0.0:8080");
    let changed = handle
        .publish("a", r#"{"publish": ["8080"]}"#)
        .await
        .unwrap();
    assert_eq!(changed.status, Status::Error);
    assert_eq!(waiting(&changed), [Some("the host does not lead it yet")]);
    assert_eq!(generations(&host), (1, 1));
    host.state().refuse = None;
    wait_for("the retry", async || {
        handle.inspect("a".into()).await.unwrap().status == Status::Running
    })
    .await;
    assert_eq!(generations(&host), (1, 2));
    assert!(entry(&host, "0.0.0.0", 8080).is_some());
}

#[tokio::test]
async fn a_restart_finds_ports_numbers_and_generations_as_they_were() {
    let first = agent().await;
    let request = r#"{"name": "a", "publish": ["8080:80 from 10.0.0.0/8"]}"#;
    first.handle.create(spec(request)).await.unwrap();
    let body = r#"{"publish": ["8080:80 from 10.0.0.0/8", "9090"]}"#;
    first.handle.publish("a", body).await.unwrap();
    let led_before = led(&first.host);
    let (host, directory) = first.ended().await;
    let before = host.state().applied.len();
    let second = running_on(host, Config::default(), directory).await;
    assert_eq!(
        second.host.state().applied.len(),
        before,
        "nothing was to be done"
    );
    assert_eq!(led(&second.host), led_before);
    assert_eq!(generations(&second.host), (1, 2));
    // A number is not used a second time, though its publication is gone.
    second.handle.publish("a", "{}").await.unwrap();
    second
        .handle
        .publish("a", r#"{"publish": ["9090"]}"#)
        .await
        .unwrap();
    assert_eq!(entry(&second.host, "0.0.0.0", 9090).unwrap().id, 3);
    let (_, directory) = second.ended().await;
    let third = running_on(self::host(), Config::default(), directory).await;
    assert_eq!(entry(&third.host, "0.0.0.0", 9090).unwrap().id, 3);
}

async fn check_refused(handle: &Local, request: &str, expected: &str) {
    let error = handle.create(spec(request)).await.unwrap_err();
    assert_eq!(error.to_string(), expected, "{request}");
    let checked = handle.0.check(&caller(), spec(request)).await.unwrap();
    assert_eq!(checked, [expected], "{request}");
}

#[tokio::test]
async fn n3_a_port_that_somebody_has_is_refused_with_who_has_it() {
    let Running { host, handle, .. } = agent().await;
    handle
        .create(spec(
            r#"{"name": "web", "publish": ["8080", "127.0.0.1:9090:90"]}"#,
        ))
        .await
        .unwrap();
    let taken = "Port 8080/tcp is already in use by instance \"web\"";
    check_refused(&handle, r#"{"publish": ["8080:81"]}"#, taken).await;
    check_refused(&handle, r#"{"publish": ["127.0.0.1:8080:81"]}"#, taken).await;
    check_refused(&handle, r#"{"publish": ["7070", "[::1]:8080:81"]}"#, taken).await;
    let other = "Port 9090/tcp is already in use by instance \"web\"";
    check_refused(&handle, r#"{"publish": ["9090"]}"#, other).await;
    let nginx = HostPort {
        port: 5000,
        protocol: PortProtocol::Tcp,
        address: None,
    };
    host.state()
        .taken
        .push((nginx, "nginx (pid 123)".to_owned()));
    let by_process = "Port 5000/tcp is already in use by nginx (pid 123)";
    check_refused(&handle, r#"{"publish": ["5000"]}"#, by_process).await;
    check_refused(&handle, r#"{"publish": ["192.0.2.2:5000:1"]}"#, by_process).await;
    let error = handle
        .publish("web", r#"{"publish": ["5000"]}"#)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), by_process);
    assert!(
        entry(&host, "0.0.0.0", 8080).is_some(),
        "a refused change changes nothing"
    );
    // What is refused reserved nothing: the same ports are free for others.
    for free in ["8080/udp", "5000/udp", "127.0.0.2:9090:90", "7070"] {
        if free.starts_with("127.0.0.2") {
            let address = "127.0.0.2/8".parse().unwrap();
            host.state()
                .observed
                .links
                .get_mut(&1)
                .unwrap()
                .addresses
                .insert(address);
        }
        handle
            .create(spec(&format!(r#"{{"publish": ["{free}"]}}"#)))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn the_names_of_other_accounts_are_not_told() {
    let Running { handle, .. } = agent().await;
    let other = Caller {
        account: crate::access::AccountName::parse("other").unwrap(),
        ..caller()
    };
    handle
        .create(spec(r#"{"name": "secret", "publish": ["8080"]}"#))
        .await
        .unwrap();
    let asked = spec(r#"{"publish": ["8080"]}"#);
    let error = handle.0.create(&other, asked).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Port 8080/tcp is already in use by another account's instance"
    );
}

#[tokio::test]
async fn ports_that_are_not_to_be_published_are_refused_with_the_range() {
    let mut config = Config::default();
    config.publish.ports = crate::config::PortRange {
        first: 80,
        last: 30_000,
    };
    let Running { handle, .. } = running(host(), config).await;
    let outside = |port| {
        format!(
            "Port {port}/tcp cannot be published: publish.ports of the configuration is 80-30000"
        )
    };
    check_refused(&handle, r#"{"publish": ["79"]}"#, &outside(79)).await;
    check_refused(&handle, r#"{"publish": ["30001"]}"#, &outside(30_001)).await;
    for port in [16_384, 29_999] {
        let expected = format!(
            "Port {port}/udp cannot be published: the ports of nat.ports, 16384-29999, stand for guests"
        );
        check_refused(
            &handle,
            &format!(r#"{{"publish": ["{port}/udp"]}}"#),
            &expected,
        )
        .await;
    }
    let both = r#"{"publish": ["80", "30000", "16383"]}"#;
    assert_eq!(handle.create(spec(both)).await.unwrap().published.len(), 3);
}

#[tokio::test]
async fn a7_an_account_publishes_as_many_ports_as_it_may() {
    let mut config = Config::default();
    let account = crate::config::accounts::Account {
        published_ports: Some(3),
        ..Default::default()
    };
    config.accounts.insert("default".to_owned(), account);
    let Running { handle, .. } = running(host(), config).await;
    handle
        .create(spec(r#"{"name": "a", "publish": ["8080", "8081"]}"#))
        .await
        .unwrap();
    let limit = "Account 'default' may publish 3 ports (published_ports)";
    check_refused(&handle, r#"{"publish": ["9090", "9091"]}"#, limit).await;
    handle
        .create(spec(r#"{"name": "b", "publish": ["9090"]}"#))
        .await
        .unwrap();
    let error = handle
        .publish("b", r#"{"publish": ["9090", "9091"]}"#)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), limit);
    // A replacement counts what there is afterwards.
    handle
        .publish("a", r#"{"publish": ["7070", "7071"]}"#)
        .await
        .unwrap();
    handle.create(spec("{}")).await.unwrap();
}

#[tokio::test]
async fn a_port_is_free_for_the_next_when_its_publication_is_gone() {
    let Running { host, handle, .. } = agent().await;
    handle
        .create(spec(r#"{"name": "a", "publish": ["8080"]}"#))
        .await
        .unwrap();
    handle.stop("a".into()).await.unwrap();
    let taken = "Port 8080/tcp is already in use by instance \"a\"";
    check_refused(&handle, r#"{"publish": ["8080"]}"#, taken).await;
    handle.publish("a", "{}").await.unwrap();
    handle
        .create(spec(r#"{"name": "b", "publish": ["8080"]}"#))
        .await
        .unwrap();
    handle.delete("b".into()).await.unwrap();
    // Wider or narrower, it is its own.
    handle
        .publish("a", r#"{"publish": ["8080"]}"#)
        .await
        .unwrap();
    handle
        .publish("a", r#"{"publish": ["127.0.0.1:8080:80"]}"#)
        .await
        .unwrap();
    handle
        .publish("a", r#"{"publish": ["8080"]}"#)
        .await
        .unwrap();
    handle.start("a".into()).await.unwrap();
    assert_eq!(entry(&host, "0.0.0.0", 8080).unwrap().guest_port, 8080);
    // While it is being taken off the host it is not free.
    host.state().refuse = Some("remove TAP");
    handle.delete("a".into()).await.unwrap();
    let error = handle
        .create(spec(r#"{"publish": ["8080"]}"#))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), taken);
    host.state().refuse = None;
    host.notify();
    wait_for("the removal", async || {
        handle
            .create(spec(r#"{"name": "c", "publish": ["8080"]}"#))
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test]
async fn an_address_must_be_the_hosts_and_a_publication_waits_while_it_is_gone() {
    let Running { host, handle, .. } = agent().await;
    let foreign = "Address 192.0.2.9 cannot be published on: it is not one of this host's; add it with 'ip address add', or name another";
    check_refused(&handle, r#"{"publish": ["192.0.2.9:8080:80"]}"#, foreign).await;
    let request = r#"{"name": "a", "publish": ["192.0.2.2:8080:80", "[2001:db8::2]:8080:80"]}"#;
    let made = handle.create(spec(request)).await.unwrap();
    assert_eq!(waiting(&made), [None, None]);
    let address = "192.0.2.2/24".parse().unwrap();
    let change = |present: bool| {
        let mut state = host.state();
        let uplink = state.observed.links.get_mut(&UPLINK).unwrap();
        if present {
            uplink.addresses.insert(address);
        } else {
            uplink.addresses.remove(&address);
        }
        drop(state);
        host.say(Changes {
            network: true,
            ..Changes::default()
        });
    };
    change(false);
    let reason = "Address 192.0.2.2 cannot be published on: it is not one of this host's; add it with 'ip address add', or name another";
    wait_for("it waits", async || {
        waiting(&handle.list().await.unwrap()[0]) == [Some(reason), None]
    })
    .await;
    wait_for("it leads nowhere", async || {
        entry(&host, "192.0.2.2", 8080).is_none()
    })
    .await;
    assert!(entry(&host, "2001:db8::2", 8080).is_some());
    change(true);
    wait_for("it is back", async || {
        entry(&host, "192.0.2.2", 8080).is_some()
    })
    .await;
    assert_eq!(waiting(&handle.list().await.unwrap()[0]), [None, None]);
}

#[tokio::test]
async fn a_port_that_was_taken_meanwhile_stays_published_and_is_tried_again() {
    let first = agent().await;
    first
        .handle
        .create(spec(r#"{"name": "a", "publish": ["8080"]}"#))
        .await
        .unwrap();
    let (host, directory) = first.ended().await;
    let nginx = HostPort {
        port: 8080,
        protocol: PortProtocol::Tcp,
        address: Some(IpAddr::from([192, 0, 2, 2])),
    };
    host.state()
        .taken
        .push((nginx, "nginx (pid 123)".to_owned()));
    let second = running_on(host, Config::default(), directory).await;
    let shown = second.handle.list().await.unwrap();
    let reason = "Port 8080/tcp is already in use by nginx (pid 123)";
    assert_eq!(waiting(&shown[0]), [Some(reason)]);
    assert!(entry(&second.host, "0.0.0.0", 8080).is_some());
    // It may have others beside it.
    let body = r#"{"publish": ["8080", "9090"]}"#;
    second.handle.publish("a", body).await.unwrap();
    second.host.state().taken.clear();
    second.host.notify();
    wait_for("the port", async || {
        waiting(&second.handle.list().await.unwrap()[0]) == [None, None]
    })
    .await;
}

#[tokio::test]
async fn a_guest_without_ipv6_has_no_ports_of_it() {
    let Running { host, handle, .. } = agent().await;
    let request = r#"{"mtu": 1000, "publish": ["8080", "[2001:db8::2]:9090:90"]}"#;
    let made = handle.create(spec(request)).await.unwrap();
    assert_eq!(waiting(&made), [None, Some("the guest has no IPv6")]);
    assert_eq!(led(&host).len(), 1);
    let any = Ipv6Addr::UNSPECIFIED.to_string();
    assert_eq!(entry(&host, &any, 8080), None);
}

#[tokio::test]
async fn a_template_has_the_exposed_ports_of_now_and_no_published_ones() {
    let Running { handle, .. } = agent().await;
    let request = r#"{"name": "a", "publish": ["8080"], "exposed_ports": [80], "image": "x"}"#;
    handle.create(spec(request)).await.unwrap();
    let template = async || {
        let template = handle.0.template(&caller(), "a".into()).await.unwrap();
        serde_json::Value::Object(template.request)
    };
    let with = |ports: &[&str]| serde_json::json!({"exposed_ports": ports, "image": "x"});
    assert_eq!(template().await, with(&["80/tcp"]));
    handle
        .publish("a", r#"{"exposed_ports": ["53/udp"]}"#)
        .await
        .unwrap();
    assert_eq!(template().await, with(&["53/udp"]));
    handle.publish("a", "{}").await.unwrap();
    assert_eq!(template().await, with(&[]));
    let exposed = ExposedPort {
        port: 1,
        protocol: PortProtocol::Udp,
    };
    assert_eq!(exposed.to_string(), "1/udp");
}

#[tokio::test]
async fn requests_for_one_port_that_wait_together_give_it_to_one() {
    let Running { handle, .. } = agent().await;
    let creates = (0..16).map(|_| handle.create(spec(r#"{"publish": ["8080"]}"#)));
    let made = futures_util::future::join_all(creates).await;
    assert_eq!(made.iter().filter(|one| one.is_ok()).count(), 1);
    assert_eq!(handle.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_search_for_owners_has_an_end() {
    let Running { host, handle, .. } = agent().await;
    let nginx = HostPort {
        port: 5000,
        protocol: PortProtocol::Tcp,
        address: None,
    };
    host.state()
        .taken
        .push((nginx, "nginx (pid 123)".to_owned()));
    let entries: Vec<String> = (1..=20).map(|n| format!("127.0.0.{n}:5000:80")).collect();
    let request = serde_json::json!({ "publish": entries }).to_string();
    let faults = handle.0.check(&caller(), spec(&request)).await.unwrap();
    let named = faults.iter().filter(|fault| fault.contains("nginx"));
    assert_eq!((faults.len(), named.count()), (20, 4));
}

#[tokio::test]
async fn the_audit_says_who_changed_which_ports_and_not_more_than_a_line() {
    let first = agent().await;
    first.handle.create(spec(r#"{"name": "a"}"#)).await.unwrap();
    let body = r#"{"publish": ["8080:80 from 10.0.0.0/8"], "exposed_ports": [443]}"#;
    first.handle.publish("a", body).await.unwrap();
    let many: Vec<String> = (0..1_000).map(|n| (1_024 + n).to_string()).collect();
    let many = serde_json::json!({ "publish": many }).to_string();
    first.handle.publish("a", &many).await.unwrap();
    let (_, directory) = first.ended().await;
    let audit = store_in(&directory).audit(2).unwrap();
    assert_eq!(audit[1].action, "publish");
    assert_eq!(
        audit[1].detail,
        "8080:80/tcp from 10.0.0.0/8; exposed 443/tcp"
    );
    assert!(audit[0].detail.len() < 2_100 && audit[0].detail.ends_with("..."));
}
