//! The far end of a link: every frame that arrives there, whole, and frames sent from there.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::write;

use crate::deadline::Deadline;
use crate::frame::{Frame, VNET_HEADER_LEN, VnetHeader};
use crate::netns::NetNs;
use crate::sys;
use crate::tap::{FRAME_MAX, wait_readable};

/// A packet socket on one interface: it receives what arrives there, not what leaves.
#[derive(Debug)]
pub struct Raw {
    socket: OwnedFd,
}

/// A frame that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The frame.
    pub frame: Frame,
    /// The VLAN tag that the kernel took off.
    pub vlan: Option<u16>,
}

impl Raw {
    /// Listens on an interface.
    ///
    /// # Panics
    /// When the interface is not there.
    #[must_use]
    pub fn open(netns: &NetNs, name: &str) -> Self {
        let ifindex = netns.ifindex(name);
        let socket = netns
            .run(|| sys::packet_socket(ifindex))
            .expect("root may open packet sockets");
        Self { socket }
    }

    /// The socket: each frame is written and read behind its virtio header.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a frame.
    ///
    /// # Panics
    /// When the kernel refuses it.
    pub fn send(&self, frame: &Frame) {
        let mut buffer = Vec::from(frame.vnet.to_bytes());
        buffer.extend(&frame.bytes);
        let sent = write(&self.socket, &buffer);
        let length = sent.unwrap_or_else(|error| panic!("packet socket: {error}: {frame:?}"));
        assert_eq!(length, buffer.len(), "the frame is sent whole");
    }

    /// Sends a finished frame.
    pub fn send_bytes(&self, bytes: Vec<u8>) {
        self.send(&Frame::plain(bytes));
    }

    /// The next frame; `None` where none comes before the deadline.
    ///
    /// # Panics
    /// When the socket fails.
    #[must_use]
    pub fn receive(&self, deadline: Deadline) -> Option<Received> {
        loop {
            if let Some(received) = self.receive_now() {
                return Some(received);
            }
            wait_readable(self.socket.as_fd(), deadline)?;
        }
    }

    /// The next frame, where one is there.
    ///
    /// # Panics
    /// When the socket fails.
    #[must_use]
    pub fn receive_now(&self) -> Option<Received> {
        let mut buffer = vec![0; VNET_HEADER_LEN + FRAME_MAX];
        let (length, vlan) = match sys::receive_packet(self.socket.as_fd(), &mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("packet socket: {error}"),
        };
        buffer.truncate(length);
        let (header, bytes) = buffer
            .split_first_chunk()
            .expect("the kernel writes the whole header");
        Some(Received {
            frame: Frame {
                vnet: VnetHeader::from_bytes(header),
                bytes: Vec::from(bytes),
            },
            vlan,
        })
    }

    /// Receives until `wanted` picks a frame.
    ///
    /// # Panics
    /// When it picks none before the deadline.
    pub fn receive_where<T>(
        &self,
        deadline: Deadline,
        mut wanted: impl FnMut(&Received) -> Option<T>,
    ) -> T {
        loop {
            let received = self
                .receive(deadline)
                .expect("the frame that should arrive did not in time");
            if let Some(found) = wanted(&received) {
                return found;
            }
        }
    }
}
