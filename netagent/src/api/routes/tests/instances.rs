//! Requests about instances, and what is wrong with them.

use super::*;

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
        "announced_ports": [], "publish": [], "exposed_ports": [], "network_policy": "allow-all", "audit": false,
        "bandwidth": null, "bandwidth_in": null, "limits": {"pps": null, "flows": null},
        "vcpu_count": 2, "mem_size_mib": 512, "kernel_image_path": ".hyperfleet/vmlinux", "rootfs_path": ".hyperfleet/alpine-rootfs.ext4"
    });
    assert_eq!(made, expected);
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
    let expected = "Invalid relay 'x'. Please make sure the relay exists and does not create a circular dependency";
    api.check_error(post(relay), 400, expected).await;
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
            assert_eq!(api.call("PUT", &path, own).await.0, 200);
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
    assert_eq!(api.count().await, 1);
    assert_eq!(
        api.call("POST", "/v1/instances?chek=true", "{}").await.0,
        400
    );
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
async fn r7_a_relay_is_deleted_by_force_alone() {
    let api = api().await;
    for body in [
        r#"{"name": "gw"}"#,
        r#"{"name": "box", "network_interfaces": [{"relay": {"name": "gw-eth0"}}]}"#,
    ] {
        assert_eq!(api.call("POST", "/v1/instances", body).await.0, 201);
    }
    let (_, made) = api.call("GET", "/v1/instances", "").await;
    let [gw, client] = [0, 1].map(|index| &made[index]["network_interfaces"][0]);
    let relay = json!({"name": "gw-eth0", "relay_dns": true});
    assert_eq!(client["relay"], relay);
    assert_eq!(gw["relay_clients"], json!(["box-eth0"]));
    let (_, shown) = api.call("GET", "/v1/instances/box", "").await;
    let relay = json!({"name": "gw-eth0", "relay_dns": true, "status": "down",
        "reason": "no VMM holds TAP device 'tap0' of instance 'gw'"});
    assert_eq!(shown["network_interfaces"][0]["relay"], relay);
    let refused = "Network interface 'gw-eth0' is the relay of 'box-eth0' of instance 'box': delete those first, or \
        delete it with force (--force): until there is a network interface of that name again, nothing passes to or from them";
    let path = "/v1/instances/gw";
    api.check_error(("DELETE", path, ""), 409, refused).await;
    let delete = |query: &str| ("DELETE", format!("{path}?{query}"), "");
    let (method, unknown, body) = delete("now=true");
    let expected = "Unknown parameter 'now=true': use force=true, or none";
    api.check_error((method, &unknown, body), 400, expected)
        .await;
    let (method, forced, body) = delete("force=true");
    assert_eq!(api.call(method, &forced, body).await.0, 204);
}
