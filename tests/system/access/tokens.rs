//! Tokens: who has one is an account, and who has none is nobody.

use netagent_tests::world::World;
use serde_json::{Value, json};

use crate::access::{Client, Token, listening};

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
