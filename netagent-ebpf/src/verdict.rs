//! What becomes of a packet.

use netagent_common::drop::{DropReason, NO_SLOT};

/// A packet that goes on.
#[derive(Clone, Copy)]
pub enum Action {
    /// To the next program of the hook, and then on its way through the kernel.
    Next,
    /// Wherever the redirect helper, whose answer this is, was told.
    Redirect(i32),
}

/// A packet that does not.
#[derive(Clone, Copy)]
pub struct Dropped {
    /// Slot of the interface that counts it, or [`NO_SLOT`].
    pub slot: u32,
    /// Why.
    pub reason: DropReason,
}

impl Dropped {
    /// A drop that belongs to no interface.
    #[inline(always)]
    #[must_use]
    pub const fn nowhere(reason: DropReason) -> Self {
        Self {
            slot: NO_SLOT,
            reason,
        }
    }
}

/// The answer of a function that is not inlined, in one register. The compiler's own packing leaves bits of no
/// meaning in it, which the verifier may take for a pointer.
#[derive(Clone, Copy)]
pub struct Packed(u64);

impl Packed {
    const NONE: u64 = 0;
    const NEXT: u64 = 1;
    const REDIRECT: u64 = 2;

    /// Packs an answer; `None` where no flow stands for the packet.
    #[inline(always)]
    #[must_use]
    pub const fn new(answer: Result<Option<Action>, DropReason>) -> Self {
        Self(match answer {
            Ok(None) => Self::NONE,
            Ok(Some(Action::Next)) => Self::NEXT,
            Ok(Some(Action::Redirect(code))) => Self::REDIRECT | (code as u32 as u64) << 32,
            Err(reason) => (reason as u32 as u64) << 8,
        })
    }

    /// What was packed.
    #[inline(always)]
    pub fn answer(self) -> Result<Option<Action>, DropReason> {
        match self.0 & 0xff {
            Self::NEXT => Ok(Some(Action::Next)),
            Self::REDIRECT => Ok(Some(Action::Redirect((self.0 >> 32) as i32))),
            _ if self.0 == Self::NONE => Ok(None),
            _ => {
                Err(DropReason::from_number((self.0 >> 8) as u32).unwrap_or(DropReason::Malformed))
            }
        }
    }
}
