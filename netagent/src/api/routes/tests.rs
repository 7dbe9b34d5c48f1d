use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use std::collections::BTreeSet;

use axum::extract::connect_info::MockConnectInfo;
use serde_json::{Value, json};

use super::*;
use crate::agent::tests::{Running, running};
use crate::api::auth::Peer;
use crate::config::Config;
use crate::config::accounts::Account;
use crate::guest::format::Format;
use crate::host::fake::host;

struct Api {
    router: Router,
    agent: Running,
}

/// Whoever asks speaks through the unix socket.
fn local(agent: &Running, config: Config) -> Router {
    let peer = MockConnectInfo(Peer::Local("uid 0 pid 1".into()));
    router(agent.handle.0.clone(), Arc::new(config)).layer(peer)
}

async fn api() -> Api {
    let agent = running(host(), Config::default()).await;
    Api {
        router: local(&agent, Config::default()),
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
        "announced_ports": [], "publish": [], "exposed_ports": [], "vcpu_count": 2, "mem_size_mib": 512,
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
        post(r#"{"mtu": 67}"#),
        400,
        "Invalid mtu '67': use 68 to 65535, or leave it out for the uplink's",
    )
    .await;
    api.check_error(
        post(r#"{"mtu": 65522}"#),
        400,
        "Invalid mtu '65522': a TAP device takes 68 to 65521",
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
        router: local(&agent, Config::default()),
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
async fn every_route_is_in_the_document_and_every_path_of_the_document_is_a_route() {
    let api = api().await;
    api.call("POST", "/v1/instances", r#"{"name": "a"}"#).await;
    let (status, document) = api.call("GET", "/openapi.json", "").await;
    assert_eq!(status, 200);
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let routes: BTreeSet<(String, String)> = all()
        .into_iter()
        .map(|route| (route.method.to_owned(), route.path))
        .collect();
    assert_eq!(described, routes);
    for (method, path) in described.iter().filter(|(method, _)| method != "DELETE") {
        let path = path.replace("{instance}", "a");
        let (status, answer) = api.call(method, &path, "{}").await;
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(
            status != 405 && !message.starts_with("Unknown route"),
            "{method} {path}: {answer}"
        );
    }
}

#[tokio::test]
async fn the_document_describes_exactly_the_members_that_a_request_may_have() {
    let (_, document) = api().await.call("GET", "/openapi.json", "").await;
    let request = &document["components"]["schemas"]["InstanceRequest"];
    let (instance, interface) = crate::spec::member_names();
    let names = |schema: &Value| -> BTreeSet<String> {
        let properties = schema["properties"].as_object().unwrap();
        properties.keys().cloned().collect()
    };
    let expected = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    assert_eq!(names(request), expected(instance));
    let entry = &request["properties"]["network_interfaces"]["items"];
    assert_eq!(names(entry), expected(interface));
    assert_eq!(request["additionalProperties"], false);
}

#[tokio::test]
async fn the_document_names_the_body_of_every_request_that_has_one() {
    let (_, document) = api().await.call("GET", "/openapi.json", "").await;
    let of = |method: &str, path: &str| {
        let body = &document["paths"][path][method]["requestBody"];
        let reference = body["content"]["application/json"]["schema"]["$ref"].as_str();
        let name = reference.and_then(|reference| reference.rsplit('/').next())?;
        let schema = &document["components"]["schemas"][name]["properties"];
        let members: Vec<String> = schema.as_object().unwrap().keys().cloned().collect();
        Some(members)
    };
    let expected = |members: &[&str]| {
        let members: BTreeSet<String> = members.iter().map(|name| (*name).to_owned()).collect();
        members
    };
    for prefix in ["/v1/instances", "/machines"] {
        for (rest, members) in [
            ("policy", &changes::POLICY[..]),
            ("publish", &changes::PUBLISH),
            ("limits", &changes::LIMITS),
            ("announcements", &changes::ANNOUNCEMENT),
        ] {
            let path = format!("{prefix}/{{instance}}/{rest}");
            let found = of("put", &path).unwrap().into_iter().collect();
            assert_eq!(expected(members), found, "{path}");
        }
        assert!(of("post", prefix).is_some());
        assert_eq!(of("put", &format!("{prefix}/{{instance}}/start")), None);
    }
    let tokens = of("post", "/v1/tokens").unwrap().into_iter().collect();
    assert_eq!(expected(&tokens::MEMBERS), tokens);
    let check = &document["paths"]["/v1/instances"]["post"]["parameters"][0];
    assert_eq!(
        (&check["name"], &check["in"]),
        (&json!("check"), &json!("query"))
    );
}

/// The configuration of a guest: status, type and text.
async fn guest(api: &Api, path: &str) -> (u16, String, String) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let response = api.router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let kind = response.headers()["content-type"].to_str().unwrap();
    let kind = kind.to_owned();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, kind, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn g2_a_guests_configuration_comes_in_every_format() {
    let api = api().await;
    api.call(
        "POST",
        "/v1/instances",
        r#"{"name": "a", "autostart": false}"#,
    )
    .await;
    for prefix in ["/v1/instances", "/machines"] {
        for (query, kind, begin) in [
            (
                "",
                "application/json",
                "{\n  \"hostname\": \"a\",\n  \"interfaces\": [\n",
            ),
            ("?", "application/json", "{\n  \"hostname\": \"a\",\n"),
            (
                "?format=json",
                "application/json",
                "{\n  \"hostname\": \"a\",\n",
            ),
            (
                "?format=cmdline",
                "text/plain; charset=utf-8",
                "ip=172.16.0.2::172.16.0.1:255.255.255.252:a:eth0:off:172.16.0.1\n",
            ),
            (
                "?format=cloud-init",
                "text/yaml; charset=utf-8",
                "network:\n  version: 2\n  ethernets:\n    eth0:\n",
            ),
            (
                "?format=firecracker",
                "application/json",
                "{\n  \"network-interfaces\": [\n",
            ),
            (
                "?format=qemu",
                "text/plain; charset=utf-8",
                "-netdev tap,id=eth0,ifname=tap0,script=no,downscript=no -device virtio-net-pci,",
            ),
        ] {
            let path = format!("{prefix}/a/guest{query}");
            let (status, found, text) = guest(&api, &path).await;
            assert_eq!((status, found.as_str()), (200, kind), "{path}");
            assert!(text.starts_with(begin), "{path}: {text}");
            assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{path}");
        }
    }
}

#[tokio::test]
async fn g2_what_cannot_be_printed_is_said() {
    let api = api().await;
    let one = r#"{"name": "a", "network_interfaces":
        [{"ip": "10.7.0.1/32", "tap_name": "vpc0"}]}"#;
    assert_eq!(api.call("POST", "/v1/instances", one).await.0, 201);
    let unknown = |name| {
        format!("Unknown format '{name}': use json, cmdline, cloud-init, firecracker or qemu")
    };
    for (path, status, message) in [
        ("b/guest", 404, "Instance 'b' not found".to_owned()),
        ("b/guest?format=qemu", 404, "Instance 'b' not found".into()),
        ("a/guest?format=xml", 400, unknown("xml")),
        ("a/guest?format=", 400, unknown("")),
        ("a/guest?format=JSON", 400, unknown("JSON")),
        (
            "a/guest?fromat=json",
            400,
            "Unknown parameter 'fromat=json': use format=<format>, or none".into(),
        ),
        (
            "a/guest?format=json&x=1",
            400,
            "Unknown parameter 'format=json&x=1': use format=<format>, or none".into(),
        ),
        (
            "a/guest?format=cmdline",
            409,
            "Network interface eth0: ip= cannot express the gateway 169.254.1.1, for it lies outside 10.7.0.1/32: \
             use the format cloud-init, or ip=dhcp with a client that takes option 121"
                .into(),
        ),
    ] {
        let path = format!("/v1/instances/{path}");
        api.check_error(("GET", &path, ""), status, &message).await;
    }
    let (_, document) = api.call("GET", "/openapi.json", "").await;
    let described = &document["paths"]["/machines/{instance}/guest"]["get"];
    let names = Format::ALL.map(Format::name);
    assert_eq!(described["parameters"][1]["schema"]["enum"], json!(names));
    for kind in ["application/json", "text/yaml", "text/plain"] {
        assert!(described["responses"]["2XX"]["content"][kind].is_object());
    }
}

#[tokio::test]
async fn routes_that_are_not_built_say_so() {
    let api = api().await;
    for (method, path) in [
        ("GET", "/v1/flows"),
        ("GET", "/v1/explain"),
        ("GET", "/metrics"),
        ("POST", "/machines/{instance}/exec"),
    ] {
        let message = format!("Not supported yet: {method} {path}");
        let path = path.replace("{instance}", "a");
        api.check_error((method, &path, ""), 501, &message).await;
    }
}

#[tokio::test]
async fn i18_the_topology_is_fixed() {
    let api = api().await;
    api.call("POST", "/v1/instances", r#"{"name": "a"}"#).await;
    let fixed = "Network interfaces cannot be changed after creation";
    for prefix in ["/v1/instances", "/machines"] {
        let path = |rest: &str| format!("{prefix}/{rest}");
        for method in ["PUT", "PATCH"] {
            let body = r#"{"network_interfaces": []}"#;
            api.check_error((method, &path("a"), body), 409, fixed)
                .await;
            let missing = "Instance 'b' not found";
            api.check_error((method, &path("b"), body), 404, missing)
                .await;
        }
        for (route, own) in [
            ("policy", r#"{"network_policy": "deny-all"}"#),
            ("publish", r#"{"publish": ["8080"]}"#),
            ("limits", r#"{"bandwidth": 5}"#),
        ] {
            let path = path(&format!("a/{route}"));
            if route == "publish" {
                assert_eq!(api.call("PUT", &path, own).await.0, 200);
            } else {
                let not_built = format!("Not supported yet: {route}");
                api.check_error(("PUT", &path, own), 501, &not_built).await;
            }
            for member in ["network_interfaces", "gateway", "ip", "tap_name", "name"] {
                let body = format!(r#"{{"{member}": null}}"#);
                api.check_error(("PUT", &path, &body), 409, fixed).await;
            }
            let unknown = r#"{"image": "x"}"#;
            api.check_error(("PUT", &path, unknown), 400, "Unknown member 'image'")
                .await;
        }
    }
}

#[tokio::test]
async fn i4_an_announcement_for_another_address_is_ignored() {
    let api = api().await;
    api.call("POST", "/v1/instances", r#"{"name": "a"}"#).await;
    let announce = async |body: &str| {
        let path = "/v1/instances/a/announcements";
        api.call("PUT", path, body.to_owned()).await
    };
    let own = r#"{"ip": "172.16.0.2", "port": 80, "protocol": "tcp"}"#;
    assert_eq!(announce(own).await, (200, json!({ "accepted": true })));
    assert_eq!(announce(own).await, (200, json!({ "accepted": true })));
    let other = own.replace("0.2", "0.6");
    assert_eq!(announce(&other).await, (200, json!({ "accepted": false })));
    let (_, shown) = api.call("GET", "/v1/instances/a", "").await;
    assert_eq!(
        shown["announced_ports"],
        json!([{ "port": 80, "protocol": "tcp" }])
    );
    for bad in [
        "{}",
        r#"{"ip": "x", "port": 80, "protocol": "tcp"}"#,
        r#"{"ip": "172.16.0.2", "port": 0, "protocol": "tcp"}"#,
        r#"{"ip": "172.16.0.2", "port": 80, "protocol": "sctp"}"#,
        r#"{"ip": "172.16.0.2", "port": 80, "protocol": "tcp", "x": 1}"#,
    ] {
        assert_eq!(announce(bad).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn i19_copies_are_of_instances_with_one_interface() {
    let api = api().await;
    let two =
        r#"{"name": "two", "image": "x", "network_interfaces": [{}, {}], "gateway": "10.9.9.9"}"#;
    api.call("POST", "/v1/instances", two).await;
    api.call("POST", "/v1/instances", r#"{"name": "one"}"#)
        .await;
    for (word, done) in [("branch", "branched"), ("checkpoint", "checkpointed")] {
        let message = format!("Instances with more than one network interface cannot be {done}");
        let path = format!("/v1/instances/two/{word}");
        api.check_error(("POST", &path, ""), 409, &message).await;
        let message = format!("Not supported yet: {word}");
        let path = format!("/v1/instances/one/{word}");
        api.check_error(("POST", &path, ""), 501, &message).await;
    }
    assert_eq!(
        api.call("POST", "/v1/instances/two/template", "").await,
        (200, json!({ "image": "x" }))
    );
}

#[tokio::test]
async fn a_check_names_every_fault_and_creates_nothing() {
    let api = api().await;
    let check = async |body: &str| {
        let (status, answer) = api
            .call("POST", "/v1/instances?check=true", body.to_owned())
            .await;
        assert_eq!(status, 200);
        answer["faults"].as_array().unwrap().len()
    };
    assert_eq!(check("{}").await, 0);
    assert_eq!(check(r#"{"name": "A", "bogus": 1}"#).await, 2);
    api.call("POST", "/v1/instances", r#"{"name": "a"}"#).await;
    let taken = r#"{"name": "a", "network_interfaces": [{"name": "a-eth0"},
        {"ip": "192.0.2.9/24", "tap_name": "docker0"}, {"ip": "172.16.0.9/30", "tap_name": "tap9"}]}"#;
    assert_eq!(check(taken).await, 7);
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
        api.call("POST", "/v1/instances?chek=true", "{}").await.0,
        400
    );
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

/// Somebody on TCP, with this token or with none.
async fn remote(
    api: &Api,
    config: Config,
    token: &str,
    request: (&str, &str, &str),
) -> (u16, Value) {
    let peer = MockConnectInfo(Peer::Remote("127.0.0.1:9".parse().unwrap()));
    let router = router(api.agent.handle.0.clone(), Arc::new(config)).layer(peer);
    let (method, path, body) = request;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {token}"))
        .body(Body::from(body.to_owned()))
        .unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    assert_eq!(
        status == 401,
        response.headers().contains_key("www-authenticate")
    );
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn a3_a_token_reaches_its_own_account_alone() {
    let api = api().await;
    let make = async |body: &str| api.call("POST", "/v1/tokens", body.to_owned()).await.1;
    let made = make(r#"{"account": "acme", "permissions": ["net_manager"]}"#).await;
    let plain = make(r#"{"account": "acme"}"#).await;
    let token = made["token"].as_str().unwrap();
    let ask = async |token: &str, request| remote(&api, Config::default(), token, request).await;
    let list = ("GET", "/v1/instances", "");
    for wrong in ["", "netagent_x", &token[..token.len() - 1]] {
        assert_eq!(ask(wrong, list).await.0, 401);
    }
    api.call("POST", "/v1/instances", r#"{"name": "a"}"#).await;
    assert_eq!(ask(token, list).await, (200, json!([])));
    assert_eq!(ask(token, ("GET", "/v1/instances/a", "")).await.0, 404);
    let create = (
        "POST",
        "/v1/instances",
        r#"{"name": "a", "network_interfaces": [{}]}"#,
    );
    assert_eq!(ask(token, create).await.0, 201);
    let (status, refused) = ask(plain["token"].as_str().unwrap(), create).await;
    assert_eq!(
        (status, &refused["message"]),
        (400, &json!("Unknown member 'network_interfaces'"))
    );
    for path in ["/v1/plan", "/v1/tokens"] {
        assert_eq!(ask(token, ("GET", path, "")).await.0, 403, "{path}");
    }
    assert_eq!(ask("", ("GET", "/healthz", "")).await.0, 200);
    let (_, listed) = api.call("GET", "/v1/tokens", "").await;
    assert!(!listed.to_string().contains(token) && !listed.to_string().contains("hash"));
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(api.call("DELETE", &path, "").await.0, 204);
    assert_eq!(ask(token, list).await.0, 401);
    assert_eq!(api.call("DELETE", &path, "").await.0, 404);
}

/// What the table says of a route is what its handler does.
#[tokio::test]
async fn every_route_is_open_to_exactly_those_whom_the_table_names() {
    let api = api().await;
    let made = api.call("POST", "/v1/tokens", r#"{"account": "acme"}"#);
    let token = made.await.1["token"].as_str().unwrap().to_owned();
    for Route {
        method,
        path,
        access,
        ..
    } in all()
    {
        let path = path.replace("{instance}", "b").replace("{token}", "b");
        let ask = async |token| {
            let request = (method, path.as_str(), "{}");
            remote(&api, Config::default(), token, request).await.0
        };
        let (stranger, account) = (ask("").await, ask(&token).await);
        let expected = match access {
            Access::Open => stranger == 200 && account == 200,
            Access::Account => stranger == 401 && ![401, 403].contains(&account),
            Access::Local => stranger == 401 && account == 403,
        };
        assert!(
            expected,
            "{method} {path} {access:?}: {stranger}, {account}"
        );
    }
}

#[tokio::test]
async fn a4_an_account_without_the_feature_is_told_so() {
    let api = api().await;
    let (_, made) = api
        .call(
            "POST",
            "/v1/tokens",
            r#"{"account": "acme", "permissions": ["net_manager"]}"#,
        )
        .await;
    let mut config = Config::default();
    let account = Account {
        instances: None,
        custom_network: false,
        published_ports: None,
    };
    config.accounts.insert("acme".into(), account);
    let create = ("POST", "/v1/instances", r#"{"gateway": "10.0.0.1"}"#);
    let (status, refused) = remote(&api, config, made["token"].as_str().unwrap(), create).await;
    assert_eq!(status, 403);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .starts_with("Insufficient license.")
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
async fn keys_that_no_name_has_are_not_found() {
    let api = api().await;
    api.call("POST", "/v1/instances", r#"{"name": "a"}"#).await;
    for (key, name) in [
        ("..", ".."),
        ("%2e%2e", ".."),
        ("a%2Fstart", "a/start"),
        ("%2F", "/"),
        ("A", "A"),
        ("a%20", "a "),
        ("a%00", "a\0"),
        ("%C3%A4", "ä"),
    ] {
        let message = format!("Instance '{name}' not found");
        for prefix in ["/v1/instances", "/machines"] {
            for method in ["GET", "DELETE", "PUT", "PATCH"] {
                let path = format!("{prefix}/{key}");
                api.check_error((method, &path, "{}"), 404, &message).await;
            }
            let path = format!("{prefix}/{key}/start");
            api.check_error(("PUT", &path, ""), 404, &message).await;
        }
    }
    for path in ["/v1/instances/%FF", "/v1/tokens/%FF", "/machines/%FF/start"] {
        let method = if path.ends_with("start") {
            "PUT"
        } else {
            "DELETE"
        };
        let message = format!("Unknown route {path}");
        api.check_error((method, path, ""), 404, &message).await;
    }
    let message = "Token '..' not found";
    api.check_error(("DELETE", "/v1/tokens/%2e%2e", ""), 404, message)
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

#[tokio::test]
async fn published_ports_are_shown_as_objects_with_their_state() {
    let api = api().await;
    let request = r#"{"name": "a", "exposed_ports": [80, "53/udp"],
        "publish": ["8080:80 from 10.0.0.0/8,192.0.2.1", {"host_port": 53000, "proto": "udp", "address": "127.0.0.1"}]}"#;
    let (status, made) = api.call("POST", "/v1/instances", request).await;
    assert_eq!(status, 201);
    let published = json!([
        {"host_port": 8080, "guest_port": 80, "proto": "tcp", "address": null,
            "allow_from": ["10.0.0.0/8", "192.0.2.1/32"], "status": "published"},
        {"host_port": 53000, "guest_port": 53000, "proto": "udp", "address": "127.0.0.1", "allow_from": null,
            "status": "published"},
    ]);
    assert_eq!(made["publish"], published);
    assert_eq!(made["exposed_ports"], json!(["53/udp", "80/tcp"]));
    let (_, stopped) = api.call("PUT", "/v1/instances/a/stop", "").await;
    assert_eq!(stopped["publish"][0]["status"], "waiting");
    assert_eq!(stopped["publish"][0]["reason"], "the instance does not run");
    for prefix in ["/v1/instances", "/machines"] {
        let path = format!("{prefix}/a/publish");
        let (status, changed) = api.call("PUT", &path, r#"{"publish": ["9090"]}"#).await;
        assert_eq!((status, &changed["exposed_ports"]), (200, &json!([])));
        assert_eq!(changed["publish"][0]["host_port"], 9090);
        let (_, shown) = api.call("GET", &format!("{prefix}/a"), "").await;
        assert_eq!(shown["publish"], changed["publish"]);
        let (status, none) = api.call("PUT", &path, "{}").await;
        assert_eq!((status, &none["publish"]), (200, &json!([])));
    }
}

#[tokio::test]
async fn a_replacement_of_ports_is_read_as_strictly_as_a_create() {
    let api = api().await;
    api.call(
        "POST",
        "/v1/instances",
        r#"{"name": "b", "publish": ["8080"]}"#,
    )
    .await;
    api.call(
        "POST",
        "/v1/instances",
        r#"{"name": "a", "publish": ["9090"]}"#,
    )
    .await;
    let put = async |body: &str, status: u16, message: &str| {
        api.check_error(("PUT", "/v1/instances/a/publish", body), status, message)
            .await;
    };
    put("[]", 400, "The request must be a JSON object").await;
    put(
        r#"{"publish": [80]}"#,
        400,
        "Member 'publish' must be a list of texts or objects",
    )
    .await;
    put(
        r#"{"publish": [{"host": 80}]}"#,
        400,
        "Unknown member 'host'",
    )
    .await;
    put(
        r#"{"publish": ["8080:80/sctp"]}"#,
        400,
        "Invalid entry '8080:80/sctp' of member 'publish': protocol 'sctp' is not known: use tcp or udp",
    )
    .await;
    put(
        r#"{"exposed_ports": ["x"]}"#,
        400,
        "Invalid entry 'x' of member 'exposed_ports': 'x' is no port: use 1 to 65535",
    )
    .await;
    put(
        r#"{"publish": ["80"]}"#,
        409,
        "Port 80/tcp cannot be published: publish.ports is 1024-65535",
    )
    .await;
    put(
        r#"{"publish": ["8080:81"]}"#,
        409,
        "Port 8080/tcp is already in use by instance \"b\"",
    )
    .await;
    put(
        r#"{"publish": ["192.0.2.9:1024:1"]}"#,
        409,
        "Address 192.0.2.9 cannot be published on: it is not one of this host's",
    )
    .await;
    let (_, shown) = api.call("GET", "/v1/instances/a", "").await;
    assert_eq!(shown["publish"][0]["host_port"], 9090);
}
