//! N-8: an instance leaves under an address of the uplink that it names, and under no other.

use netagent_common::vm::Interface;

use crate::host::fake::route;
use crate::plan::KernelRouteKind;
use crate::spec::SpecError;

use super::*;

const V4: &str = "198.51.100.7";
const V6: &str = "2001:db8:7::7";

/// The operator adds an address to a device, or takes it away.
fn change(host: &FakeHost, address: &str, ifindex: u32, present: bool) {
    let prefix = ipnet::IpNet::from(address.parse::<std::net::IpAddr>().unwrap());
    let mut state = host.state();
    let link = state.observed.links.get_mut(&ifindex).unwrap();
    if present {
        link.addresses.insert(prefix);
        let local = route(&prefix.to_string(), KernelRouteKind::Local, ifindex, None);
        state.observed.routes.push(local);
    } else {
        link.addresses.remove(&prefix);
        let routes = &mut state.observed.routes;
        routes.retain(|route| route.destination != prefix);
    }
}

fn tell(host: &FakeHost) {
    host.say(Changes {
        network: true,
        ..Changes::default()
    });
}

fn records(host: &FakeHost) -> Vec<Interface> {
    let state = host.state();
    let datapath = state.observed.datapath.as_ref().unwrap();
    datapath.interfaces.values().copied().collect()
}

fn asking_for(address: &str) -> InstanceSpec {
    spec(&format!(
        r#"{{"name": "a", "snat_address": "{address}", "network_interfaces": [{{}}, {{}}]}}"#
    ))
}

async fn check_refused(handle: &Local, address: &str, expected: &str) {
    let error = handle.create(asking_for(address)).await.unwrap_err();
    assert_eq!(error.to_string(), expected);
    assert!(handle.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn n8_every_interface_of_an_instance_has_its_address_and_a_restart_keeps_it() {
    let running = agent().await;
    let (host, handle) = (&running.host, &running.handle);
    // The agent is not told yet: a request that comes sooner than the kernel's news is granted.
    change(host, V4, UPLINK, true);
    let made = handle.create(asking_for(V4)).await.unwrap();
    assert_eq!(
        (made.status, made.reason.as_deref()),
        (Status::Running, None)
    );
    assert_eq!(made.snat_address, V4.parse().ok());
    let other = handle.create(spec(r#"{"name": "b"}"#)).await.unwrap();
    assert_eq!(other.snat_address, None);
    let addresses = |record: &Interface| (record.snat_v4, record.snat_v6);
    let of = |host: &FakeHost| records(host).iter().map(addresses).collect::<Vec<_>>();
    let own = ([198, 51, 100, 7], [0; 16]);
    assert_eq!(of(host), [own, own, ([0; 4], [0; 16])]);
    let there = host.state().observed.datapath.clone().unwrap();
    let host_route = there.routes[&format!("{V4}/32").parse().unwrap()];
    assert_eq!(host_route.kind, netagent_common::policy::RouteKind::Host);
    assert!(handle.plan().await.unwrap().steps.is_empty());

    let (host, directory) = running.ended().await;
    let again = running_on(host, Config::default(), directory).await;
    let listed = again.handle.list().await.unwrap();
    assert_eq!(listed[0].snat_address, V4.parse().ok());
    assert_eq!(of(&again.host), [own, own, ([0; 4], [0; 16])]);
    again.ended().await;
}

#[tokio::test]
async fn n8_an_address_that_no_uplink_has_is_refused_with_what_mends_it() {
    let Running { host, handle, .. } = agent().await;
    let refused = |address, to_add| {
        format!(
            "Address {address} cannot be snat_address: no uplink of this host has it. Add it with 'ip address add {to_add}'"
        )
    };
    let expected = refused(V4, "198.51.100.7/32 dev eth0");
    check_refused(&handle, V4, &expected).await;
    let expected_v6 = refused(V6, "2001:db8:7::7/128 dev eth0 preferred_lft 0");
    check_refused(&handle, V6, &expected_v6).await;
    // On a device that leads nowhere, it is no better.
    change(&host, V4, 3, true);
    check_refused(&handle, V4, &expected).await;
    // What the programs would take for a guest's, or for nobody's, whatever device has it.
    for address in [
        "172.16.0.9",
        "fd12:3456:789a::2",
        "100.100.100.200",
        "fd00:ec2::254",
    ] {
        change(&host, address, UPLINK, true);
        let expected = SpecError::snat(address).to_string();
        check_refused(&handle, address, &expected).await;
    }
}

#[tokio::test]
async fn n8_no_guest_gets_the_address_of_another_instance_while_the_host_lacks_it() {
    // Where guests' own networks may lie.
    const PRIVATE: &str = "10.20.0.7";
    let Running { host, handle, .. } = agent().await;
    change(&host, PRIVATE, UPLINK, true);
    handle.create(asking_for(PRIVATE)).await.unwrap();
    change(&host, PRIVATE, UPLINK, false);
    tell(&host);
    wait_for("it is gone", async || {
        handle.list().await.unwrap()[0].status == Status::Error
    })
    .await;
    let custom = |network: &str| {
        spec(&format!(
            r#"{{"name": "b", "network_interfaces": [{{"ip": "{network}", "tap_name": "vpc0"}}]}}"#
        ))
    };
    for network in ["10.20.0.7/32", "10.20.0.5/29"] {
        let error = handle.create(custom(network)).await.unwrap_err();
        assert_eq!(error.to_string(), SpecError::NotAvailable.to_string());
    }
    handle.create(custom("10.20.0.9/29")).await.unwrap();
}

#[tokio::test]
async fn n8_an_address_that_goes_away_is_named_until_it_is_back() {
    for address in [V4, V6] {
        let Running { host, handle, .. } = agent().await;
        change(&host, address, UPLINK, true);
        handle.create(asking_for(address)).await.unwrap();
        let before = records(&host);
        change(&host, address, UPLINK, false);
        tell(&host);
        let reason = format!(
            "the host no longer has its snat_address {address}, and it leaves under no other: add it to an uplink again"
        );
        let reason_of = async || {
            let listed = handle.list().await.unwrap();
            (listed[0].status, listed[0].reason.clone())
        };
        wait_for("it is named", async || {
            reason_of().await == (Status::Error, Some(reason.clone()))
        })
        .await;
        assert_eq!(records(&host), before, "the programs go by the route map");
        let plan = handle.plan().await.unwrap();
        assert_eq!(plan.problems, [(Some("a".to_owned()), reason)]);
        assert!(plan.steps.is_empty(), "{:?}", plan.steps);
        change(&host, address, UPLINK, true);
        tell(&host);
        wait_for("it is well", async || {
            reason_of().await == (Status::Running, None)
        })
        .await;
    }
}
