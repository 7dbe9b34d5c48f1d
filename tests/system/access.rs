//! Who may ask, and how: tokens, accounts, permissions and limits, TLS, every route and every word (section A).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_for};
use netagent_tests::http::{Answer, Ask, request_tcp};
use netagent_tests::netns::NetNs;
use netagent_tests::tls::Certificate;
use netagent_tests::world::{HOST_V4, UPLINK, World};
use serde_json::{Value, json};

/// Where the API listens inside the host.
const LISTEN: &str = "127.0.0.1:8080";

/// A token as the command line shows it once.
struct Token {
    id: String,
    secret: String,
}

impl Token {
    fn create(agent: &Agent, account: &str, permissions: &[&str]) -> Self {
        let mut words = vec!["token", "create", "--account", account, "--json"];
        for permission in permissions {
            words.extend(["--permission", *permission]);
        }
        let made = agent.say_json(&words);
        let text = |name: &str| {
            let text = made[name].as_str();
            text.unwrap_or_else(|| panic!("no {name}: {made}"))
                .to_owned()
        };
        Self {
            id: text("id"),
            secret: text("token"),
        }
    }
}

/// Somebody who asks over TCP.
struct Client<'a> {
    host: &'a NetNs,
    authorization: Option<String>,
}

impl<'a> Client<'a> {
    fn new(world: &'a World, token: &Token) -> Self {
        Self {
            host: &world.host,
            authorization: Some(format!("Bearer {}", token.secret)),
        }
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let ask = Ask {
            method,
            path,
            body: &body,
            authorization: self.authorization.as_deref(),
        };
        request_tcp(self.host, LISTEN.parse().unwrap(), &ask).unwrap()
    }

    fn create(&self, spec: &Value) -> Value {
        let answer = self.ask("POST", "/v1/instances", spec);
        assert_eq!(
            (answer.status, &answer.body["status"]),
            (201, &json!("running")),
            "{spec}: {answer:?}"
        );
        answer.body
    }

    fn refuse(&self, spec: &Value, (status, message): (u16, &str)) {
        let answer = self.ask("POST", "/v1/instances", spec);
        assert_eq!(
            (answer.status, answer.message()),
            (status, message),
            "{spec}"
        );
    }

    fn names(&self) -> Vec<String> {
        let list = self.ask("GET", "/v1/instances", &Value::Null);
        let name = |instance: &Value| instance["name"].as_str().unwrap().to_owned();
        list.body.as_array().unwrap().iter().map(name).collect()
    }
}

fn listening(more: &str) -> String {
    format!("[api]\nlisten = \"{LISTEN}\"\n{more}")
}

/// Headers that are not `token`'s.
fn wrong_headers(token: &Token) -> Vec<Option<String>> {
    let right = &token.secret;
    let (start, last) = right.split_at(right.len() - 1);
    let flipped = if last == "0" { "1" } else { "0" };
    vec![
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some(format!("Bearer {start}{flipped}")),
        Some(format!("Bearer {right}0")),
        Some(format!("Bearer {start}")),
        Some(format!("Basic {right}")),
        Some(right.clone()),
        Some(format!("Bearer {}", token.id)),
    ]
}

#[test]
fn a_token_names_an_account_and_whoever_has_none_is_turned_away() {
    let world = World::new();
    let agent = world.agent(&listening(""));
    let token = Token::create(&agent, "acme", &["net_manager"]);
    let acme = Client::new(&world, &token);
    acme.create(&json!({ "name": "mine" }));
    for authorization in wrong_headers(&token) {
        let stranger = Client {
            host: &world.host,
            authorization,
        };
        for (method, path) in [
            ("GET", "/v1/instances"),
            ("POST", "/v1/instances"),
            ("DELETE", "/v1/instances/mine"),
            ("GET", "/machines/mine"),
            ("GET", "/v1/plan"),
        ] {
            let answer = stranger.ask(method, path, &json!({}));
            let who = &stranger.authorization;
            assert_eq!(answer.status, 401, "{who:?} {method} {path}: {answer:?}");
            assert!(!answer.message().is_empty());
        }
    }
    assert_eq!(acme.names(), ["mine"]);
}

#[test]
fn tokens_are_kept_as_hashes_survive_the_agent_and_end_when_they_are_revoked() {
    let world = World::new();
    let mut agent = world.agent(&listening(""));
    let token = Token::create(&agent, "acme", &["net_manager"]);
    let other = Token::create(&agent, "acme", &[]);
    assert!(token.secret.len() >= 32 && token.secret != other.secret);
    let acme = Client::new(&world, &token);
    acme.create(&json!({ "name": "mine" }));
    // A secret is shown once.
    let list = agent.say_json(&["token", "ls", "--json"]);
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    let kept = netagent_tests::database::rows(agent.state_dir());
    for place in [list.to_string(), format!("{kept:?}"), agent.log()] {
        assert!(!place.contains(&token.secret), "the secret itself: {place}");
    }
    assert!(list.to_string().contains(&token.id), "{list}");

    agent.kill9();
    agent.run();
    assert_eq!(acme.names(), ["mine"]);
    assert!(agent.say(&["token", "revoke", &token.id]).status.success());
    let status = || acme.ask("GET", "/v1/instances", &Value::Null).status;
    assert_eq!(status(), 401);
    let other = Client::new(&world, &other);
    assert_eq!(other.names(), ["mine"], "the account's other token goes on");
    agent.kill9();
    agent.run();
    assert_eq!(status(), 401, "revoked for good");
    for id in [
        token.id.as_str(),
        "00000000-0000-4000-8000-000000000000",
        "x",
    ] {
        let again = agent.say(&["token", "revoke", id]);
        assert!(!again.status.success(), "{id} is not in force: {again:?}");
    }
}

/// Two accounts that may everything.
fn two_accounts<'a>(world: &'a World, agent: &Agent) -> [Client<'a>; 2] {
    ["acme", "globex"]
        .map(|account| Client::new(world, &Token::create(agent, account, &["net_manager"])))
}

#[test]
fn names_are_an_accounts_own_and_what_is_the_hosts_is_unique_across_accounts() {
    let world = World::new();
    let agent = world.agent(&listening(""));
    let [acme, globex] = two_accounts(&world, &agent);
    let same = json!({ "name": "same", "network_interfaces": [{ "name": "front" }] });
    let made = [
        acme.create(&same),
        globex.create(&same),
        agent.create(&same),
    ];
    for client in [&acme, &globex] {
        client.refuse(&same, (409, "Instance name 'same' is already in use"));
    }
    let own = |client: &Client<'_>| {
        let shown = client.ask("GET", "/v1/instances/same", &Value::Null);
        shown.body["id"].clone()
    };
    // The unix socket is an account of its own.
    let seen = [
        own(&acme),
        own(&globex),
        agent.inspect("same")["id"].clone(),
    ];
    assert_eq!(
        seen,
        [0, 1, 2].map(|index: usize| made[index]["id"].clone())
    );
    let addresses: BTreeSet<_> = made
        .iter()
        .map(|made| made["private_ip"].to_string())
        .collect();
    assert_eq!(addresses.len(), 3);

    let custom = |ip: &str, tap: &str| json!({ "name": "custom", "network_interfaces": [{ "ip": ip, "tap_name": tap }] });
    acme.create(&custom("10.7.0.5/24", "vpc0"));
    let address = "Network interface IP address '10.7.0.5/24' is already in use";
    globex.refuse(&custom("10.7.0.5/24", "vpc1"), (409, address));
    let device = "TAP device 'vpc0' is already in use by another network interface";
    globex.refuse(&custom("10.7.0.6/24", "vpc0"), (409, device));
}

#[test]
fn another_accounts_instances_do_not_exist() {
    let world = World::new();
    let agent = world.agent(&listening(""));
    let [acme, globex] = two_accounts(&world, &agent);
    let made = acme.create(&json!({ "name": "secret" }));
    globex.create(&json!({ "name": "own" }));
    for key in ["secret", made["id"].as_str().unwrap()] {
        let expected = format!("Instance '{key}' not found");
        for (method, suffix) in [
            ("GET", ""),
            ("DELETE", ""),
            ("PUT", "/start"),
            ("PUT", "/stop"),
            ("PUT", "/announcements"),
            ("POST", "/template"),
            ("POST", "/branch"),
            ("POST", "/checkpoint"),
        ] {
            for prefix in ["/v1/instances", "/machines"] {
                let body = match suffix {
                    "/announcements" => {
                        json!({ "ip": "172.16.0.2", "port": 80, "protocol": "tcp" })
                    }
                    _ => Value::Null,
                };
                let path = format!("{prefix}/{key}{suffix}");
                let answer = globex.ask(method, &path, &body);
                let got = (answer.status, answer.message());
                assert_eq!(got, (404, expected.as_str()), "{method} {path}");
            }
        }
    }
    let shown = acme.ask("GET", "/v1/instances/secret", &Value::Null);
    assert_eq!(shown.body["status"], "running");
    assert_eq!(
        (acme.names(), globex.names()),
        (vec!["secret".into()], vec!["own".into()])
    );
    // What concerns the whole host is not for tokens.
    for path in ["/v1/plan", "/v1/tokens"] {
        let answer = acme.ask("GET", path, &Value::Null);
        assert_eq!(answer.status, 403, "{path}: {answer:?}");
    }
}

#[test]
fn without_net_manager_the_custom_members_look_non_existent() {
    let world = World::new();
    let agent = world.agent(&listening(""));
    let token = Token::create(&agent, "plain", &[]);
    let plain = Client::new(&world, &token);
    for (member, value) in [
        ("network_interfaces", json!([{}])),
        (
            "network_interfaces",
            json!([{ "ip": "10.7.0.5/24", "tap_name": "vpc0" }]),
        ),
        ("network_interfaces", Value::Null),
        ("network_interfaces", json!("not even a list")),
        ("gateway", json!("10.0.0.1")),
        ("nameserver", json!("10.0.0.1")),
    ] {
        let text = format!("Unknown member '{member}'");
        plain.refuse(&json!({ member: value }), (400, &text));
    }
    let made = plain.create(&json!({ "name": "simple", "vcpu_count": 2 }));
    assert_eq!(made["network_interfaces"][0]["tap_name"], "tap0");
    let manager =
        Client::new(&world, &Token::create(&agent, "plain", &["net_manager"])).create(&json!({
            "network_interfaces": [{}], "gateway": "10.0.0.1",
        }));
    assert_eq!(manager["gateway"], "10.0.0.1");
    let unknown = agent.say(&[
        "token",
        "create",
        "--account",
        "plain",
        "--permission",
        "everything",
    ]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    let bad = agent.say(&["token", "create", "--account", "No Account"]);
    assert!(!bad.status.success(), "{bad:?}");
}

#[test]
fn an_account_without_the_feature_is_told_about_its_license() {
    let world = World::new();
    let agent = world.agent(&listening("[accounts.basic]\ncustom_network = false\n"));
    let basic = Client::new(&world, &Token::create(&agent, "basic", &["net_manager"]));
    let text = "Insufficient license. Please make sure your license is valid and includes custom network configurations";
    for spec in [
        json!({ "network_interfaces": [{ "ip": "10.7.0.5/24", "tap_name": "vpc0" }] }),
        json!({ "gateway": "10.0.0.1" }),
        json!({ "nameserver": "10.0.0.1" }),
    ] {
        basic.refuse(&spec, (403, text));
    }
    basic.create(&json!({ "name": "simple" }));
    let full = Client::new(&world, &Token::create(&agent, "full", &["net_manager"]));
    full.create(&json!({ "gateway": "10.0.0.1" }));
}

#[test]
fn limits_of_host_and_account_are_507_and_named() {
    let world = World::new();
    let agent = world.agent(&listening(
        "[limits]\ninstances = 3\n[accounts.small]\ninstances = 1\n",
    ));
    let small = Client::new(&world, &Token::create(&agent, "small", &[]));
    small.create(&json!({ "name": "only" }));
    small.refuse(
        &json!({}),
        (
            507,
            "Account 'small' may have 1 instances, and has them already",
        ),
    );
    // Reserved is as much as running.
    agent.create(&json!({}));
    let pending = agent.api("POST", "/v1/instances", r#"{"autostart": false}"#);
    assert_eq!(pending.status, 201, "{pending:?}");
    agent.refuse(
        &json!({}),
        (507, "limits.instances = 3 instances exist already"),
    );
    assert_eq!(
        small
            .ask("DELETE", "/v1/instances/only", &Value::Null)
            .status,
        204
    );
    small.create(&json!({}));
}

#[test]
fn a_token_uses_no_existing_tap_unless_the_configuration_names_it() {
    let world = World::new();
    for name in ["vpc1", "vpc2"] {
        world.host.ip(&format!("tuntap add dev {name} mode tap"));
    }
    let agent = world.agent(&listening("[modes]\ntaps = [\"vpc2\"]\n"));
    let acme = Client::new(&world, &Token::create(&agent, "acme", &["net_manager"]));
    let custom =
        |ip: &str, tap: &str| json!({ "network_interfaces": [{ "ip": ip, "tap_name": tap }] });
    let refused = acme.ask("POST", "/v1/instances", &custom("10.7.0.1/24", "vpc1"));
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.message().contains("vpc1"), "{refused:?}");
    acme.create(&custom("10.7.0.2/24", "vpc2"));
    acme.create(&custom("10.7.0.3/24", "vpc3"));
}

#[test]
fn off_loopback_the_api_speaks_tls_or_does_not_start() {
    let world = World::new();
    for listen in ["0.0.0.0:8080", "[::]:8080", &format!("{HOST_V4}:8080")] {
        let configuration = format!("[api]\nlisten = \"{listen}\"\n");
        let mut agent = Agent::prepare(&world.host, Some(UPLINK), &configuration);
        let output = agent.run_to_end();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{listen}: {complaint}");
        assert!(complaint.contains("api.tls_cert"), "{listen}: {complaint}");
    }
    let directory = tempfile::tempdir().unwrap();
    let certificate = Certificate::create(directory.path(), &[&HOST_V4.to_string()]);
    let configuration = format!(
        "[api]\nlisten = \"{HOST_V4}:8443\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
        certificate.certificate.display(),
        certificate.key.display()
    );
    let agent = world.agent(&configuration);
    let token = Token::create(&agent, "acme", &[]);
    let bearer = format!("Bearer {}", token.secret);
    let ask = |authorization| Ask {
        method: "POST",
        path: "/v1/instances",
        body: "{\"name\": \"over-tls\"}",
        authorization,
    };
    let address: SocketAddr = (HOST_V4, 8_443).into();
    // From the world, as an operator's machine would ask.
    let answer = certificate
        .request(&world.outside, address, &ask(Some(&bearer)))
        .unwrap();
    assert_eq!(
        (answer.status, &answer.body["name"]),
        (201, &json!("over-tls")),
        "{answer:?}"
    );
    let answer = certificate
        .request(&world.outside, address, &ask(None))
        .unwrap();
    assert_eq!(answer.status, 401, "{answer:?}");
    let plain = request_tcp(&world.outside, address, &ask(Some(&bearer)));
    assert!(plain.is_err(), "without TLS: {plain:?}");
    let stranger =
        Certificate::create(tempfile::tempdir().unwrap().path(), &[&HOST_V4.to_string()]);
    let refused = stranger.request(&world.outside, address, &ask(Some(&bearer)));
    assert!(
        refused.is_err(),
        "another server's certificate: {refused:?}"
    );
    // Who connects and says nothing keeps nobody else waiting.
    let _silent = world
        .outside
        .run(|| std::net::TcpStream::connect(address))
        .unwrap();
    let again = certificate
        .request(&world.outside, address, &ask(Some(&bearer)))
        .unwrap();
    assert_eq!(again.status, 409, "{again:?}");
}

#[test]
fn tls_files_that_cannot_be_used_are_named_at_start() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let certificate = Certificate::create(directory.path(), &["127.0.0.1"]);
    let garbage = directory.path().join("garbage.pem");
    std::fs::write(&garbage, "no certificate").unwrap();
    let missing = directory.path().join("missing.pem");
    for (cert, key, named) in [
        (&missing, &certificate.key, "missing.pem"),
        (&certificate.certificate, &missing, "missing.pem"),
        (&garbage, &certificate.key, "garbage.pem"),
        (&certificate.certificate, &garbage, "garbage.pem"),
    ] {
        let configuration = format!(
            "[api]\nlisten = \"{LISTEN}\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
            cert.display(),
            key.display()
        );
        let mut agent = Agent::prepare(&world.host, Some(UPLINK), &configuration);
        let output = agent.run_to_end();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && complaint.contains(named),
            "{named}: {complaint}"
        );
    }
}

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

#[test]
fn every_word_prints_json_where_it_is_asked_to() {
    let world = World::new();
    let agent = world.agent("");
    for words in [
        &["create", "--name", "worded", "--json"][..],
        &["ls", "--json"],
        &["inspect", "worded", "--json"],
        &["stop", "worded", "--json"],
        &["start", "worded", "--json"],
        &["plan", "--json"],
        &["rm", "worded", "--json"],
        &["token", "create", "--account", "acme", "--json"],
        &["token", "ls", "--json"],
        &["doctor", "--json"],
    ] {
        let output = agent.say(words);
        let text = String::from_utf8(output.stdout).unwrap();
        let parsed = serde_json::from_str::<Value>(&text);
        assert!(parsed.is_ok(), "{words:?}: {text}");
        assert!(
            output.status.success() || words[0] == "doctor",
            "{words:?}: {text}"
        );
    }
    let token = &agent.say_json(&["token", "ls", "--json"])[0]["id"];
    let _revoked = agent.say_json(&["token", "revoke", token.as_str().unwrap(), "--json"]);
    // Without it, tables for people.
    agent.create(&json!({ "name": "tabled" }));
    for words in [
        &["ls"][..],
        &["inspect", "tabled"],
        &["stop", "tabled"],
        &["token", "ls"],
    ] {
        let output = agent.say(words);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && !text.trim().is_empty(),
            "{words:?}: {text}"
        );
        assert!(
            serde_json::from_str::<Value>(&text).is_err(),
            "{words:?}: {text}"
        );
    }
}

#[test]
fn completions_and_man_pages_are_there() {
    let agent = Agent::prepare(&NetNs::new(), None, "");
    for shell in ["bash", "zsh", "fish"] {
        let output = agent.say(&["completions", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{shell}: {script}");
        for word in ["netagent", "inspect", "token", "revoke", "completions"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let output = agent.say(&["man", "--out", &directory.path().to_string_lossy()]);
    assert!(output.status.success(), "{output:?}");
    let pages = std::fs::read_dir(directory.path()).unwrap();
    let pages: BTreeSet<_> = pages
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    for page in [
        "netagent.1",
        "netagent-create.1",
        "netagent-run.1",
        "netagent-token.1",
    ] {
        assert!(pages.contains(page), "no {page}: {pages:?}");
    }
    let main = std::fs::read_to_string(directory.path().join("netagent.1")).unwrap();
    assert!(main.contains("Exit status"), "{main}");
}

#[test]
fn the_exit_code_says_whether_it_was_done_refused_mistyped_or_nobody_listened() {
    let world = World::new();
    let mut agent = world.agent("");
    let check = |agent: &Agent, words: &[&str], code: i32| {
        let output = agent.say(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        if code != 0 {
            let is_told = output.stdout.is_empty() && !output.stderr.is_empty();
            assert!(is_told, "{words:?}: {output:?}");
        }
    };
    for (words, code) in [
        (&["ls"][..], 0),
        (&["--version"], 0),
        (&["--help"], 0),
        (&["inspect", "nobody"], 1),
        (&["rm", "nobody"], 1),
        (&["create", "--name", "Bad Name"], 1),
        (&["create", "--ip", "10.7.0.5/24"], 1),
        (&["token", "revoke", "nobody"], 1),
        (&["frobnicate"], 2),
        (&["ls", "--frobnicate"], 2),
        (&["inspect"], 2),
        (&["create", "-f", "-", "--name", "both"], 2),
        (&["token", "create", "--permission", "everything"], 2),
    ] {
        check(&agent, words, code);
    }
    agent.stop();
    for words in [&["ls"][..], &["inspect", "nobody"], &["token", "ls"]] {
        check(&agent, words, 4);
    }
}

#[test]
fn create_takes_the_flags_of_the_guides() {
    let world = World::new();
    let agent = world.agent("");
    let made = agent.say_json(&[
        "create",
        "--name",
        "flagged",
        "--interface-name",
        "front",
        "--ip",
        "192.168.0.1/30",
        "--ip6",
        "fec0::2/64",
        "--tap-name",
        "vpc0",
        "--gateway",
        "192.168.0.100",
        "--nameserver",
        "1.2.3.4",
        "--autoconfig",
        "false",
        "--mac",
        "02:00:00:00:00:0a",
        "--no-netns",
        "--network-policy",
        "allow-all",
        "--json",
    ]);
    let first = &made["network_interfaces"][0];
    let found = [
        &first["name"],
        &first["ip"],
        &first["ip6"],
        &first["tap_name"],
        &first["autoconfig"],
    ];
    let expected = json!(["front", "192.168.0.1/30", "fec0::2/64", "vpc0", false]);
    assert_eq!(json!(found), expected, "{made}");
    assert_eq!(
        (&made["gateway"], &made["nameserver"]),
        (&json!("192.168.0.100"), &json!("1.2.3.4"))
    );
    // Known, and of later issues.
    for words in [
        &["--allowed-domain", "a.example,b.example"][..],
        &[
            "--allowed-cidr",
            "10.0.0.0/8",
            "--allowed-cidr",
            "11.0.0.0/8",
        ],
        &["--denied-cidr", "10.0.0.0/8"],
        &["--bandwidth", "10mbit"],
    ] {
        let output = agent.say(&[&["create"], words].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {text}");
        assert!(text.contains("Not supported yet"), "{words:?}: {text}");
    }
}

#[test]
fn systemd_is_told_of_start_life_and_end() {
    let world = World::new();
    let mut agent = Agent::prepare(&world.host, Some(UPLINK), "");
    let path = agent.directory().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut said = String::new();
    let mut hears = |what: &str, count: usize| {
        wait_for(&format!("the agent says {what}"), SOON, || {
            let mut buffer = [0; 4_096];
            if let Ok(length) = socket.recv(&mut buffer) {
                said.push_str(&String::from_utf8_lossy(&buffer[..length]));
                said.push('\n');
            }
            (said.lines().filter(|line| *line == what).count() >= count).then_some(())
        });
        said.clone()
    };
    agent.set_env("NOTIFY_SOCKET", &path.to_string_lossy());
    agent.set_env("WATCHDOG_USEC", "400000");
    agent.run();
    let said = hears("READY=1", 1);
    assert!(!said.contains("STOPPING"), "{said}");
    hears("WATCHDOG=1", 5);
    agent.stop();
    let said = hears("STOPPING=1", 1);
    assert_eq!(
        said.lines().filter(|line| *line == "READY=1").count(),
        1,
        "{said}"
    );
}
