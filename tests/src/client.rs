//! Clients over TCP, of the echo servers and of others.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, socket, sockopt};
use nix::sys::time::TimeVal;

use crate::deadline::SOON;
use crate::netns::NetNs;
use crate::random::Random;

/// Connects from any port; reading has a deadline.
///
/// # Errors
/// Where nobody accepts it soon.
pub fn connect(netns: &NetNs, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = netns.run(|| TcpStream::connect_timeout(&to, SOON))?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// Connects from one address and port to another; reading and writing have a deadline.
///
/// # Panics
/// When it does not succeed soon.
#[must_use]
pub fn connect_from(netns: &NetNs, from: SocketAddr, to: SocketAddr) -> TcpStream {
    let family = if from.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let made = netns.run(|| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None));
    let socket = made.expect("root may use TCP");
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from))
        .unwrap_or_else(|error| panic!("bind to {from}: {error}"));
    // It limits connect(2) too.
    let limit = TimeVal::new(SOON.as_secs().cast_signed(), 0);
    nix::sys::socket::setsockopt(&socket, sockopt::SendTimeout, &limit).expect("an open socket");
    nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to))
        .unwrap_or_else(|error| panic!("connect from {from} to {to}: {error}"));
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON)).expect("an open socket");
    stream
}

/// Sends so many bytes to an echo server, hangs up, and gets them back.
///
/// # Panics
/// When they do not come, or not as they were.
pub fn echo(mut stream: TcpStream, length: usize) {
    let remote = stream.peer_addr().expect("it was connected");
    stream.set_read_timeout(Some(SOON)).expect("an open socket");
    let sent = Random::new(5).bytes(length);
    let mut writer = stream.try_clone().expect("a descriptor");
    let mut received = Vec::new();
    // Both at once: what comes back fills the buffers on the way, so that nothing more can be sent.
    let (written, read) = thread::scope(|scope| {
        let writing = scope.spawn(|| {
            writer.write_all(&sent)?;
            writer.shutdown(Shutdown::Write)
        });
        let read = stream.read_to_end(&mut received);
        (writing.join().expect("it does not panic"), read)
    });
    assert!(
        received == sent,
        "{remote}: {} of {length} bytes came back as they were: {written:?}, {read:?}",
        received.len()
    );
}
