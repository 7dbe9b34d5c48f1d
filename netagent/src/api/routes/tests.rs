use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::agent::tests::{Running, running};
use crate::config::Config;
use crate::host::fake::host;

struct Api {
    router: Router,
    agent: Running,
}

async fn api() -> Api {
    let agent = running(host(), Config::default()).await;
    Api {
        router: router(agent.handle.0.clone()),
        agent,
    }
}

impl Api {
    async fn call(&self, method: &str, path: &str, body: impl Into<Body>) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(body.into())
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        (status, value)
    }

    async fn check_error(
        &self,
        (method, path, body): (&str, &str, &str),
        status: u16,
        message: &str,
    ) {
        let (found, value) = self.call(method, path, body.to_owned()).await;
        assert_eq!(
            value,
            json!({ "status": "error", "message": message }),
            "{method} {path} {body}"
        );
        assert_eq!(found, status, "{method} {path} {body}");
    }
}

#[tokio::test]
async fn create_answers_with_everything_a_vmm_needs() {
    let api = api().await;
    let body = r#"{"name": "web-server", "vcpu_count": 2, "mem_size_mib": 512,
        "kernel_image_path": ".hyperfleet/vmlinux", "rootfs_path": ".hyperfleet/alpine-rootfs.ext4"}"#;
    let (status, mut made) = api.call("POST", "/v1/instances", body).await;
    assert_eq!(status, 201);
    let id = made["id"].take();
    let interface_id = made["network_interfaces"][0]["id"].take();
    assert!(id.as_str().is_some_and(|id| id.len() == 36) && id != interface_id);
    let expected = json!({
        "id": null, "name": "web-server", "status": "running",
        "private_ip": "172.16.0.2", "gateway": "172.16.0.1", "nameserver": "172.16.0.1",
        "tap_device": "tap0", "tap_ip": "172.16.0.1", "guest_ip": "172.16.0.2", "guest_mac": "AA:FC:00:00:00:01",
        "network_interfaces": [{
            "id": null, "name": "web-server-eth0", "mode": "nat", "tap_name": "tap0", "ip": "172.16.0.2/30",
            "ip6": "fd12:3456:789a::2/64", "tap_ip": "172.16.0.1", "mac": "AA:FC:00:00:00:01", "mtu": 1500,
            "autoconfig": true, "relay": null
        }],
        "vcpu_count": 2, "mem_size_mib": 512,
        "kernel_image_path": ".hyperfleet/vmlinux", "rootfs_path": ".hyperfleet/alpine-rootfs.ext4"
    });
    assert_eq!(made, expected);
}

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
    assert_eq!(
        api.call("GET", "/v1/plan", "").await,
        (200, json!({ "steps": [], "problems": [] }))
    );
    let (status, stopped) = api
        .call("PUT", &format!("/v1/instances/{id}/stop"), "")
        .await;
    assert_eq!((status, &stopped["status"]), (200, &json!("stopped")));
    assert_eq!(
        api.call("GET", "/v1/instances", "")
            .await
            .1
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        api.call("DELETE", "/v1/instances/a", "").await,
        (204, Value::Null)
    );
    assert_eq!(api.call("GET", "/v1/instances", "").await.1, json!([]));
}

#[tokio::test]
async fn two_interfaces_are_counted_together() {
    let api = api().await;
    api.call(
        "POST",
        "/v1/instances",
        r#"{"name": "a", "network_interfaces": [{}, {}]}"#,
    )
    .await;
    let (_, shown) = api.call("GET", "/v1/instances/a", "").await;
    assert_eq!(shown["drops"], json!({ "spoofed_mac": 14 }));
    assert_eq!(shown["traffic"]["to_vm_bytes"], 240);
    assert_eq!(
        shown["network_interfaces"][1]["drops"],
        json!({ "spoofed_mac": 7 })
    );
}

#[tokio::test]
async fn bad_requests_create_nothing() {
    let api = api().await;
    let post = |body| ("POST", "/v1/instances", body);
    api.check_error(
        post("{"),
        400,
        "Malformed JSON: EOF while parsing an object at line 1 column 1",
    )
    .await;
    api.check_error(post(r#"{"nmae": "a"}"#), 400, "Unknown member 'nmae'")
        .await;
    api.check_error(
        post(r#"{"gateway": "1.2.3.4"}"#),
        501,
        "Not supported yet: gateway",
    )
    .await;
    let relay = r#"{"network_interfaces": [{"relay": {"name": "x", "relay_dns": true}}]}"#;
    api.check_error(post(relay), 501, "Not supported yet: relay")
        .await;
    assert_eq!(api.call("GET", "/v1/instances", "").await.1, json!([]));
    let links = api.agent.host.state().observed.links.len();
    assert_eq!(links, 3);
}

#[tokio::test]
async fn conflicts_and_missing_instances_have_their_status() {
    let api = api().await;
    let create = ("POST", "/v1/instances", r#"{"name": "a"}"#);
    assert_eq!(api.call(create.0, create.1, create.2).await.0, 201);
    api.check_error(create, 409, "Instance name 'a' is already in use")
        .await;
    let interface = r#"{"network_interfaces": [{"name": "a-eth0"}]}"#;
    let message = "Network interface name 'a-eth0' is already in use";
    api.check_error(("POST", "/v1/instances", interface), 409, message)
        .await;
    for (method, path) in [
        ("GET", "/v1/instances/b"),
        ("DELETE", "/v1/instances/b"),
        ("PUT", "/v1/instances/b/start"),
        ("PUT", "/v1/instances/b/stop"),
    ] {
        api.check_error((method, path, ""), 404, "Instance 'b' not found")
            .await;
    }
}

#[tokio::test]
async fn an_exhausted_pool_is_507() {
    let mut config = Config::default();
    config.pool.subnet = "172.16.0.0/30".parse().unwrap();
    let agent = running(host(), config).await;
    let api = Api {
        router: router(agent.handle.0.clone()),
        agent,
    };
    api.call("POST", "/v1/instances", "{}").await;
    let message = "Address pool 172.16.0.0/30 is exhausted";
    api.check_error(("POST", "/v1/instances", "{}"), 507, message)
        .await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413() {
    let api = api().await;
    let body = vec![b' '; BODY_MAX + 1];
    let (status, value) = api.call("POST", "/v1/instances", body).await;
    assert_eq!(
        (status, &value["message"]),
        (413, &json!("The body is larger than 16 MiB"))
    );
    let (status, _) = api
        .call("POST", "/v1/instances", vec![b' '; BODY_MAX])
        .await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn routes_that_are_not_built_say_so() {
    let api = api().await;
    for (method, route) in NOT_BUILT {
        let path = route
            .replace("{instance}", "a")
            .replace("{action}", "start");
        api.check_error(
            (method, &path, ""),
            501,
            &format!("Not supported yet: {method} {route}"),
        )
        .await;
    }
    assert_eq!(api.call("GET", "/machines", "").await.0, 501);
    assert_eq!(api.call("POST", "/machines/a/exec", "").await.0, 501);
    assert_eq!(
        api.call("GET", "/v1/instances/a/guest?format=json", "")
            .await
            .0,
        501
    );
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
