//! Lists of names as users give them, and see them (D-3, O-3).

use netagent_tests::agent::Agent;
use netagent_tests::resolve::dig;
use serde_json::{Value, json};

use super::{Scene, both, host, texts};
use crate::policy::site::serve;

/// Entries that are no names, and a part of what is said of each.
const BAD: [(&str, &str); 14] = [
    ("https://example.org", "other characters"),
    ("example.org:443", "other characters"),
    ("a b.test", "other characters"),
    ("192.0.2.1", "an address belongs into allowed_cidrs"),
    ("2001:db8::1", "an address belongs into allowed_cidrs"),
    ("*", "a * stands for the first label alone"),
    ("*.", "a * stands for the first label alone"),
    ("a.*.test", "a * stands for the first label alone"),
    ("a*.test", "a * stands for the first label alone"),
    ("**.test", "a * stands for the first label alone"),
    ("a..test", "a label is empty"),
    (".a.test", "a label is empty"),
    ("-a.test", "begins or ends with a hyphen"),
    ("a-.test", "begins or ends with a hyphen"),
];

fn shown(agent: &Agent) -> Value {
    let shown = agent.inspect("a");
    json!([
        shown["network_policy"],
        shown["allowed_domains"],
        shown["allowed_cidrs"]
    ])
}

#[test]
fn d3_the_command_line_gives_lists_of_names_and_replaces_them() {
    let records = [host("a.test", 0, 300), host("x.b.test", 1, 300)];
    let scene = Scene::new(&texts(&records));
    let servers = [both(0), both(1)].concat();
    let _servers = serve(&scene.world.outside, &servers);
    let made = scene.agent.say_json(&[
        "create",
        "--name",
        "a",
        "--allowed-domain",
        "A.test.,*.B.Test",
        "--allowed-domain",
        "bücher.test",
        "--allowed-cidr",
        "192.0.2.0/24",
        "--json",
    ]);
    let names = json!(["*.b.test", "a.test", "xn--bcher-kva.test"]);
    assert_eq!(made["network_policy"], "custom", "{made}");
    let mut list: Vec<&str> = made["allowed_domains"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    list.sort_unstable();
    assert_eq!(json!(list), names, "{made}");
    let nic = &made["network_interfaces"][0];
    let site = {
        let opened = netagent_tests::guest::Nic::open(
            &scene.world.host,
            nic,
            netagent_tests::tap::Header::Vnet,
        );
        super::Site {
            gateway_v4: opened.gateway_v4,
            stack: netagent_tests::stack::Stack::boot(opened, 1_500),
        }
    };
    let gateway = site.gateways()[0].clone();
    let ask = |name: &str| dig(site.netns(), &format!("@{gateway} {name}"));
    assert!(ask("a.test").is("NOERROR") && ask("x.b.test").is("NOERROR"));
    site.check_open(both(1)[0]);
    let replaced = scene
        .agent
        .say(&["network", "a", "--allowed-domain", "a.test"]);
    assert!(replaced.status.success(), "{replaced:?}");
    assert_eq!(shown(&scene.agent), json!(["custom", ["a.test"], null]));
    assert!(ask("x.b.test").is("REFUSED"));
    site.check_closed(both(1)[0]);
    site.check_open(both(0)[0]);
    let said = scene.agent.cli("explain", &["a", "A.Test."]);
    for line in ["verdict  allowed", "rule     allowed_domains: a.test"] {
        assert!(said.lines().any(|one| one == line), "{line}: {said}");
    }
    let address = format!("address  {}, ", both(0)[0]);
    assert!(said.lines().any(|one| one.starts_with(&address)), "{said}");
    let said = scene.agent.cli("explain", &["a", "x.b.test"]);
    assert!(said.starts_with("verdict  denied\n"), "{said}");
    let emptied = scene.agent.say(&["network", "a", "--allowed-domain", ""]);
    assert!(emptied.status.success(), "{emptied:?}");
    assert_eq!(shown(&scene.agent), json!(["custom", [], null]));
    assert!(ask("a.test").is("REFUSED"));
}

#[test]
fn d3_a_bad_entry_is_named_and_the_list_before_stays_in_force() {
    let records = [host("a.test", 0, 300), host("b.test", 1, 300)];
    let scene = Scene::new(&texts(&records));
    let _servers = serve(&scene.world.outside, &both(0));
    let site = scene.listed("a", &["a.test"]);
    let gateway = site.gateways()[0].clone();
    let ask = |name: &str| dig(site.netns(), &format!("@{gateway} {name}"));
    assert!(ask("a.test").is("NOERROR"));
    let before = shown(&scene.agent);
    let long = format!("{}.test", "a".repeat(64));
    let bad = BAD
        .into_iter()
        .chain([(long.as_str(), "more than 63 characters")]);
    for (entry, fault) in bad {
        let text = format!("Invalid domain: \"{entry}\": ");
        let lists = format!("b.test,{entry}");
        for words in [
            vec!["network", "a", "--allowed-domain", &lists],
            vec!["create", "--name", "new", "--allowed-domain", &lists],
        ] {
            let output = scene.agent.say(&words);
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{words:?}: {complaint}");
            assert!(
                complaint.contains(&text) && complaint.contains(fault),
                "{words:?}: {complaint}"
            );
        }
        let body = json!({ "allowed_domains": ["b.test", entry] }).to_string();
        let answer = scene.agent.api("PUT", "/v1/instances/a/policy", &body);
        assert_eq!(answer.status, 400, "{entry}: {answer:?}");
        assert!(answer.message().contains(&text), "{entry}: {answer:?}");
    }
    assert_eq!(shown(&scene.agent), before);
    assert_eq!(scene.agent.api("GET", "/v1/instances/new", "").status, 404);
    assert!(ask("b.test").is("REFUSED"));
    assert!(ask("a.test").is("NOERROR"));
    site.check_open(both(0)[0]);
}
