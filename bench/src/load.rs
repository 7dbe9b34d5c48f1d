//! Frames that go by a way again and again, and are counted where they arrive.

use crate::frames::Frames;
use crate::path::{Cost, Flows, STRAY};
use crate::variant::Variant;
use netagent_tests::raw::Raw;

/// Frames, and from where to where they go.
#[derive(Debug)]
pub enum Load {
    /// From the guest to the world.
    Up(Flows),
    /// From the world to the guest. Nobody reads the TAP: its queue is full, and each frame that reaches it ends there, at
    /// the same price for every way. The frames before were read and checked.
    Down(Raw, Frames),
    /// From the other guest to the first one, which reads as little.
    Across(Frames),
}

impl Load {
    /// Writes a frame of every flow, and more; they fill the queue of a TAP that nobody reads.
    pub fn warm_up(&mut self, variant: &Variant, count: u32) {
        self.write(variant, count.max(self.flows()));
    }

    /// Writes a frame of every flow, so that what a way does once in some seconds weighs as much as in traffic that goes
    /// on.
    pub fn touch(&mut self, variant: &Variant) {
        self.write(variant, self.flows());
    }

    /// Writes `count` frames from core 0, and says what each took.
    ///
    /// # Panics
    /// Where not every frame arrives.
    pub fn measure(&mut self, variant: &Variant, count: u32) -> Cost {
        let before = self.arrived(variant);
        let cost = self.write(variant, count);
        let arrived = self.arrived(variant) - before;
        assert!(
            (u64::from(count)..u64::from(count) + STRAY).contains(&arrived),
            "{}: {arrived} of {count} frames arrived",
            variant.kind.name()
        );
        cost
    }

    fn write(&mut self, variant: &Variant, count: u32) -> Cost {
        match self {
            Self::Up(flows) => flows.write(variant.tap.file(), count),
            Self::Down(wire, frames) => frames.write(wire.as_fd(), (0, count)),
            Self::Across(frames) => frames.write(variant.other.file(), (0, count)),
        }
    }

    fn flows(&self) -> u32 {
        let count = match self {
            Self::Up(flows) => flows.count(),
            Self::Down(_, frames) | Self::Across(frames) => frames.count(),
        };
        u32::try_from(count).expect("fewer flows than ports of all servers")
    }

    fn arrived(&self, variant: &Variant) -> u64 {
        match self {
            Self::Up(_) => variant.arrived(),
            Self::Down(..) | Self::Across(_) => variant.overflowed(),
        }
    }
}
