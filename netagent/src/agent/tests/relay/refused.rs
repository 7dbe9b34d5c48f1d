//! Which relays are refused, in every order of requests.

use super::*;

#[tokio::test]
async fn r2_only_an_interface_of_another_instance_that_has_no_relay_can_be_one() {
    let agent = pair().await;
    let handle = &agent.handle;
    let other = Caller {
        account: crate::access::AccountName::parse("other").unwrap(),
        ..caller()
    };
    let foreign = r#"{"network_interfaces": [{"name": "foreign"}]}"#;
    handle.0.create(&other, spec(foreign)).await.unwrap();
    for (text, name) in [
        (
            r#"{"network_interfaces": [{"relay": {"name": "nobody"}}]}"#,
            "nobody",
        ),
        (
            r#"{"network_interfaces": [{"relay": {"name": "foreign"}}]}"#,
            "foreign",
        ),
        (
            r#"{"network_interfaces": [{"name": "me", "relay": {"name": "me"}}]}"#,
            "me",
        ),
        (
            r#"{"name": "me", "network_interfaces": [{"relay": {"name": "me-eth0"}}]}"#,
            "me-eth0",
        ),
        (
            r#"{"network_interfaces": [{"name": "a"}, {"relay": {"name": "a"}}]}"#,
            "a",
        ),
        (
            r#"{"network_interfaces": [{"name": "a", "relay": {"name": "b"}}, {"name": "b", "relay": {"name": "a"}}]}"#,
            "b",
        ),
        (
            r#"{"network_interfaces": [{"relay": {"name": "box-eth0"}}]}"#,
            "box-eth0",
        ),
    ] {
        let asked = spec(text);
        let faults = handle.0.check(&caller(), asked.clone()).await.unwrap();
        assert_eq!(faults.first(), Some(&invalid(name)), "{text}");
        let error = handle.create(asked).await.unwrap_err();
        assert_eq!(error.to_string(), invalid(name), "{text}");
    }
    assert_eq!(handle.list().await.unwrap().len(), 2);
    // Many may have one.
    for name in ["second", "third"] {
        let text = BOX.replace("box", name);
        handle.create(spec(&text)).await.unwrap();
    }
    let gw = handle.inspect("gw".into()).await.unwrap();
    let clients: Vec<&str> = gw.interfaces[0]
        .relay_clients
        .iter()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(clients, ["box-eth0", "second-eth0", "third-eth0"]);
    check_settled(&agent).await;
}

#[tokio::test]
async fn r2_who_is_waited_for_as_a_relay_can_have_none() {
    let agent = pair().await;
    let handle = &agent.handle;
    handle
        .create(spec(
            r#"{"name": "far", "network_interfaces": [{"name": "far"}]}"#,
        ))
        .await
        .unwrap();
    handle
        .create(spec(
            r#"{"name": "wait", "network_interfaces": [{"relay": {"name": "far"}}]}"#,
        ))
        .await
        .unwrap();
    handle.delete_by_force("far").await.unwrap();
    let second_level = r#"{"name": "far", "network_interfaces": [{"name": "far", "relay": {"name": "gw-iface"}}]}"#;
    let error = handle.create(spec(second_level)).await.unwrap_err();
    assert_eq!(error.to_string(), invalid("gw-iface"));
    // By its generated name too.
    handle.create(spec(r#"{"name": "gen"}"#)).await.unwrap();
    handle
        .create(spec(
            r#"{"name": "wait2", "network_interfaces": [{"relay": {"name": "gen-eth0"}}]}"#,
        ))
        .await
        .unwrap();
    handle.delete_by_force("gen").await.unwrap();
    let generated = r#"{"name": "gen", "network_interfaces": [{"relay": {"name": "gw-iface"}}]}"#;
    let error = handle.create(spec(generated)).await.unwrap_err();
    assert_eq!(error.to_string(), invalid("gw-iface"));
    // Who waits for them no longer keeps them from it.
    handle.delete("wait".into()).await.unwrap();
    handle.create(spec(second_level)).await.unwrap();
}

#[tokio::test]
async fn requests_that_wait_together_see_each_other() {
    let agent = agent().await;
    let handle = &agent.handle;
    let asked = [
        GW.to_owned(),
        BOX.to_owned(),
        BOX.replace("box", "second"),
        r#"{"network_interfaces": [{"relay": {"name": "box-eth0"}}]}"#.to_owned(),
    ];
    let made = asked.iter().map(|text| handle.create(spec(text)));
    let made = futures_util::future::join_all(made).await;
    let refused: Vec<bool> = made.iter().map(Result::is_err).collect();
    assert_eq!(refused, [false, false, false, true]);
    check_settled(&agent).await;
}
