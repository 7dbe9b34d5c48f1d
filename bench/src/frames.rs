//! Finished frames of one length, written one after the other.

use std::os::fd::AsFd;

use nix::unistd::write;

use crate::path::{Cost, timed};
use netagent_tests::frame::{Frame, VNET_HEADER_LEN};

/// Frames in a row, each with its virtio header.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    length: usize,
    /// Where the next run begins.
    next: usize,
}

impl Frames {
    /// Takes another frame.
    ///
    /// # Panics
    /// Where it is longer or shorter than the first.
    pub fn push(&mut self, bytes: Vec<u8>) {
        let frame = Frame::plain(bytes);
        self.bytes.extend(frame.vnet.to_bytes());
        self.bytes.extend(&frame.bytes);
        let length = VNET_HEADER_LEN + frame.bytes.len();
        assert!(self.length == 0 || self.length == length, "one length");
        self.length = length;
    }

    /// Number of frames.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.bytes.len() / self.length
    }

    /// A frame with its virtio header.
    #[must_use]
    pub fn get(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.length..(index + 1) * self.length]
    }

    /// Writes the next `count` of them, round and round, from one core, and says what each took.
    ///
    /// # Panics
    /// Where one is refused.
    pub fn write(
        &mut self,
        to: impl AsFd + Copy + Send + Sync,
        (core, count): (usize, u32),
    ) -> Cost {
        let (frames, mut next, last) = (&*self, self.next, self.count());
        let cost = timed(core, count, |_| {
            write(to, frames.get(next)).expect("the device takes frames");
            next += 1;
            if next == last {
                next = 0;
            }
        });
        self.next = (self.next + count as usize) % last;
        cost
    }
}

/// So many of them.
impl FromIterator<Vec<u8>> for Frames {
    fn from_iter<T: IntoIterator<Item = Vec<u8>>>(frames: T) -> Self {
        let mut all = Self::default();
        frames.into_iter().for_each(|frame| all.push(frame));
        all
    }
}
