//! Connections to a published port that the programs did not see: each is passed on over one of the agent's own.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::publish::{Admitted, Aim, Shared};

/// Time that a guest has to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection over which nothing goes for so long is ended (RFC 5382, REQ-5).
const IDLE: Duration = Duration::from_secs(2 * 3_600 + 240);
/// Pause after a connection that could not be accepted.
const RETRY: Duration = Duration::from_millis(100);
/// Bytes that are on their way at most, in each direction.
const BUFFER: usize = 16 << 10;

pub(super) async fn serve(listener: TcpListener, shared: Shared) {
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((client, from)) => match shared.admit(from.ip()) {
                Some(admitted) => {
                    drop(tasks.spawn(run(client, from.ip(), admitted, shared.clone())))
                }
                None => reset(&client),
            },
            Err(error) => {
                tracing::debug!(%error, port = %shared.at, "cannot accept connections");
                sleep(RETRY).await;
            }
        }
    }
}

async fn run(mut client: TcpStream, from: IpAddr, admitted: Admitted, shared: Shared) {
    let Admitted { aim, guest, place } = admitted;
    let expelled = shared.expelled(from, (&aim, guest));
    tokio::pin!(expelled);
    let connected = tokio::select! {
        connected = connect(&shared, &aim, guest) => connected,
        () = &mut expelled => return reset(&client),
    };
    let mut server = match connected {
        Ok(server) => server,
        Err(error) => {
            tracing::debug!(%error, port = %shared.at, "a guest does not take a connection");
            return reset(&client);
        }
    };
    let passed = tokio::select! {
        passed = pass(&mut client, &mut server) => passed,
        () = &mut expelled => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    // A broken connection is broken for both.
    if passed.is_err() {
        reset(&client);
        reset(&server);
    }
    drop(place);
}

async fn connect(shared: &Shared, aim: &Aim, guest: SocketAddr) -> io::Result<TcpStream> {
    let socket = match guest {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    shared.lead(&socket, aim, guest)?;
    let connected = timeout(CONNECT, socket.connect(guest)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Passes both ways until both have hung up; who hangs up may still be answered.
async fn pass(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let alive = Notify::new();
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let both = async {
        tokio::try_join!(
            pump(from_client, to_server, &alive),
            pump(from_server, to_client, &alive),
        )
    };
    tokio::select! {
        done = both => done.map(|_| ()),
        () = silence(&alive) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, alive: &Notify) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..count).unwrap_or_default())
            .await?;
        alive.notify_one();
    }
}

/// Resolves when nothing went for too long.
async fn silence(alive: &Notify) {
    while timeout(IDLE, alive.notified()).await.is_ok() {}
}

/// Ends a connection at once and without a state of closing.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection is closed, not reset");
    }
}
