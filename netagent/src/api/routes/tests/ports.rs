//! Published ports in requests and answers.

use super::*;

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
        "Port 80/tcp cannot be published: publish.ports of the configuration is 1024-65535",
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
        "Address 192.0.2.9 cannot be published on: it is not one of this host's; add it with 'ip address add', or name another",
    )
    .await;
    let (_, shown) = api.call("GET", "/v1/instances/a", "").await;
    assert_eq!(shown["publish"][0]["host_port"], 9090);
}
