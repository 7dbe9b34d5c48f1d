//! Every path and method: those that answer, and those that are not there.

use std::collections::BTreeSet;

use super::*;

#[tokio::test]
async fn every_route_answers() {
    let api = api().await;
    assert_eq!(
        api.call("GET", "/healthz", "").await,
        (200, json!({ "status": "ok" }))
    );
    assert_eq!(api.call("GET", "/v1/instances", "").await, (200, json!([])));
    let (_, made) = api
        .call(
            "POST",
            "/v1/instances",
            r#"{"name": "a", "autostart": false}"#,
        )
        .await;
    assert_eq!(made["status"], "pending");
    let id = made["id"].as_str().unwrap();
    let (status, started) = api.call("PUT", "/v1/instances/a/start", "").await;
    assert_eq!((status, &started["status"]), (200, &json!("running")));
    let (status, shown) = api.call("GET", &format!("/v1/instances/{id}"), "").await;
    assert_eq!(status, 200);
    let counted = json!({ "from_vm_packets": 1, "from_vm_bytes": 60, "to_vm_packets": 2, "to_vm_bytes": 120 });
    for place in [&shown, &shown["network_interfaces"][0]] {
        assert_eq!(place["attached"], false);
        assert_eq!(place["drops"], json!({ "spoofed_mac": 7 }));
        assert_eq!(place["traffic"], counted);
    }
    assert_eq!(shown["open_flows"], 3);
    let nothing = json!({ "queries": 0, "answered": 0, "failed": 0, "refused": 0, "audited": 0 });
    assert_eq!(shown["dns"], nothing);
    assert_eq!(started.get("dns"), None, "in an inspection alone");
    assert_eq!(
        api.call("GET", "/v1/plan", "").await,
        (200, json!({ "steps": [], "problems": [] }))
    );
    let (status, stopped) = api
        .call("PUT", &format!("/v1/instances/{id}/stop"), "")
        .await;
    assert_eq!((status, &stopped["status"]), (200, &json!("stopped")));
    assert_eq!(api.count().await, 1);
    assert_eq!(
        api.call("DELETE", "/v1/instances/a", "").await,
        (204, Value::Null)
    );
    assert_eq!(api.call("GET", "/v1/instances", "").await.1, json!([]));
}

#[tokio::test]
async fn routes_that_are_not_built_say_so() {
    let api = api().await;
    for (method, path) in [
        ("GET", "/v1/flows"),
        ("GET", "/metrics"),
        ("POST", "/machines/{instance}/exec"),
    ] {
        let message = format!("Not supported yet: {method} {path}");
        let path = path.replace("{instance}", "a");
        api.check_error((method, &path, ""), 501, &message).await;
    }
}

#[tokio::test]
async fn machines_are_instances_that_answer_at_their_commit() {
    let api = api().await;
    let (status, made) = api
        .call("POST", "/machines", r#"{"name": "web-server"}"#)
        .await;
    assert_eq!((status, &made["status"]), (201, &json!("pending")));
    assert_eq!(made["guest_mac"], "AA:FC:00:00:00:01");
    assert_eq!(
        api.call("GET", "/machines/web-server", "").await.1["status"],
        "running"
    );
    assert_eq!(api.call("DELETE", "/machines/web-server", "").await.0, 204);
    assert_eq!(api.call("GET", "/machines", "").await.1, json!([]));
}

#[tokio::test]
async fn what_is_unknown_is_404_and_a_wrong_method_405() {
    let api = api().await;
    api.check_error(("GET", "/nowhere", ""), 404, "Unknown route /nowhere")
        .await;
    api.check_error(
        ("GET", "/v1/instances/a/frob", ""),
        404,
        "Unknown route /v1/instances/a/frob",
    )
    .await;
    api.check_error(
        ("POST", "/healthz", ""),
        405,
        "Method not allowed on /healthz",
    )
    .await;
    api.check_error(
        ("GET", "/v1/instances/a/start", ""),
        405,
        "Method not allowed on /v1/instances/a/start",
    )
    .await;
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let api = api().await;
    for (path, methods) in [
        ("/healthz", "GET,HEAD"),
        ("/v1/instances", "POST,GET,HEAD"),
        ("/v1/tokens/x", "DELETE"),
    ] {
        let request = Request::builder().method("PATCH").uri(path);
        let request = request.body(Body::empty()).unwrap();
        let response = api.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allow = response.headers()["allow"].to_str().unwrap();
        let set = |text: &str| -> BTreeSet<String> { text.split(',').map(str::to_owned).collect() };
        assert_eq!(set(allow), set(methods), "{path}");
    }
}

#[tokio::test]
async fn trouble_of_the_host_shows_in_health() {
    let api = api().await;
    api.agent.host.state().refuse = Some("load the programs");
    api.agent.host.state().observed.datapath = None;
    api.agent.host.notify();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let (status, value) = api.call("GET", "/healthz", "").await;
        if status == 503 {
            assert!(
                value["message"]
                    .as_str()
                    .unwrap()
                    .starts_with("load the programs")
            );
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "health stays good");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
