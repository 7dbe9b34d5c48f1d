//! kill -9 at every boundary of a change of published ports: afterwards it happened, or it did not.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;

use netagent_tests::agent::{Agent, START_LIMIT};
use netagent_tests::deadline::{SOON, wait_for};
use netagent_tests::http;
use netagent_tests::world::World;
use nix::libc::SIGKILL;
use serde_json::{Value, json};

/// More boundaries than a start and a change have.
const BOUNDARIES_MAX: u32 = 200;
const PATH: &str = "/v1/instances/web/publish";

/// Both lists have a port in common, and one for which only the networks differ.
fn lists() -> [Value; 2] {
    [
        json!({ "publish": ["8080:80", "9090 from 10.0.0.0/8", "7070"], "exposed_ports": ["80/tcp"] }),
        json!({ "publish": ["8080:80", "9090 from 192.0.2.0/24,2001:db8::/32", "127.0.0.1:7070:70"],
            "exposed_ports": ["443/tcp"] }),
    ]
}

/// The lists as they are shown, without what says how they do.
fn shown(agent: &Agent) -> (Vec<Value>, Value) {
    let instance = agent.inspect("web");
    let published = instance["publish"].as_array().unwrap().iter();
    let published = published.map(|port| {
        assert_eq!(port["status"], "published", "{instance}\n{}", agent.log());
        json!([
            port["address"],
            port["host_port"],
            port["guest_port"],
            port["allow_from"]
        ])
    });
    (published.collect(), instance["exposed_ports"].clone())
}

/// Starts an agent that dies at a boundary, and asks for a list; true where it died.
fn dies_at(agent: &mut Agent, boundary: u32, list: &Value) -> bool {
    agent.kill_at(Some(boundary));
    agent.spawn();
    agent.kill_at(None);
    if agent.serves_or_ended(START_LIMIT).is_none() {
        let answer = http::request(&agent.socket(), "PUT", PATH, &list.to_string());
        if answer.is_ok_and(|answer| answer.status == 200) {
            return false;
        }
    }
    let status = wait_for("the agent dies", SOON, || agent.status());
    assert_eq!(status.signal(), Some(SIGKILL), "{}", agent.log());
    true
}

#[test]
fn p9_a_change_of_ports_that_a_kill_cut_short_happened_or_did_not() {
    let world = World::new();
    let mut agent = world.agent("");
    let lists = lists();
    agent.create(&json!({ "name": "web" }));
    let known = lists.clone().map(|list| {
        let answer = agent.api("PUT", PATH, &list.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        shown(&agent)
    });
    let mut seen = [0, 0];
    let mut boundary = 1;
    loop {
        // From the second list to the first.
        let answer = agent.api("PUT", PATH, &lists[1].to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        agent.kill9();
        if !dies_at(&mut agent, boundary, &lists[0]) {
            break;
        }
        agent.run();
        let now = shown(&agent);
        let which = known.iter().position(|list| *list == now);
        let which = which.unwrap_or_else(|| panic!("boundary {boundary}: neither: {now:?}"));
        seen[which] += 1;
        let plan = agent.api("GET", "/v1/plan", "").body;
        assert_eq!(
            plan,
            json!({"steps": [], "problems": []}),
            "boundary {boundary}"
        );
        // Of the port that differs, the other addresses are free in one of the lists alone.
        let free = world
            .host
            .run(|| TcpListener::bind("198.51.100.2:7070"))
            .is_ok();
        assert_eq!(free, which == 1, "boundary {boundary}");
        boundary += 1;
        assert!(boundary < BOUNDARIES_MAX, "the change never ends");
    }
    // Before the commit and after it: one step for each entry alone are six.
    assert!(
        seen[0] >= 6 && seen[1] >= 2,
        "{seen:?}: a debug build has boundaries, is NETAGENT_BIN one?"
    );
    assert_eq!(shown(&agent), known[0]);
    // This one would die at its next boundary.
    agent.kill9();
    agent.run();
    agent.delete("web");
    let plan = agent.api("GET", "/v1/plan", "").body;
    assert_eq!(plan, json!({"steps": [], "problems": []}));
}
