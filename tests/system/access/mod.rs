//! Who may ask, and how (section A).

mod accounts;
mod command_line;
mod routes;
mod systemd;
mod tls;
mod tokens;

use netagent_tests::agent::Agent;
use netagent_tests::http::{Answer, Ask, request_tcp};
use netagent_tests::netns::NetNs;
use netagent_tests::world::World;
use serde_json::{Value, json};

/// Where the API listens inside the host.
const LISTEN: &str = "127.0.0.1:8080";

/// A token as the command line shows it once.
pub(crate) struct Token {
    id: String,
    secret: String,
}

impl Token {
    pub(crate) fn create(agent: &Agent, account: &str, permissions: &[&str]) -> Self {
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
pub(crate) struct Client<'a> {
    host: &'a NetNs,
    authorization: Option<String>,
}

impl<'a> Client<'a> {
    pub(crate) fn new(world: &'a World, token: &Token) -> Self {
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

    pub(crate) fn create(&self, spec: &Value) -> Value {
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

pub(crate) fn listening(more: &str) -> String {
    format!("[api]\nlisten = \"{LISTEN}\"\n{more}")
}
