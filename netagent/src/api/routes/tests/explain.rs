//! O-3: the question in the query, and what is wrong with it.

use netagent_common::drop::DropReason;

use super::*;

#[tokio::test]
async fn a_question_is_answered_with_verdict_rule_and_path() {
    let api = api().await;
    let spec = r#"{"name": "a", "denied_cidrs": ["10.0.0.0/8"], "bandwidth": "5mbit"}"#;
    api.call("POST", "/v1/instances", spec).await;
    let path = "/v1/explain?instance=a&address=10.1.2.3%3A443";
    let (status, answer) = api.call("GET", path, "").await;
    assert_eq!(status, 200, "{answer}");
    let expected = json!({ "instance": "a", "address": "10.1.2.3", "port": 443, "protocol": "tcp", "runs": true,
        "verdict": "denied", "reason": "denied_cidr", "rule": "denied_cidrs: 10.0.0.0/8" });
    for (member, value) in expected.as_object().unwrap() {
        assert_eq!(&answer[member], value, "{answer}");
    }
    assert_eq!(answer["notes"], json!(["limited to bandwidth 5mbit"]));
    let apart = "/v1/explain?instance=a&address=10.1.2.3&port=443&protocol=tcp";
    assert_eq!(api.call("GET", apart, "").await, (200, answer));
}

#[tokio::test]
async fn d3_a_name_is_answered_with_the_entry_that_allows_it() {
    let api = api().await;
    let spec = r#"{"name": "a", "allowed_domains": ["*.GitHub.com"]}"#;
    api.call("POST", "/v1/instances", spec).await;
    let refused = "not in allowed_domains: the agent's resolver answers REFUSED";
    for (asked, name, verdict, rule) in [
        (
            "API.github.com.",
            "api.github.com",
            "allowed",
            "allowed_domains: *.github.com",
        ),
        ("github.com", "github.com", "denied", refused),
    ] {
        let path = format!("/v1/explain?instance=a&address={asked}");
        let expected = json!({ "instance": "a", "name": name, "runs": true, "verdict": verdict, "reason": null,
            "rule": rule, "addresses": [], "notes": [] });
        assert_eq!(api.call("GET", &path, "").await, (200, expected));
    }
    let path = "/v1/explain?instance=a&address=192.0.2.9&port=53&protocol=udp";
    let (_, answer) = api.call("GET", path, "").await;
    let found = [&answer["verdict"], &answer["rule"], &answer["path"]];
    let steered = [
        "allowed",
        "the agent's resolver answers for allowed_domains alone",
        "the agent's resolver, whatever address is asked",
    ];
    assert_eq!(found, steered);
    let (_, document) = api.call("GET", "/openapi.json", "").await;
    let schemas = &document["components"]["schemas"];
    let either = schemas["ExplainBody"]["oneOf"].as_array().unwrap();
    for reference in either {
        let name = reference["$ref"].as_str().unwrap().rsplit('/').next();
        let members = &schemas[name.unwrap()]["properties"];
        assert!(members["verdict"].is_object(), "{reference}");
    }
    assert_eq!(either.len(), 2);
}

#[tokio::test]
async fn what_is_wrong_with_a_question_is_said() {
    let api = api().await;
    api.call("POST", "/v1/instances", r#"{"name": "a"}"#).await;
    for (query, status, message) in [
        ("", 400, "Parameter 'instance' is missing"),
        ("?instance=a", 400, "Parameter 'address' is missing"),
        (
            "?instance=a&address=10.0.0.1&address=10.0.0.2",
            400,
            "Parameter 'address' is given twice",
        ),
        (
            "?instance=a&address=10.0.0.1&colour=red",
            400,
            "Unknown parameter 'colour': use instance, address, port and protocol",
        ),
        (
            "?instance=a&address=1.2.3",
            400,
            "'1.2.3' is no IP address and no name: use 192.0.2.1, 192.0.2.1:443, 2001:db8::1, [2001:db8::1]:443 or example.org",
        ),
        (
            "?instance=a&address=Example.org&port=443",
            400,
            "'example.org' is a name, which has neither port nor protocol: ask for the name alone, and then for an address that it leads to",
        ),
        (
            "?instance=b&address=example.org",
            404,
            "Instance 'b' not found",
        ),
        (
            "?instance=a&address=10.0.0.1&port=0",
            400,
            "'0' is no port: use 1 to 65535",
        ),
        (
            "?instance=b&address=10.0.0.1",
            404,
            "Instance 'b' not found",
        ),
    ] {
        let path = format!("/v1/explain{query}");
        api.check_error(("GET", &path, ""), status, message).await;
    }
}

#[tokio::test]
async fn p14_what_is_audited_is_shown_beside_what_is_dropped() {
    let api = api().await;
    api.agent.host.state().audited = [(DropReason::NotAllowed, 5)].into();
    api.call("POST", "/v1/instances", r#"{"name": "a"}"#).await;
    let (_, shown) = api.call("GET", "/v1/instances/a", "").await;
    for place in [&shown, &shown["network_interfaces"][0]] {
        assert_eq!(place["audited"], json!({ "not_allowed": 5 }));
    }
}
