//! Names: their form, and whose they are.

use netagent_tests::world::World;
use serde_json::json;

use crate::interfaces::{each, reserve};

/// Names that neither an instance nor an interface may have.
const BAD_NAMES: [&str; 16] = [
    "", "-a", "a-", "-", "A", "a_b", "a b", " a", "a/b", "..", ".", "a.b", "a:b", "a\u{7}", "a\n",
    "é",
];

#[test]
fn names_have_63_characters_of_their_form_at_most() {
    let world = World::new();
    let agent = world.agent("");
    let longest = "a".repeat(63);
    let of_64 = "a".repeat(64);
    for bad in BAD_NAMES.into_iter().chain([of_64.as_str()]) {
        let text = format!(
            "Invalid name '{bad}': use up to 63 of a-z, 0-9 and '-', with a letter or digit at both ends"
        );
        agent.refuse(&json!({ "name": bad }), (400, &text));
        agent.refuse(
            &json!({ "network_interfaces": [{ "name": bad }] }),
            (400, &text),
        );
    }
    let long = reserve(
        &agent,
        json!({ "name": longest, "network_interfaces": [{}, { "name": longest }] }),
    );
    assert_eq!(long["name"], longest);
    let names = each(&long, "name");
    assert_eq!(names[1], longest);
    let suffix = names[0].strip_prefix("eth-").unwrap();
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    assert!(
        suffix.len() == 8 && suffix.bytes().all(is_digit),
        "{suffix}"
    );
    // `<name>-eth0` has 63 characters, and 64.
    let (fits, does_not) = ("b".repeat(58), "b".repeat(59));
    let fitting = reserve(&agent, json!({ "name": fits }));
    assert_eq!(each(&fitting, "name"), [format!("{fits}-eth0")]);
    let generated = each(&reserve(&agent, json!({ "name": does_not })), "name");
    assert!(generated[0].starts_with("eth-"), "{generated:?}");
    // Without a name, both are generated, in the form of a name.
    let nameless = reserve(&agent, json!({ "network_interfaces": [{}, {}] }));
    let name = nameless["name"].as_str().unwrap();
    assert_eq!(
        each(&nameless, "name"),
        [format!("{name}-eth0"), format!("{name}-eth1")]
    );
    reserve(
        &agent,
        json!({ "name": "also-legal-0", "network_interfaces": [{ "name": "0" }] }),
    );
}

#[test]
fn names_are_unique_in_the_account_across_instances() {
    let world = World::new();
    let agent = world.agent("");
    reserve(
        &agent,
        json!({ "name": "one", "network_interfaces": [{ "name": "shared" }, { "name": "two-eth0" }] }),
    );
    let taken = |name: &str| format!("Network interface name '{name}' is already in use");
    agent.refuse(
        &json!({ "name": "one" }),
        (409, "Instance name 'one' is already in use"),
    );
    agent.refuse(
        &json!({ "name": "other", "network_interfaces": [{}, { "name": "shared" }] }),
        (409, &taken("shared")),
    );
    // The name that would be generated is another's: it gets one as if it were too long.
    let generated = each(&reserve(&agent, json!({ "name": "two" })), "name");
    assert!(generated[0].starts_with("eth-"), "{generated:?}");
    let twice = json!({ "network_interfaces": [{ "name": "twice" }, { "name": "twice" }] });
    let answer = agent.api("POST", "/v1/instances", &twice.to_string());
    assert!(matches!(answer.status, 400 | 409), "{answer:?}");
    assert!(answer.message().contains("'twice'"), "{answer:?}");
    // An instance and an interface are two kinds of objects.
    reserve(&agent, json!({ "name": "shared" }));
    agent.delete("one");
    reserve(
        &agent,
        json!({ "name": "one", "network_interfaces": [{ "name": "two-eth0" }] }),
    );
}

#[test]
fn a_name_that_many_ask_for_at_once_goes_to_one_of_them() {
    const COUNT: usize = 32;
    let world = World::new();
    let agent = world.agent("");
    let body = json!({ "name": "contested", "autostart": false }).to_string();
    let create = || agent.api("POST", "/v1/instances", &body);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..COUNT).map(|_| scope.spawn(create)).collect();
        let answers = asked.into_iter().map(|answer| answer.join().unwrap());
        answers.collect()
    });
    let count = |status| {
        answers
            .iter()
            .filter(|answer| answer.status == status)
            .count()
    };
    assert_eq!((count(201), count(409)), (1, COUNT - 1), "{answers:?}");
    let list = agent.api("GET", "/v1/instances", "").body;
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
}
