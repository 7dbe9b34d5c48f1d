//! Binds the sockets that hold a port of the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind,
    listen, setsockopt, socket,
};

use crate::publish::{ReserveError, Reserved};
use crate::spec::publish::{HostPort, PortProtocol};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Takes a port: where no address is named, for IPv4 and IPv6 each.
///
/// # Errors
/// Where somebody has it, or the host has not that address.
pub fn reserve(at: &HostPort) -> Result<Reserved, ReserveError> {
    let mut reserved = Reserved::default();
    let every = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let addresses = match &at.address {
        Some(address) => std::slice::from_ref(address),
        None => &every,
    };
    for address in addresses {
        match take(SocketAddr::new(*address, at.port), at.protocol) {
            Ok(socket) => match at.protocol {
                PortProtocol::Tcp => reserved.tcp.push(socket.into()),
                PortProtocol::Udp => reserved.udp.push(socket.into()),
            },
            // A host without IPv6 has no ports of it.
            Err(Errno::EAFNOSUPPORT) if at.address.is_none() => {}
            Err(errno) => return Err(refused(at, *address, errno)),
        }
    }
    Ok(reserved)
}

fn refused(at: &HostPort, address: IpAddr, errno: Errno) -> ReserveError {
    let port = at.number();
    if errno == Errno::EADDRINUSE {
        ReserveError::InUse(port)
    } else if errno == Errno::EADDRNOTAVAIL {
        ReserveError::NotOurs(address)
    } else {
        let source = errno.into();
        ReserveError::Failed { port, source }
    }
}

fn take(address: SocketAddr, protocol: PortProtocol) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (family, sockaddr): (_, Box<dyn SockaddrLike>) = match address {
        SocketAddr::V4(address) => (AddressFamily::Inet, Box::new(SockaddrIn::from(address))),
        SocketAddr::V6(address) => (AddressFamily::Inet6, Box::new(SockaddrIn6::from(address))),
    };
    let kind = match protocol {
        PortProtocol::Tcp => SockType::Stream,
        PortProtocol::Udp => SockType::Datagram,
    };
    let made = socket(family, kind, flags, None)?;
    if family == AddressFamily::Inet6 {
        setsockopt(&made, Ipv6V6Only, &true)?;
    }
    match (protocol, family) {
        // With it, connections of an earlier agent that linger do not keep the port. UDP knows no such thing, and there
        // it would let others share the port.
        (PortProtocol::Tcp, _) => setsockopt(&made, ReuseAddr, &true)?,
        (PortProtocol::Udp, AddressFamily::Inet6) => {
            setsockopt(&made, Ipv6RecvPacketInfo, &true)?;
        }
        (PortProtocol::Udp, _) => setsockopt(&made, Ipv4PacketInfo, &true)?,
    }
    bind(made.as_raw_fd(), sockaddr.as_ref())?;
    if protocol == PortProtocol::Tcp {
        // Bound alone, another that wants to share it could still listen first.
        listen(&made, Backlog::new(BACKLOG)?)?;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::publish::owner;

    fn at(address: Option<&str>, port: u16, protocol: PortProtocol) -> HostPort {
        let address = address.map(|address| address.parse().unwrap());
        HostPort {
            port,
            protocol,
            address,
        }
    }

    /// A port that nobody has at this moment, held by `socket`.
    fn taken() -> (TcpListener, UdpSocket, u16) {
        loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = tcp.local_addr().unwrap().port();
            if let Ok(udp) = UdpSocket::bind(("127.0.0.1", port)) {
                return (tcp, udp, port);
            }
        }
    }

    #[test]
    fn who_has_the_port_is_named() {
        let (tcp, udp, port) = taken();
        let own = std::process::id();
        for protocol in [PortProtocol::Tcp, PortProtocol::Udp] {
            for address in [None, Some("127.0.0.1")] {
                let at = at(address, port, protocol);
                let error = reserve(&at).unwrap_err().to_string();
                let expected =
                    format!("Port {port}/{protocol} is already in use by another process");
                assert_eq!(error, expected);
                let owner = owner::find(&at).unwrap();
                assert!(owner.ends_with(&format!(" (pid {own})")), "{owner}");
            }
            // Another address of the same port is free.
            assert!(reserve(&at(Some("127.0.0.9"), port, protocol)).is_ok());
        }
        drop((tcp, udp));
        for protocol in [PortProtocol::Tcp, PortProtocol::Udp] {
            let held = reserve(&at(None, port, protocol)).unwrap();
            assert_eq!(held.tcp.len() + held.udp.len(), 2);
            assert!(reserve(&at(None, port, protocol)).is_err());
            assert!(reserve(&at(Some("127.0.0.1"), port, protocol)).is_err());
            drop(held);
            assert!(reserve(&at(None, port, protocol)).is_ok());
        }
    }

    #[test]
    fn an_address_of_another_host_is_refused() {
        for address in ["192.0.2.77", "2001:db8::77"] {
            let error = reserve(&at(Some(address), 40_123, PortProtocol::Tcp)).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "Address {address} cannot be published on: it is not one of this host's; add it with 'ip address add', or name another"
                )
            );
        }
    }
}
