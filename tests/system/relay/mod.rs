//! Interfaces whose traffic passes another VM (section R): on the frames of every cable.

mod closed;
mod down;
mod forms;
mod mtu;
mod names;
mod path;
mod policy;
mod ports;

use std::io::{Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use netagent_tests::client::connect;
use netagent_tests::deadline::SOON;
use netagent_tests::netns::NetNs;
use netagent_tests::ping::{answers, echo_request, ping_socket};
use netagent_tests::relay::Vm;
use netagent_tests::server::PORT;
use netagent_tests::world::{server_v4, server_v6};

use crate::exchange::Protocol;

/// Both families, IPv4 first.
const FAMILIES: [bool; 2] = [true, false];

/// An address of the world in one family.
fn server(is_v4: bool, index: u8) -> IpAddr {
    if is_v4 {
        server_v4(index).into()
    } else {
        server_v6(index).into()
    }
}

/// Asks an echo server with these words, once, and takes the answer.
fn exchange(netns: &NetNs, protocol: Protocol, remote: IpAddr, text: &[u8]) {
    let mut answer = vec![0; text.len() + 64];
    let length = match protocol {
        Protocol::Tcp => {
            let mut stream = connect(netns, (remote, PORT).into()).unwrap();
            stream.write_all(text).unwrap();
            stream.read_exact(&mut answer[..text.len()]).unwrap();
            text.len()
        }
        Protocol::Udp => {
            let socket = udp_socket(netns, remote.is_ipv4());
            socket.send_to(text, (remote, PORT)).unwrap();
            socket.recv(&mut answer).unwrap()
        }
        Protocol::Echo => {
            let socket = ping_socket(netns, remote.is_ipv4());
            socket.set_read_timeout(Some(SOON)).unwrap();
            let request = echo_request(remote.is_ipv4(), 1, text);
            socket.send_to(&request, (remote, 0)).unwrap();
            socket.recv(&mut answer).unwrap()
        }
    };
    assert!(answer[..length].ends_with(text), "{protocol:?} to {remote}");
}

fn udp_socket(netns: &NetNs, is_v4: bool) -> UdpSocket {
    let any = if is_v4 { "0.0.0.0:0" } else { "[::]:0" };
    let socket = netns.run(|| UdpSocket::bind(any)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Whether an echo request is answered soon.
fn pings(netns: &NetNs, address: IpAddr) -> bool {
    answers(netns, address, Duration::from_millis(700))
}

/// Whether anything with this text crossed a VM's cables.
fn saw(vm: &Vm, text: &[u8]) -> bool {
    let holds = |frame: &[u8]| frame.windows(text.len()).any(|bytes| bytes == text);
    vm.crossed().iter().any(|crossed| holds(&crossed.bytes))
}
