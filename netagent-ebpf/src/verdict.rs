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
    /// It is rewritten and goes to an address of the host: as if it had left by the uplink and come back.
    TurnsRound,
    /// Its flow is there now.
    Opened,
    /// Its flow was opened under another policy.
    Stale,
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
            Self::NoFlow
            | Self::Dhcp
            | Self::Dns
            | Self::TurnsRound
            | Self::Opened
            | Self::Stale => Err(otherwise),
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
    const TURNS_ROUND: u64 = 5;
    const OPENED: u64 = 6;
    const STALE: u64 = 7;
    /// Bits of a drop reason; above them stands the slot that counts the drop.
    const REASON: u64 = 0xff_ffff;

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
            Ok(Judged::TurnsRound) => Self::TURNS_ROUND,
            Ok(Judged::Opened) => Self::OPENED,
            Ok(Judged::Stale) => Self::STALE,
            Err(reason) => (reason as u32 as u64) << 8,
        })
    }

    /// Packs what is an action or nothing.
    #[inline(always)]
    #[must_use]
    pub fn of(answer: Result<Action, DropReason>) -> Self {
        Self::new(answer.map(Judged::Done))
    }

    /// Packs an answer whose drop is counted by another slot than the caller's.
    #[inline(always)]
    #[must_use]
    pub fn or_dropped(answer: Result<Judged, Dropped>) -> Self {
        match answer {
            Ok(judged) => Self::new(Ok(judged)),
            Err(Dropped { slot, reason }) => {
                Self((reason as u32 as u64) << 8 | u64::from(slot) << 32)
            }
        }
    }

    /// What was packed by [`Packed::or_dropped`].
    #[inline(always)]
    pub fn answer_or_dropped(self) -> Result<Judged, Dropped> {
        self.answer().map_err(|reason| Dropped {
            slot: (self.0 >> 32) as u32,
            reason,
        })
    }

    /// What was packed.
    #[inline(always)]
    pub fn answer(self) -> Result<Judged, DropReason> {
        match self.0 & 0xff {
            Self::NEXT => Ok(Judged::Done(Action::Next)),
            Self::REDIRECT => Ok(Judged::Done(Action::Redirect((self.0 >> 32) as i32))),
            Self::DHCP => Ok(Judged::Dhcp),
            Self::DNS => Ok(Judged::Dns),
            Self::TURNS_ROUND => Ok(Judged::TurnsRound),
            Self::OPENED => Ok(Judged::Opened),
            Self::STALE => Ok(Judged::Stale),
            _ if self.0 == Self::NO_FLOW => Ok(Judged::NoFlow),
            _ => {
                let reason = ((self.0 >> 8) & Self::REASON) as u32;
                Err(DropReason::from_number(reason).unwrap_or(DropReason::Malformed))
            }
        }
    }
}
