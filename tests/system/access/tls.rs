//! TLS, where the API listens off loopback.

use std::net::SocketAddr;

use netagent_tests::agent::Agent;
use netagent_tests::http::{Ask, request_tcp};
use netagent_tests::tls::Certificate;
use netagent_tests::world::{HOST_V4, UPLINK, World};
use serde_json::json;

use crate::access::{LISTEN, Token};

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
