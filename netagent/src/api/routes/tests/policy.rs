use super::*;

const PREFIXES: [&str; 2] = ["/v1/instances", "/machines"];

/// The members of an instance that say its policy and its limits.
fn part(shown: &Value) -> Value {
    let members = [
        "network_policy",
        "allowed_domains",
        "allowed_domain_count",
        "allowed_cidrs",
        "allowed_cidr_count",
        "denied_cidrs",
        "denied_cidr_count",
        "audit",
        "bandwidth",
        "bandwidth_in",
        "limits",
    ];
    let present = members.iter().filter_map(|name| {
        let value = shown.get(*name)?;
        Some(((*name).to_owned(), value.clone()))
    });
    Value::Object(present.collect())
}

fn none() -> Value {
    json!({"network_policy": "allow-all", "audit": false, "bandwidth": null, "bandwidth_in": null,
        "limits": {"pps": null, "flows": null}})
}

const FIXED: &str = "Network interfaces cannot be changed after creation";
/// Route, body, status and text.
const REFUSED: &[(&str, &str, u16, &str)] = &[
    (
        "policy",
        r#"{"allowed_cidrs": ["11.0.0.0/8", "0.0.0.0"]}"#,
        400,
        "Invalid CIDR format: \"0.0.0.0\". Expected format: x.x.x.x/y",
    ),
    (
        "policy",
        r#"{"denied_cidrs": ["::"]}"#,
        400,
        "Invalid CIDR format: \"::\". Expected format: x.x.x.x/y",
    ),
    (
        "policy",
        r#"{"denied_cidrs": ["::ffff:0:0/96"]}"#,
        400,
        "Invalid CIDR format: \"::ffff:0:0/96\". Expected format: x.x.x.x/y",
    ),
    (
        "policy",
        r#"{"denied_cidrs": ["1.0.0.0/33"]}"#,
        400,
        "Invalid CIDR prefix length: 33",
    ),
    (
        "policy",
        r#"{"denied_cidrs": ["::/129"]}"#,
        400,
        "Invalid CIDR prefix length: 129",
    ),
    ("policy", r#"{"colour": 1}"#, 400, "Unknown member 'colour'"),
    (
        "policy",
        r#"{"bandwidth": 1}"#,
        400,
        "Unknown member 'bandwidth'",
    ),
    ("policy", r#"{"gateway": null}"#, 409, FIXED),
    (
        "policy",
        r#"{"audit": 1}"#,
        400,
        "Member 'audit' must be true or false",
    ),
    (
        "policy",
        r#"{"allowed_domains": ["example.org", "https://example.org"]}"#,
        400,
        "Invalid domain: \"https://example.org\": a label has other characters than letters, digits, - and _. Expected a name like api.example.com, or *.example.com for all names below it",
    ),
    (
        "policy",
        r#"{"allowed_domains": ["192.0.2.1"]}"#,
        400,
        "Invalid domain: \"192.0.2.1\": an address belongs into allowed_cidrs. Expected a name like api.example.com, or *.example.com for all names below it",
    ),
    (
        "policy",
        r#"{"allowed_domains": "example.org"}"#,
        400,
        "Member 'allowed_domains' must be a list of texts",
    ),
    ("policy", "[]", 400, "The request must be a JSON object"),
    (
        "policy",
        r#"{"network_policy": "deny-all", "allowed_domains": ["example.org"]}"#,
        400,
        "Cannot combine --network-policy deny-all with --allowed-domain, --allowed-cidr, or --denied-cidr.",
    ),
    (
        "policy",
        r#"{"network_policy": "custom"}"#,
        400,
        "Network policy 'custom' needs allowed_domains, allowed_cidrs or denied_cidrs",
    ),
    (
        "limits",
        r#"{"bandwidth": "x"}"#,
        400,
        "Invalid value 'x' of member 'bandwidth': use a number of Mbit/s, or one with kbit, mbit or gbit behind it, from 1kbit to 100gbit",
    ),
    (
        "limits",
        r#"{"bandwidth_in": 0}"#,
        400,
        "Invalid value '0' of member 'bandwidth_in': use a number of Mbit/s, or one with kbit, mbit or gbit behind it, from 1kbit to 100gbit",
    ),
    (
        "limits",
        r#"{"limits": {"qps": 1}}"#,
        400,
        "Unknown member 'qps'",
    ),
    (
        "limits",
        r#"{"audit": true}"#,
        400,
        "Unknown member 'audit'",
    ),
    ("limits", r#"{"mtu": 1}"#, 409, FIXED),
    (
        "limits",
        r#"{"limits": {"flows": 9999}}"#,
        409,
        "Member 'flows' cannot be 9999: limits.flows of the configuration allows an instance 8192",
    ),
];

#[tokio::test]
async fn p9_a_policy_is_replaced_whole_and_shown() {
    let api = api().await;
    let made = r#"{"name": "a", "allowed_cidrs": ["10.0.0.1/8", "::/0"], "denied_cidrs": [], "audit": true}"#;
    let (status, made) = api.call("POST", "/v1/instances", made).await;
    assert_eq!(status, 201, "{made}");
    let mut expected = none();
    expected["network_policy"] = "custom".into();
    expected["allowed_cidrs"] = json!(["10.0.0.0/8", "::/0"]);
    expected["denied_cidrs"] = json!([]);
    expected["audit"] = true.into();
    assert_eq!(part(&made), expected);
    let (_, shown) = api.call("GET", "/v1/instances/a", "").await;
    assert_eq!(part(&shown), expected);
    for prefix in PREFIXES {
        let path = format!("{prefix}/a/policy");
        let body = r#"{"denied_cidrs": ["192.0.2.0/24"]}"#;
        let (status, shown) = api.call("PUT", &path, body).await;
        assert_eq!(status, 200, "{shown}");
        let mut expected = none();
        expected["network_policy"] = "custom".into();
        expected["denied_cidrs"] = json!(["192.0.2.0/24"]);
        assert_eq!(part(&shown), expected);
        let (_, shown) = api.call("PUT", &path, "{}").await;
        assert_eq!(part(&shown), none());
    }
}

#[tokio::test]
async fn d3_allowed_domains_are_shown_as_they_are_understood() {
    let api = api().await;
    let made = r#"{"name": "a", "allowed_domains": ["*.GitHub.com.", "bücher.example", "api.example.com", "*.github.com"]}"#;
    let (status, made) = api.call("POST", "/v1/instances", made).await;
    assert_eq!(status, 201, "{made}");
    let mut expected = none();
    expected["network_policy"] = "custom".into();
    expected["allowed_domains"] =
        json!(["api.example.com", "xn--bcher-kva.example", "*.github.com"]);
    assert_eq!(part(&made), expected);
    let body = r#"{"allowed_domains": [], "audit": true}"#;
    for prefix in PREFIXES {
        let path = format!("{prefix}/a/policy");
        let (status, shown) = api.call("PUT", &path, body).await;
        assert_eq!(status, 200, "{shown}");
        expected["allowed_domains"] = json!([]);
        expected["audit"] = true.into();
        assert_eq!(part(&shown), expected);
    }
}

#[tokio::test]
async fn limits_are_replaced_whole_and_shown() {
    let api = api().await;
    api.call("POST", "/v1/instances", r#"{"name": "a"}"#).await;
    for prefix in PREFIXES {
        let path = format!("{prefix}/a/limits");
        let body = r#"{"bandwidth": 50, "bandwidth_in": "1.5gbit", "limits": {"pps": 5}}"#;
        let (status, shown) = api.call("PUT", &path, body).await;
        assert_eq!(status, 200, "{shown}");
        let mut expected = none();
        expected["bandwidth"] = "50mbit".into();
        expected["bandwidth_in"] = "1500mbit".into();
        expected["limits"]["pps"] = 5.into();
        assert_eq!(part(&shown), expected);
        let (_, shown) = api.call("PUT", &path, "{}").await;
        assert_eq!(part(&shown), none());
    }
}

#[tokio::test]
async fn lists_are_counted_where_they_are_not_asked_for() {
    let api = api().await;
    let made = r#"{"name": "a", "allowed_domains": ["*.a.example"], "allowed_cidrs": ["10.0.0.0/8", "::/0"], "denied_cidrs": []}"#;
    api.call("POST", "/v1/instances", made).await;
    let mut expected = none();
    expected["network_policy"] = "custom".into();
    expected["allowed_domain_count"] = 1.into();
    expected["allowed_cidr_count"] = 2.into();
    expected["denied_cidr_count"] = 0.into();
    let (_, list) = api.call("GET", "/v1/instances", "").await;
    assert_eq!(part(&list[0]), expected);
    for word in ["stop", "start"] {
        let path = format!("/v1/instances/a/{word}");
        let (_, shown) = api.call("PUT", &path, "").await;
        assert_eq!(part(&shown), expected, "{word}");
    }
}

#[tokio::test]
async fn what_is_refused_leaves_the_old_policy_and_limits_to_the_last_byte() {
    let api = api().await;
    let made = r#"{"name": "a", "allowed_cidrs": ["10.0.0.0/8"], "bandwidth": 7}"#;
    api.call("POST", "/v1/instances", made).await;
    let (_, before) = api.call("GET", "/v1/instances/a", "").await;
    let many = json!({ "denied_cidrs": vec!["10.0.0.0/8"; 100_001] }).to_string();
    let text = "Member 'denied_cidrs' has 100001 entries, and may have 100000";
    let long = [("policy", &*many, 400, text)];
    for (route, body, status, message) in REFUSED.iter().copied().chain(long) {
        for prefix in PREFIXES {
            let path = format!("{prefix}/a/{route}");
            api.check_error(("PUT", &path, body), status, message).await;
        }
    }
    let (_, after) = api.call("GET", "/v1/instances/a", "").await;
    assert_eq!(after, before);
    let missing = "Instance 'b' not found";
    for route in ["policy", "limits"] {
        let path = format!("/v1/instances/b/{route}");
        api.check_error(("PUT", &path, "{}"), 404, missing).await;
    }
}
