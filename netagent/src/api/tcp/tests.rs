use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(10);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// A server on loopback with a certificate of its own.
struct Server {
    address: SocketAddr,
    connector: TlsConnector,
}

fn made() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

/// The configuration with certificate and key in files of `directory`.
fn secured(directory: &Path, made: &CertifiedKey<KeyPair>) -> Api {
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    Api {
        tls_cert: Some(certificate),
        tls_key: Some(key),
        ..plain()
    }
}

fn plain() -> Api {
    Api {
        listen: Some("127.0.0.1:0".parse().unwrap()),
        ..Api::default()
    }
}

async fn serve(config: &Api, bounds: Bounds) -> SocketAddr {
    let entrance = TcpEntrance::open_with(config, bounds).await;
    let entrance = entrance.unwrap().unwrap();
    let address = entrance.address;
    let router = Router::new().route("/", get(async || "here"));
    tokio::spawn(axum::serve(entrance, router).into_future());
    address
}

impl Server {
    async fn with_tls(bounds: Bounds) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = made();
        let address = serve(&secured(directory.path(), &made), bounds).await;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address,
            connector: TlsConnector::from(Arc::new(config)),
        }
    }

    async fn ask(&self) -> String {
        let asked = async {
            let stream = TcpStream::connect(self.address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            exchange(self.connector.connect(name, stream).await.unwrap()).await
        };
        tokio::time::timeout(DEADLINE, asked).await.unwrap()
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// Whether the server hangs up on this client, who says no more.
async fn is_hung_up(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
    ended.is_ok()
}

async fn check_refused(config: &Api, expected: &str) {
    let error = TcpEntrance::open(config).await.unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[tokio::test]
async fn a_client_that_trusts_the_certificate_is_answered() {
    let answer = Server::with_tls(BOUNDS).await.ask().await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"),
        "{answer}"
    );
}

#[tokio::test]
async fn clients_that_never_shake_hands_keep_nobody_waiting() {
    let server = Server::with_tls(BOUNDS).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert!(server.ask().await.ends_with("here"));
    drop(silent);
}

#[tokio::test]
async fn who_speaks_no_tls_is_hung_up_on_and_the_next_one_answered() {
    let server = Server::with_tls(BOUNDS).await;
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(REQUEST).await.unwrap();
    assert!(is_hung_up(&mut plain).await);
    assert!(server.ask().await.ends_with("here"));
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_over() {
    let server = Server::with_tls(Bounds {
        handshake: Duration::from_millis(20),
        ..BOUNDS
    })
    .await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert!(is_hung_up(&mut silent).await);
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_over() {
    let short = Bounds {
        idle: Duration::from_millis(20),
        ..BOUNDS
    };
    let address = serve(&plain(), short).await;
    for said in [&b""[..], b"GET / HTTP/1.1\r\nHost:"] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(said).await.unwrap();
        assert!(is_hung_up(&mut client).await);
    }
}

#[tokio::test]
async fn more_connections_than_there_are_places_wait_for_one() {
    let one = Bounds {
        connections: 1,
        ..BOUNDS
    };
    let address = serve(&plain(), one).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    // It is answered and keeps its place.
    first
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    first.read_u8().await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(REQUEST).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), second.read_u8()).await;
    assert!(early.is_err(), "two have one place");
    drop(first);
    let mut answer = String::new();
    let answered = second.read_to_string(&mut answer);
    tokio::time::timeout(DEADLINE, answered)
        .await
        .expect("the place is given on")
        .unwrap();
    assert!(answer.ends_with("here"), "{answer}");
}

#[tokio::test]
async fn loopback_needs_no_certificate_and_no_address_means_no_entrance() {
    let address = serve(&plain(), BOUNDS).await;
    let answer = exchange(TcpStream::connect(address).await.unwrap()).await;
    assert!(answer.ends_with("here"), "{answer}");
    assert!(TcpEntrance::open(&Api::default()).await.unwrap().is_none());
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_with_their_key() {
    let directory = tempfile::tempdir().unwrap();
    let good = secured(directory.path(), &made());
    let with = |change: fn(&mut Api, PathBuf), name: &str| {
        let mut config = good.clone();
        change(&mut config, directory.path().join(name));
        config
    };
    let certificate = |config: &mut Api, path| config.tls_cert = Some(path);
    let key = |config: &mut Api, path| config.tls_key = Some(path);
    check_refused(&with(certificate, "none.pem"), "api.tls_cert = ").await;
    check_refused(&with(key, "none.pem"), "api.tls_key = ").await;
    fs::write(directory.path().join("empty.pem"), "").unwrap();
    check_refused(&with(certificate, "empty.pem"), "it holds no certificate").await;
    check_refused(&with(key, "empty.pem"), "api.tls_key = ").await;
    let other = made().signing_key.serialize_pem();
    fs::write(directory.path().join("other.pem"), other).unwrap();
    check_refused(&with(key, "other.pem"), "do not fit together").await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Api {
        listen: Some(taken.local_addr().unwrap()),
        ..Api::default()
    };
    check_refused(&config, "cannot listen on api.listen = 127.0.0.1:").await;
}
