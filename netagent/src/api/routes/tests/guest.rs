//! What a guest is configured with, in every format (G-2).

use super::*;
use crate::guest::format::Format;

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
