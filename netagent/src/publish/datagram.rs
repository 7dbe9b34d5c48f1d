//! Datagrams with the host's address that they were sent to: the answer comes from there, or nobody takes it for one.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};

use nix::cmsg_space;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage,
    recvmsg, send, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// What was received.
pub(super) struct Datagram {
    /// Who sent it.
    pub(super) from: SocketAddr,
    /// Address of the host.
    pub(super) to: IpAddr,
    /// Its bytes.
    pub(super) len: usize,
}

/// Waits for the next one. The socket says the address ([`crate::publish::sockets`]).
pub(super) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Datagram> {
    let fd = socket.as_raw_fd();
    let receive = || receive_now(fd, buffer);
    socket.async_io(Interest::READABLE, receive).await
}

fn receive_now(fd: RawFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut parts = [IoSliceMut::new(buffer)];
    let mut space = cmsg_space!(in6_pktinfo);
    let flags = MsgFlags::empty();
    let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), flags)?;
    let from = message.address.as_ref().and_then(socket_address);
    let mut to = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::Ipv4PacketInfo(info) = part {
            to = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
        } else if let ControlMessageOwned::Ipv6PacketInfo(info) = part {
            to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
        }
    }
    match (from, to) {
        (Some(from), Some(to)) => Ok(Datagram {
            from,
            to,
            len: message.bytes,
        }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in();
    let v6 = address.as_sockaddr_in6();
    let v4 = v4.map(|address| SocketAddrV4::from(*address).into());
    v4.or_else(|| v6.map(|address| SocketAddrV6::from(*address).into()))
}

/// Sends at once on a connected socket, or not at all.
pub(super) fn send_on(socket: &UdpSocket, payload: &[u8]) -> io::Result<()> {
    // The runtime may not know yet that a new socket can send, and nothing is to wait here.
    send(socket.as_raw_fd(), payload, MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}

/// Sends at once, from this address of the host, or not at all.
pub(super) fn send_from(
    socket: &UdpSocket,
    payload: &[u8],
    (from, to): (IpAddr, SocketAddr),
) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let parts = [IoSlice::new(payload)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let sent = match (from, to) {
        (IpAddr::V4(from), SocketAddr::V4(to)) => {
            let info = packet_info_v4(from);
            let info = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd, &parts, &info, flags, Some(&SockaddrIn::from(to)))
        }
        (IpAddr::V6(from), SocketAddr::V6(to)) => {
            let info = in6_pktinfo {
                ipi6_addr: in6_addr {
                    s6_addr: from.octets(),
                },
                ipi6_ifindex: 0,
            };
            let info = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd, &parts, &info, flags, Some(&SockaddrIn6::from(to)))
        }
        (IpAddr::V4(_), SocketAddr::V6(_)) | (IpAddr::V6(_), SocketAddr::V4(_)) => {
            Err(nix::errno::Errno::EAFNOSUPPORT)
        }
    };
    sent?;
    Ok(())
}

const fn packet_info_v4(from: Ipv4Addr) -> in_pktinfo {
    let any = in_addr { s_addr: 0 };
    in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: in_addr {
            s_addr: u32::from_ne_bytes(from.octets()),
        },
        ipi_addr: any,
    }
}
