//! Requests that are refused, or see nothing of others.

use super::*;

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
