//! The VMM between a guest's interface and the host: frames are handed over as they are, one by one.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::VMM_CORE;
use crate::path::pin_to;
use netagent_tests::frame::VNET_HEADER_LEN;
use netagent_tests::tap::{FRAME_MAX, Tap};

/// Frames of one direction before the other is looked at.
const BATCH: usize = 64;
/// What is read from a stream at once.
const STREAM_BUFFER: usize = 1 << 20;
/// Length of a frame on a stream, before it.
const LENGTH_LEN: usize = 4;

/// How the VMM waits for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It sleeps in poll(2).
    Sleeps,
    /// It looks again and again: nobody has to be woken.
    Spins,
}

/// A cable that is plugged in, until it is dropped.
#[derive(Debug)]
pub struct Cable {
    stop: Option<io::PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

impl Cable {
    /// Between the TAP of the host and the interface inside the guest.
    ///
    /// # Panics
    /// Without descriptors.
    #[must_use]
    pub fn between(host: Tap, inside: Tap, waiting: Waiting) -> Self {
        let (reader, writer) = io::pipe().expect("two descriptors");
        let stop = OwnedFd::from(reader);
        let pump = thread::spawn(move || {
            pin_to(VMM_CORE);
            pump(&host, &inside, (&stop, waiting));
        });
        Self {
            stop: Some(writer),
            threads: vec![pump],
        }
    }

    /// Between a stream of frames, each behind its length, and the interface inside the guest.
    ///
    /// # Panics
    /// Without descriptors.
    #[must_use]
    pub fn to_stream(stream: UnixStream, inside: Tap) -> Self {
        let (reader, writer) = io::pipe().expect("two descriptors");
        let stop = OwnedFd::from(reader);
        let to = stream.try_clone().expect("a descriptor of ours");
        let giver = inside.file().try_clone().expect("a descriptor of ours");
        let up = thread::spawn(move || {
            pin_to(VMM_CORE);
            to_stream(&inside, &to, &stop);
            // The other direction ends with the stream.
            drop(to.shutdown(std::net::Shutdown::Both));
        });
        let down = thread::spawn(move || {
            pin_to(VMM_CORE);
            from_stream(&stream, &giver);
        });
        Self {
            stop: Some(writer),
            threads: vec![up, down],
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("the VMM of a guest panicked");
            }
        }
    }
}

fn pump(host: &Tap, inside: &Tap, (stop, waiting): (&OwnedFd, Waiting)) {
    let mut buffer = vec![0; VNET_HEADER_LEN + FRAME_MAX];
    let mut idle = 0_u32;
    loop {
        let copied = copy(host, inside, &mut buffer) + copy(inside, host, &mut buffer);
        if copied > 0 {
            idle = 0;
            continue;
        }
        idle = idle.wrapping_add(1);
        let timeout = match waiting {
            Waiting::Sleeps => PollTimeout::NONE,
            // Looking for the end costs a system call: one round in many does.
            Waiting::Spins if idle.is_multiple_of(1_024) => PollTimeout::ZERO,
            Waiting::Spins => continue,
        };
        if is_over([host.as_fd(), inside.as_fd(), stop.as_fd()], timeout) {
            return;
        }
    }
}

/// Waits for a frame, or for the end; true where that is it.
fn is_over(descriptors: [std::os::fd::BorrowedFd<'_>; 3], timeout: PollTimeout) -> bool {
    let mut descriptors = descriptors.map(|one| PollFd::new(one, PollFlags::POLLIN));
    poll(&mut descriptors, timeout).expect("poll of three descriptors");
    descriptors[2].any().unwrap_or(true)
}

/// Hands over what is there, up to a batch; how many frames that was.
fn copy(from: &Tap, to: &Tap, buffer: &mut [u8]) -> usize {
    for count in 0..BATCH {
        let length = match from.file().read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("the VMM reads a frame: {error}"),
        };
        // What a TAP has no room for is lost, as on any cable.
        drop(to.file().write(&buffer[..length]));
    }
    BATCH
}

fn to_stream(from: &Tap, stream: &UnixStream, stop: &OwnedFd) {
    let mut buffer = vec![0; FRAME_MAX];
    loop {
        match from.file().read(&mut buffer) {
            Ok(length) => {
                if send(stream, &buffer[..length]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let none = from.as_fd();
                if is_over([from.as_fd(), none, stop.as_fd()], PollTimeout::NONE) {
                    return;
                }
            }
            Err(error) => panic!("the VMM reads a frame: {error}"),
        }
    }
}

fn send(mut stream: &UnixStream, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).expect("a frame").to_be_bytes();
    let sent = stream.write_vectored(&[IoSlice::new(&length), IoSlice::new(frame)])?;
    match sent.checked_sub(LENGTH_LEN) {
        Some(sent) => stream.write_all(&frame[sent..]),
        None => {
            stream.write_all(&length[sent..])?;
            stream.write_all(frame)
        }
    }
}

fn from_stream(mut stream: &UnixStream, mut to: &std::fs::File) {
    let mut buffer = vec![0; STREAM_BUFFER];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) | Err(_) => return,
            Ok(length) => filled += length,
        }
        let mut start = 0;
        while let Some((length, rest)) = buffer[start..filled].split_first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            assert!(length <= FRAME_MAX, "a frame of {length} bytes");
            let Some(frame) = rest.get(..length) else {
                break;
            };
            // What the guest's interface has no room for is lost, as on any cable.
            drop(to.write(frame));
            start += LENGTH_LEN + length;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}
