//! A guest with a network stack of its own: a namespace, and a pump between the VM's TAP and one inside, which
//! hands over every frame with its virtio header, as virtio-net does.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::deadline::now;
use crate::frame::{Frame, VNET_HEADER_LEN, VnetHeader};
use crate::guest::Nic;
use crate::netns::NetNs;
use crate::tap::{FRAME_MAX, Header, Tap};
use crate::world::link_layer;

/// The interface inside.
pub const INSIDE: &str = "eth0";

/// A guest that runs.
#[derive(Debug)]
pub struct Stack {
    /// Where its programs run.
    pub netns: NetNs,
    /// What crossed its cables, where that is recorded.
    pub recording: Option<Recording>,
    _pumps: Vec<Pump>,
}

/// Every frame that crossed a cable, in order.
pub type Recording = Arc<Mutex<Vec<Crossed>>>;

/// A frame as the VMM hands it over.
#[derive(Clone, Debug)]
pub struct Crossed {
    /// When it was taken from where it came from.
    pub at: Instant,
    /// Whether the guest sent it.
    pub is_from_vm: bool,
    /// The frame, finished.
    pub bytes: Vec<u8>,
}

/// A cable between a TAP of the host and an interface inside.
#[derive(Debug)]
struct Pump {
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Stack {
    /// Boots a guest on an interface, with addresses and routes typed in; its TAP was opened with
    /// [`Header::Vnet`].
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn boot(nic: Nic, mtu: u32) -> Self {
        let netns = NetNs::new();
        netns.sysctl("net/ipv6/conf/default/accept_ra", "0");
        netns.sysctl("net/ipv6/conf/default/router_solicitations", "0");
        let (v4, v6, gateway_v4) = (nic.v4, nic.v6, nic.gateway_v4);
        let stack = Self::plug_in(netns, vec![nic], None);
        let netns = &stack.netns;
        netns.ip(&format!("link set {INSIDE} mtu {mtu}"));
        netns.ip(&format!("address add {v4}/30 dev {INSIDE}"));
        netns.ip(&format!("link set {INSIDE} up"));
        netns.ip(&format!("address add {v6}/64 dev {INSIDE} nodad"));
        netns.ip(&format!("route add default via {gateway_v4}"));
        netns.ip(&format!("route add default via fe80::1 dev {INSIDE}"));
        stack
    }

    /// Boots a guest that knows nothing of its network: its interfaces `eth0`, `eth1` and so on are down, and
    /// believe router advertisements.
    ///
    /// # Panics
    /// Without the rights to.
    #[must_use]
    pub fn bare(nics: Vec<Nic>) -> Self {
        Self::bare_as(nics, None)
    }

    /// The same, and what crosses its cables is recorded.
    #[must_use]
    pub fn recorded(nics: Vec<Nic>) -> Self {
        Self::bare_as(nics, Some(Recording::default()))
    }

    fn bare_as(nics: Vec<Nic>, recording: Option<Recording>) -> Self {
        let netns = NetNs::new();
        // Duplicate address detection as on any guest.
        netns.sysctl("net/ipv6/conf/default/accept_dad", "1");
        netns.sysctl("net/ipv6/conf/default/accept_ra", "1");
        Self::plug_in(netns, nics, recording)
    }

    fn plug_in(netns: NetNs, nics: Vec<Nic>, recording: Option<Recording>) -> Self {
        let plug = |(index, nic): (usize, Nic)| {
            let name = format!("eth{index}");
            let inside = Tap::open(&netns, &name, Header::Vnet);
            netns.ip(&format!("link set {name} address {}", link_layer(nic.mac)));
            let (reader, writer) = io::pipe().expect("two descriptors");
            let record = recording.clone();
            let thread = thread::spawn(move || {
                pump(&nic.tap, &inside, (&OwnedFd::from(reader), record.as_ref()));
            });
            Pump {
                stop: Some(writer),
                thread: Some(thread),
            }
        };
        let pumps = nics.into_iter().enumerate().map(plug).collect();
        Self {
            netns,
            recording,
            _pumps: pumps,
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|pump| pump.join().is_err()) {
            eprintln!("the pump of a guest panicked");
        }
    }
}

/// Copies frames both ways until `stop` is closed.
fn pump(vm: &Tap, inside: &Tap, (stop, recording): (&OwnedFd, Option<&Recording>)) {
    let record = |is_from_vm, frame: &[u8]| {
        if let Some(recording) = recording {
            let at = now();
            let bytes = finished(frame);
            let crossed = Crossed {
                at,
                is_from_vm,
                bytes,
            };
            recording.lock().expect("no holder panics").push(crossed);
        }
    };
    let mut buffer = vec![0; VNET_HEADER_LEN + FRAME_MAX];
    loop {
        let of = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
        let mut descriptors = [of(vm.as_fd()), of(inside.as_fd()), of(stop.as_fd())];
        poll(&mut descriptors, PollTimeout::NONE).expect("poll of three descriptors");
        let ready = descriptors.map(|descriptor| descriptor.any().unwrap_or(true));
        if ready[2] {
            return;
        }
        if ready[0] {
            copy_all(vm, inside, &mut buffer, |frame| record(false, frame));
        }
        if ready[1] {
            copy_all(inside, vm, &mut buffer, |frame| record(true, frame));
        }
    }
}

/// A frame without its virtio header.
fn finished(frame: &[u8]) -> Vec<u8> {
    let (header, bytes) = frame
        .split_first_chunk()
        .expect("the kernel writes the whole header");
    let vnet = VnetHeader::from_bytes(header);
    let bytes = bytes.to_vec();
    Frame { vnet, bytes }.completed()
}

fn copy_all(from: &Tap, to: &Tap, buffer: &mut [u8], record: impl Fn(&[u8])) {
    loop {
        let length = match from.file().read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // The agent deleted the TAP: the VMM would end here, the guest loses its cable.
            Err(_deleted) => return,
        };
        record(&buffer[..length]);
        // A TAP that is down or a frame that it refuses is a lost frame, as on any cable.
        if let Err(error) = to.file().write_all(&buffer[..length])
            && !matches!(
                error.raw_os_error(),
                Some(nix::libc::EIO | nix::libc::EINVAL | nix::libc::EBADFD)
            )
        {
            eprintln!("the pump lost a frame of {length} bytes: {error}");
        }
    }
}
