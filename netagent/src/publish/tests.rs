use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener as Listener, TcpStream, UdpSocket as Socket};
use tokio::time::timeout;

use super::*;
use crate::policy::compile;
use crate::spec::policy::{PolicyMode, PolicySpec};
use crate::spec::publish::PortProtocol;

/// Longest wait for what comes at once.
const SOON: Duration = Duration::from_secs(10);
/// Time in which nothing is to come.
const MOMENT: Duration = Duration::from_millis(200);

/// Remembers what it was told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<(LedKey, Led)>>);

impl Leads for Told {
    fn lead(&self, key: &LedKey, led: &Led) -> io::Result<()> {
        self.0.lock().unwrap().push((*key, *led));
        Ok(())
    }
}

/// A port of this machine's loopback that leads to a server on it.
struct Bench {
    listeners: Listeners,
    told: Arc<Told>,
    at: HostPort,
    aim: Aim,
}

async fn bench(protocol: PortProtocol, guest: SocketAddr, bounds: Bounds) -> Bench {
    let told = Arc::new(Told::default());
    let mut listeners = Listeners::new(told.clone(), bounds);
    let at = loop {
        let probe = Listener::bind("127.0.0.1:0").await.unwrap();
        let at = HostPort {
            port: probe.local_addr().unwrap().port(),
            protocol,
            address: Some(Ipv4Addr::LOCALHOST.into()),
        };
        drop(probe);
        if let Ok(reserved) = sockets::reserve(&at) {
            listeners.hold(at, reserved).unwrap();
            break at;
        }
    };
    let aim = Aim {
        instance: 7,
        generation: 3,
        guest_v4: guest,
        guest_v6: None,
        allow_from: None,
        policy: None,
    };
    listeners.aim(&at, Some(aim.clone()));
    Bench {
        listeners,
        told,
        at,
        aim,
    }
}

impl Bench {
    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.at.port).into()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }

    async fn socket(&self) -> Socket {
        let socket = Socket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address()).await.unwrap();
        socket
    }
}

async fn server() -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn accept(listener: &Listener) -> TcpStream {
    timeout(SOON, listener.accept()).await.unwrap().unwrap().0
}

/// Whether the other side ended the connection, one way or the other.
async fn is_ended(stream: &mut TcpStream) -> bool {
    let read = timeout(SOON, stream.read(&mut [0; 1])).await;
    matches!(read, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn a_connection_is_passed_on_and_its_socket_noted_for_the_programs() {
    let (server, guest) = server().await;
    let bench = bench(PortProtocol::Tcp, guest, BOUNDS).await;
    let mut client = bench.connect().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut accepted = accept(&server).await;
    let mut question = Vec::new();
    accepted.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    // The client has hung up, and is answered all the same.
    let answer = vec![7; 1 << 20];
    accepted.write_all(&answer).await.unwrap();
    drop(accepted);
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert!(received == answer, "{} bytes", received.len());
    let told = bench.told.0.lock().unwrap().clone();
    let [(key, led)] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((key.port, key.protocol), (guest.port().to_be_bytes(), 6));
    assert_eq!((led.port, led.generation), (bench.at.port.to_be_bytes(), 3));
    assert_eq!(
        (&key.guest[..5], &led.address[..5]),
        (&[127, 0, 0, 1, 0][..], &[127, 0, 0, 1, 0][..])
    );
    assert_ne!(key.cookie, 0);
}

#[tokio::test]
async fn a_connection_that_a_guest_does_not_take_is_reset() {
    let (server, guest) = server().await;
    drop(server);
    let bench = bench(PortProtocol::Tcp, guest, BOUNDS).await;
    let mut client = bench.connect().await;
    let read = timeout(SOON, client.read(&mut [0; 1])).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_of_one_side_is_one_of_the_other() {
    let (server, guest) = server().await;
    let bench = bench(PortProtocol::Tcp, guest, BOUNDS).await;
    let mut client = bench.connect().await;
    client.write_all(b"x").await.unwrap();
    let accepted = accept(&server).await;
    accepted.set_zero_linger().unwrap();
    drop(accepted);
    let read = timeout(SOON, client.read(&mut [0; 1])).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_may_go_on_goes_on_and_what_may_not_ends() {
    let (server, guest) = server().await;
    let mut bench = bench(PortProtocol::Tcp, guest, BOUNDS).await;
    let mut client = bench.connect().await;
    let mut accepted = accept(&server).await;
    // For others besides: it goes on.
    bench.aim.allow_from = Some(
        [
            "127.0.0.0/8".parse().unwrap(),
            "10.0.0.0/8".parse().unwrap(),
        ]
        .into(),
    );
    bench.listeners.aim(&bench.at, Some(bench.aim.clone()));
    client.write_all(b"on").await.unwrap();
    accepted.read_exact(&mut [0; 2]).await.unwrap();
    // Another life of the instance, another guest port, nowhere, and given back.
    let changes: [fn(&mut Bench); 4] = [
        |bench| {
            bench.aim.generation += 1;
            bench.listeners.aim(&bench.at, Some(bench.aim.clone()));
        },
        |bench| {
            let mut other = bench.aim.clone();
            other.guest_v4.set_port(1);
            bench.listeners.aim(&bench.at, Some(other));
        },
        |bench| bench.listeners.aim(&bench.at, None),
        |bench| bench.listeners.retain(|_| false),
    ];
    for change in changes {
        change(&mut bench);
        assert!(is_ended(&mut client).await && is_ended(&mut accepted).await);
        if !bench.listeners.has(&bench.at) {
            break;
        }
        let aim = bench.aim.clone();
        bench.listeners.aim(&bench.at, None);
        let mut refused = bench.connect().await;
        assert!(is_ended(&mut refused).await, "it leads nowhere");
        bench.listeners.aim(&bench.at, Some(aim));
        client = bench.connect().await;
        accepted = accept(&server).await;
    }
    bench.listeners.settle().await;
    assert!(TcpStream::connect(bench.address()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_was_given_back_is_free_at_once() {
    let guest = Socket::bind("127.0.0.1:0").await.unwrap();
    for protocol in [PortProtocol::Tcp, PortProtocol::Udp] {
        for _ in 0..50 {
            let mut bench = bench(protocol, guest.local_addr().unwrap(), BOUNDS).await;
            let socket = bench.socket().await;
            socket.send(b"x").await.unwrap();
            if protocol == PortProtocol::Udp {
                timeout(SOON, guest.recv_from(&mut [0; 16]))
                    .await
                    .unwrap()
                    .unwrap();
            }
            bench.listeners.retain(|_| false);
            bench.listeners.settle().await;
            sockets::reserve(&bench.at).unwrap();
        }
    }
}

#[tokio::test]
async fn only_so_many_connections_are_passed_on() {
    let (server, guest) = server().await;
    let bounds = Bounds { own: 2, all: 2 };
    let bench = bench(PortProtocol::Tcp, guest, bounds).await;
    let first = bench.connect().await;
    let second = bench.connect().await;
    let (mut one, mut two) = (accept(&server).await, accept(&server).await);
    let mut third = bench.connect().await;
    assert!(is_ended(&mut third).await);
    drop(first);
    assert!(is_ended(&mut one).await);
    drop(one);
    // The place is free once both ends are gone.
    let again = async {
        loop {
            let mut client = bench.connect().await;
            if timeout(MOMENT, client.read(&mut [0; 1])).await.is_err() {
                return client;
            }
        }
    };
    let _fourth = timeout(SOON, again).await.unwrap();
    accept(&server).await;
    drop(second);
    assert!(is_ended(&mut two).await);
}

#[tokio::test]
async fn clients_that_are_not_named_are_refused() {
    let aim = |networks: &[&str]| Aim {
        instance: 1,
        generation: 1,
        guest_v4: "172.16.0.2:80".parse().unwrap(),
        guest_v6: Some("[fd00::2]:80".parse().unwrap()),
        policy: None,
        allow_from: Some(
            networks
                .iter()
                .map(|network| network.parse().unwrap())
                .collect(),
        ),
    };
    let leads = |aim: &Aim, client: &str| {
        aim.leads(client.parse().unwrap())
            .map(|guest| guest.is_ipv4())
    };
    let named = aim(&["10.0.0.0/8", "2001:db8::/32"]);
    assert_eq!(leads(&named, "10.1.2.3"), Some(true));
    assert_eq!(leads(&named, "11.1.2.3"), None);
    assert_eq!(leads(&named, "2001:db8::9"), Some(false));
    assert_eq!(leads(&named, "2001:db9::9"), None);
    // A process of the host.
    assert_eq!(leads(&named, "127.0.0.1"), Some(true));
    assert_eq!(leads(&named, "::1"), Some(false));
    let denied = PolicySpec {
        mode: PolicyMode::Custom,
        denied_cidrs: Some(Arc::new(["10.1.0.0/16".parse().unwrap()].into())),
        ..PolicySpec::default()
    };
    let limited = Aim {
        policy: compile(&denied, false),
        ..named.clone()
    };
    assert_eq!(leads(&limited, "10.1.2.3"), None);
    assert_eq!(leads(&limited, "10.2.2.3"), Some(true));
    assert_eq!(leads(&limited, "127.0.0.1"), Some(true));
    let alone = Aim {
        guest_v6: None,
        ..named
    };
    assert_eq!(leads(&alone, "2001:db8::9"), None);
}

#[tokio::test]
async fn datagrams_are_passed_both_ways_for_each_client() {
    let guest = Socket::bind("127.0.0.1:0").await.unwrap();
    let address = guest.local_addr().unwrap();
    let mut bench = bench(PortProtocol::Udp, address, BOUNDS).await;
    let clients = [bench.socket().await, bench.socket().await];
    let mut seen = Vec::new();
    for (index, client) in clients.iter().enumerate() {
        client.send(&[index as u8; 1_200]).await.unwrap();
        let mut buffer = [0; 2_000];
        let (len, from) = timeout(SOON, guest.recv_from(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(buffer[..len], [index as u8; 1_200]);
        seen.push(from);
    }
    assert_ne!(seen[0], seen[1]);
    assert_eq!(bench.told.0.lock().unwrap().len(), 2);
    for (index, from) in seen.iter().enumerate() {
        guest.send_to(&[9, index as u8], from).await.unwrap();
        let mut buffer = [0; 16];
        let len = timeout(SOON, clients[index].recv(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(buffer[..len], [9, index as u8]);
    }
    // From nowhere nothing comes back, and another life is another socket.
    bench.listeners.aim(&bench.at, None);
    bench.aim.generation += 1;
    bench.listeners.aim(&bench.at, Some(bench.aim.clone()));
    let moved = async {
        loop {
            clients[0].send(b"again").await.unwrap();
            let (_, from) = guest.recv_from(&mut [0; 16]).await.unwrap();
            if from != seen[0] {
                return;
            }
        }
    };
    timeout(SOON, moved).await.unwrap();
    assert_eq!(bench.told.0.lock().unwrap()[2].1.generation, 4);
}

#[tokio::test]
async fn only_so_many_clients_have_a_session() {
    let guest = Socket::bind("127.0.0.1:0").await.unwrap();
    let bounds = Bounds { own: 1, all: 1 };
    let bench = bench(PortProtocol::Udp, guest.local_addr().unwrap(), bounds).await;
    let (first, second) = (bench.socket().await, bench.socket().await);
    first.send(b"first").await.unwrap();
    let mut buffer = [0; 16];
    timeout(SOON, guest.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    second.send(b"second").await.unwrap();
    first.send(b"again").await.unwrap();
    let (len, _) = timeout(SOON, guest.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&buffer[..len], b"again");
    assert!(timeout(MOMENT, guest.recv_from(&mut buffer)).await.is_err());
}
