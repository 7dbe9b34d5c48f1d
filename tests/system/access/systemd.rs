//! What systemd is told.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use netagent_tests::agent::Agent;
use netagent_tests::deadline::{SOON, wait_for};
use netagent_tests::world::{UPLINK, World};

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
