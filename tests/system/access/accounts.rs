//! What is an account's own, what it may, and how much.

use std::collections::BTreeSet;

use netagent_tests::agent::Agent;
use netagent_tests::world::World;
use serde_json::{Value, json};

use crate::access::{Client, Token, listening};

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
        ("snat_address", json!("198.51.100.7")),
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
