//! Every word of the command line.

use std::collections::BTreeSet;

use netagent_tests::agent::Agent;
use netagent_tests::netns::NetNs;
use netagent_tests::world::World;
use serde_json::{Value, json};

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
    let made = agent.say_json(&[
        "create",
        "--allowed-domain",
        "a.example,b.example",
        "--json",
    ]);
    let names = json!(["a.example", "b.example"]);
    assert_eq!(made["allowed_domains"], names, "{made}");
}
