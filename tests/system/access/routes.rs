//! Every route, its other name, and the bounds of a body.

use std::collections::BTreeSet;

use netagent_tests::http::Answer;
use netagent_tests::world::World;
use serde_json::json;

#[test]
fn a_body_over_16_mib_is_413_and_a_key_twice_is_400() {
    let world = World::new();
    let agent = world.agent("");
    let largest = 16 << 20;
    let padded = |length: usize| {
        let spec = r#"{"name": "padded"}"#;
        format!("{spec}{}", " ".repeat(length - spec.len()))
    };
    let answer = agent.api("POST", "/v1/instances", &padded(largest + 1));
    assert_eq!(
        (answer.status, answer.message()),
        (413, "The body is larger than 16 MiB")
    );
    assert_eq!(agent.api("GET", "/v1/instances", "").body, json!([]));
    let answer = agent.api("POST", "/v1/instances", &padded(largest));
    assert_eq!(answer.status, 201, "{answer:?}");
    for body in [
        r#"{"name": "a", "name": "b"}"#,
        r#"{"network_interfaces": [{"name": "a", "name": "a"}]}"#,
        r#"{"tags": {"x": {"name": 1, "name": 2}}}"#,
        r#"{"name": "a", "\u006eame": "b"}"#,
    ] {
        let answer = agent.api("POST", "/v1/instances", body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(answer.message().contains("'name'"), "{body}: {answer:?}");
    }
    // Depth and length of anything else are bounded too.
    let deep = format!(
        "{{\"tags\": {}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(agent.api("POST", "/v1/instances", &deep).status, 400);
    assert_eq!(agent.api("GET", "/healthz", "").status, 200);
}

#[test]
fn machines_is_another_name_of_every_route() {
    let world = World::new();
    let agent = world.agent("");
    agent.create(&json!({ "name": "alias", "network_interfaces": [{}, {}] }));
    let announcement = json!({ "ip": "172.16.0.2", "port": 80, "protocol": "tcp" }).to_string();
    for (method, suffix, body) in [
        ("GET", "", ""),
        ("GET", "/alias", ""),
        ("GET", "/nobody", ""),
        ("PATCH", "/alias", "{}"),
        ("PUT", "/alias", "{}"),
        ("PUT", "/alias/stop", ""),
        ("PUT", "/alias/start", ""),
        ("PUT", "/alias/announcements", &announcement),
        ("PUT", "/alias/policy", "{}"),
        ("PUT", "/alias/publish", "{}"),
        ("PUT", "/alias/limits", "{}"),
        ("POST", "/alias/template", ""),
        ("POST", "/alias/branch", ""),
        ("POST", "/alias/checkpoint", ""),
        ("GET", "/alias/guest?format=json", ""),
        ("GET", "/alias/nonsense", ""),
        ("POST", "/alias", ""),
        ("POST", "", "{\"name\": \"alias\"}"),
        ("POST", "", "{"),
        ("DELETE", "/nobody", ""),
    ] {
        let [own, alias] = ["/v1/instances", "/machines"]
            .map(|prefix| agent.api(method, &format!("{prefix}{suffix}"), body));
        assert_eq!(
            own.status, alias.status,
            "{method} {suffix}: {own:?} {alias:?}"
        );
        let text = |answer: &Answer| {
            answer
                .body
                .to_string()
                .replace("/machines", "/v1/instances")
        };
        // Counters move between two looks.
        if !(method == "GET" && own.status == 200) {
            assert_eq!(text(&own), text(&alias), "{method} {suffix}");
        }
    }
    assert_eq!(agent.api("DELETE", "/machines/alias", "").status, 204);
    assert_eq!(agent.api("GET", "/v1/instances/alias", "").status, 404);
}

/// Every route of A-1.
const ROUTES: [(&str, &str); 37] = [
    ("get", "/healthz"),
    ("get", "/openapi.json"),
    ("get", "/metrics"),
    ("get", "/v1/flows"),
    ("get", "/v1/explain"),
    ("post", "/v1/instances"),
    ("get", "/v1/instances"),
    ("get", "/v1/instances/{}"),
    ("delete", "/v1/instances/{}"),
    ("patch", "/v1/instances/{}"),
    ("put", "/v1/instances/{}"),
    ("put", "/v1/instances/{}/start"),
    ("put", "/v1/instances/{}/stop"),
    ("put", "/v1/instances/{}/policy"),
    ("put", "/v1/instances/{}/publish"),
    ("put", "/v1/instances/{}/limits"),
    ("put", "/v1/instances/{}/announcements"),
    ("post", "/v1/instances/{}/template"),
    ("post", "/v1/instances/{}/branch"),
    ("post", "/v1/instances/{}/checkpoint"),
    ("get", "/v1/instances/{}/guest"),
    ("post", "/machines"),
    ("get", "/machines"),
    ("get", "/machines/{}"),
    ("delete", "/machines/{}"),
    ("patch", "/machines/{}"),
    ("put", "/machines/{}"),
    ("put", "/machines/{}/start"),
    ("put", "/machines/{}/stop"),
    ("put", "/machines/{}/policy"),
    ("put", "/machines/{}/publish"),
    ("put", "/machines/{}/limits"),
    ("put", "/machines/{}/announcements"),
    ("post", "/machines/{}/template"),
    ("post", "/machines/{}/branch"),
    ("post", "/machines/{}/checkpoint"),
    ("get", "/machines/{}/guest"),
];

#[test]
fn the_openapi_document_lists_every_route_and_every_listed_route_answers() {
    let world = World::new();
    let agent = world.agent("");
    let answer = agent.api("GET", "/openapi.json", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    let document = answer.body;
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3."),
        "{}",
        document["openapi"]
    );
    let mut listed = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        // Names of parameters are the document's own.
        let parts = path
            .split('/')
            .map(|part| if part.starts_with('{') { "{}" } else { part });
        let path = parts.collect::<Vec<_>>().join("/");
        for method in methods.as_object().unwrap().keys() {
            let is_method = ["get", "put", "post", "delete", "patch"].contains(&method.as_str());
            if is_method {
                listed.insert((method.clone(), path.clone()));
            }
        }
    }
    let missing: Vec<_> = ROUTES
        .iter()
        .filter(|(method, path)| !listed.contains(&((*method).to_owned(), (*path).to_owned())))
        .collect();
    assert!(missing.is_empty(), "{missing:?} of {listed:?}");
    for (method, path) in &listed {
        let path = path.replace("{}", "nobody");
        let answer = agent.api(&method.to_uppercase(), &path, "{}");
        let text = answer.body["message"].as_str().unwrap_or_default();
        assert!(
            answer.status != 405 && !text.starts_with("Unknown route"),
            "{method} {path}: {answer:?}"
        );
    }
    let policy = &document["components"]["schemas"]["PolicyRequest"]["properties"];
    let words = json!(["allow-all", "deny-all", "custom"]);
    assert_eq!(policy["network_policy"]["enum"], words, "{policy}");
    // Descriptions refer to nothing that is not there.
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"].get(name).is_some(),
            "no schema {name}"
        );
    }
}
