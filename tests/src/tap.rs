//! A TAP as a VMM opens it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::deadline::{Deadline, SOON, wait_for};
use crate::frame::{Frame, VNET_HEADER_LEN, VnetHeader};
use crate::netns::NetNs;
use crate::sys;

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// TUN_F_CSUM, TSO4, TSO6, USO4, USO6.
const ALL_OFFLOADS: u32 = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;
/// The same without USO, which kernels before 6.2 do not know.
const OLD_OFFLOADS: u32 = 0x01 | 0x02 | 0x04;

/// Longest frame that crosses a TAP.
pub const FRAME_MAX: usize = 65_536 + 64;

/// What stands before each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Nothing: every frame is finished.
    None,
    /// `virtio_net_hdr`, with all offloads.
    Vnet,
}

/// An open TAP.
#[derive(Debug)]
pub struct Tap {
    file: File,
    header: Header,
}

impl Tap {
    /// Opens the TAP `name` of a namespace; makes it where there is none.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn open(netns: &NetNs, name: &str, header: Header) -> Self {
        Self::open_as(netns, name, header, None)
    }

    /// Whether this user and group may open the TAP `name` of a namespace.
    ///
    /// # Panics
    /// When the kernel refuses for another reason.
    #[must_use]
    pub fn may_open(netns: &NetNs, name: &str, principal: (u32, u32)) -> bool {
        let file = netns.run(open_device);
        let flags = IFF_TAP | IFF_NO_PI;
        // A process that another test is starting holds a TAP that was closed, until its exec.
        let is_busy = |error: &std::io::Error| error.kind() == ErrorKind::ResourceBusy;
        wait_for("the TAP is free", SOON, || {
            match sys::tun_set_iff_as(&file, (name, flags), principal) {
                Ok(()) => Some(true),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(false),
                Err(error) if is_busy(&error) => None,
                Err(error) => panic!("open TAP {name} as {principal:?}: {error}"),
            }
        })
    }

    /// Makes the TAP `name` with this interface index.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn create(netns: &NetNs, name: &str, ifindex: u32) -> Self {
        Self::open_as(netns, name, Header::None, Some(ifindex))
    }

    fn open_as(netns: &NetNs, name: &str, header: Header, ifindex: Option<u32>) -> Self {
        let file = netns.run(|| {
            let file = open_device();
            if let Some(ifindex) = ifindex {
                sys::tun_set_ifindex(&file, ifindex).expect("the interface index is free");
            }
            let flags = IFF_TAP
                | IFF_NO_PI
                | if header == Header::Vnet {
                    IFF_VNET_HDR
                } else {
                    0
                };
            // A process that another test is starting holds a TAP that was closed, until its exec.
            wait_for("the TAP is free", SOON, || {
                match sys::tun_set_iff(&file, name, flags) {
                    Ok(()) => Some(()),
                    Err(error) if error.kind() == ErrorKind::ResourceBusy => None,
                    Err(error) => panic!("cannot open TAP {name}: {error}"),
                }
            });
            file
        });
        if header == Header::Vnet {
            sys::tun_set_vnet_hdr_size(&file, VNET_HEADER_LEN as i32)
                .expect("10 is a size of the header");
            sys::tun_set_offload(&file, ALL_OFFLOADS)
                .or_else(|_unknown| sys::tun_set_offload(&file, OLD_OFFLOADS))
                .expect("every kernel since 2.6.27 has these");
        }
        Self { file, header }
    }

    /// Sends a frame, as the guest would.
    ///
    /// # Panics
    /// When the kernel refuses it.
    pub fn send(&self, frame: &Frame) {
        self.try_send(frame)
            .unwrap_or_else(|error| panic!("write to the TAP: {error}: {frame:?}"));
    }

    /// Sends a frame that the kernel may refuse.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn try_send(&self, frame: &Frame) -> std::io::Result<()> {
        let mut buffer = Vec::with_capacity(VNET_HEADER_LEN + frame.bytes.len());
        match self.header {
            Header::Vnet => buffer.extend(frame.vnet.to_bytes()),
            Header::None => assert_eq!(
                frame.vnet,
                VnetHeader::default(),
                "this TAP carries finished frames only"
            ),
        }
        buffer.extend(&frame.bytes);
        (&self.file).write_all(&buffer)
    }

    /// Sends a finished frame.
    pub fn send_bytes(&self, bytes: Vec<u8>) {
        self.send(&Frame::plain(bytes));
    }

    /// The next frame to the guest; `None` where none comes before the deadline.
    ///
    /// # Panics
    /// When the TAP fails.
    #[must_use]
    pub fn receive(&self, deadline: Deadline) -> Option<Frame> {
        loop {
            if let Some(frame) = self.receive_now() {
                return Some(frame);
            }
            wait_readable(self.as_fd(), deadline)?;
        }
    }

    /// The next frame to the guest, where one is there.
    ///
    /// # Panics
    /// When the TAP fails.
    #[must_use]
    pub fn receive_now(&self) -> Option<Frame> {
        let mut buffer = vec![0; FRAME_MAX];
        match (&self.file).read(&mut buffer) {
            Ok(length) => buffer.truncate(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("read from the TAP: {error}"),
        }
        if self.header == Header::None {
            return Some(Frame::plain(buffer));
        }
        let (header, bytes) = buffer
            .split_first_chunk()
            .expect("the kernel writes the whole header");
        Some(Frame {
            vnet: VnetHeader::from_bytes(header),
            bytes: Vec::from(bytes),
        })
    }

    /// Receives until `wanted` picks a frame.
    ///
    /// # Panics
    /// When it picks none before the deadline.
    pub fn receive_where<T>(
        &self,
        deadline: Deadline,
        mut wanted: impl FnMut(&Frame) -> Option<T>,
    ) -> T {
        loop {
            let frame = self
                .receive(deadline)
                .expect("the frame that should reach the guest did not in time");
            if let Some(found) = wanted(&frame) {
                return found;
            }
        }
    }

    /// The file, for a loop of its own.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open_device() -> File {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun");
    opened.expect(
        "cannot open /dev/net/tun: load the module tun and run as root, `cargo xtask test` does",
    )
}

/// Waits until the descriptor can be read; `None` when the deadline passes first.
///
/// # Panics
/// When poll(2) fails.
#[must_use]
pub fn wait_readable(descriptor: BorrowedFd<'_>, deadline: Deadline) -> Option<()> {
    let left = deadline.remaining()?;
    let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    let mut descriptors = [PollFd::new(descriptor, PollFlags::POLLIN)];
    poll(&mut descriptors, timeout).expect("poll of one descriptor");
    Some(())
}
