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

/// What a function that is not inlined found out. What takes a deep stack is done by its caller, for nested functions
/// share 512 bytes.
#[derive(Clone, Copy)]
pub enum Judged {
    /// It goes on.
    Done(Action),
    /// No flow stands for it.
    NoFlow,
    /// It asks the DHCP server.
    Dhcp,
    /// It asks the resolver.
    Dns,
}

impl Judged {
    /// The action, where there is one.
    ///
    /// # Errors
    /// `otherwise`, where there is none.
    #[inline(always)]
    pub fn done(self, otherwise: DropReason) -> Result<Action, DropReason> {
        match self {
            Self::Done(action) => Ok(action),
            Self::NoFlow | Self::Dhcp | Self::Dns => Err(otherwise),
        }
    }
}

/// The answer of a function that is not inlined, in one register. The compiler's own packing leaves bits of no
/// meaning in it, which the verifier may take for a pointer.
#[derive(Clone, Copy)]
pub struct Packed(u64);

impl Packed {
    const NO_FLOW: u64 = 0;
    const NEXT: u64 = 1;
    const REDIRECT: u64 = 2;
    const DHCP: u64 = 3;
    const DNS: u64 = 4;

    /// Packs an answer.
    #[inline(always)]
    #[must_use]
    pub const fn new(answer: Result<Judged, DropReason>) -> Self {
        Self(match answer {
            Ok(Judged::NoFlow) => Self::NO_FLOW,
            Ok(Judged::Done(Action::Next)) => Self::NEXT,
            Ok(Judged::Done(Action::Redirect(code))) => Self::REDIRECT | (code as u32 as u64) << 32,
            Ok(Judged::Dhcp) => Self::DHCP,
            Ok(Judged::Dns) => Self::DNS,
            Err(reason) => (reason as u32 as u64) << 8,
        })
    }

    /// Packs what is an action or nothing.
    #[inline(always)]
    #[must_use]
    pub fn of(answer: Result<Action, DropReason>) -> Self {
        Self::new(answer.map(Judged::Done))
    }

    /// Packs an answer that says itself who counts a drop.
    #[inline(always)]
    #[must_use]
    pub const fn with_slot(answer: Result<Action, Dropped>) -> Self {
        match answer {
            Ok(action) => Self::new(Ok(Judged::Done(action))),
            Err(Dropped { slot, reason }) => {
                Self((slot as u64) << 32 | (reason as u32 as u64) << 8)
            }
        }
    }

    /// What was packed by [`Packed::with_slot`].
    ///
    /// # Errors
    /// Who counts the drop, and why it is one.
    #[inline(always)]
    pub fn action(self) -> Result<Action, Dropped> {
        let dropped = |reason| Dropped {
            slot: (self.0 >> 32) as u32,
            reason,
        };
        let without_slot = Self(self.0 & 0xffff_ffff);
        match self.0 & 0xff {
            Self::NEXT | Self::REDIRECT => self
                .answer()
                .and_then(|judged| judged.done(DropReason::Malformed))
                .map_err(dropped),
            _ => Err(dropped(
                without_slot.answer().err().unwrap_or(DropReason::Malformed),
            )),
        }
    }

    /// Whether a drop for this reason was packed, by [`Packed::new`].
    #[inline(always)]
    #[must_use]
    pub const fn is_refused_for(self, reason: DropReason) -> bool {
        self.0 == (reason as u32 as u64) << 8
    }

    /// What was packed.
    #[inline(always)]
    pub fn answer(self) -> Result<Judged, DropReason> {
        match self.0 & 0xff {
            Self::NEXT => Ok(Judged::Done(Action::Next)),
            Self::REDIRECT => Ok(Judged::Done(Action::Redirect((self.0 >> 32) as i32))),
            Self::DHCP => Ok(Judged::Dhcp),
            Self::DNS => Ok(Judged::Dns),
            _ if self.0 == Self::NO_FLOW => Ok(Judged::NoFlow),
            _ => {
                Err(DropReason::from_number((self.0 >> 8) as u32).unwrap_or(DropReason::Malformed))
            }
        }
    }
}
