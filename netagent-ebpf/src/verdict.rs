//! What becomes of a packet.

use netagent_common::drop::{DropReason, NO_SLOT};

use crate::kernel;

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
    /// Its flow may not go on, for this reason, and is to be ended.
    Forbidden(DropReason),
    /// Its flow must be looked at.
    Unsettled,
    /// Its flow was looked at and may go on, to the interface of this slot.
    Settled(u32),
    /// It is judged as one of the leg in this slot.
    Leg(u32),
}

/// Whether the flow of a packet was looked at, and where it leads; in one register.
#[derive(Clone, Copy)]
pub struct Settled(u64);

impl Settled {
    /// It was not.
    pub const UNKNOWN: Self = Self(0);

    /// The register.
    #[inline(always)]
    #[must_use]
    pub const fn to_number(self) -> u64 {
        self.0
    }

    /// What was [`Settled::to_number`].
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The slot to which it leads, where it was.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> Option<u32> {
        match self.0 {
            0 => None,
            settled => Some((settled >> 32) as u32),
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
    const SILENT: u64 = 8;
    const UNSETTLED: u64 = 9;
    const SETTLED: u64 = 10;
    const FORBIDDEN: u64 = 11;
    const LEG: u64 = 12;

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
            Ok(Judged::Forbidden(reason)) => Self::FORBIDDEN | (reason as u32 as u64) << 32,
            Ok(Judged::Unsettled) => Self::UNSETTLED,
            Ok(Judged::Settled(slot)) => Self::SETTLED | (slot as u64) << 32,
            Ok(Judged::Leg(slot)) => Self::LEG | (slot as u64) << 32,
            Err(reason) => (reason as u32 as u64) << 8,
        })
    }

    /// The register.
    #[inline(always)]
    #[must_use]
    pub const fn to_number(self) -> u64 {
        self.0
    }

    /// What was [`Packed::to_number`].
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Packs what is an action or nothing.
    #[inline(always)]
    #[must_use]
    pub fn of(answer: Result<Action, DropReason>) -> Self {
        Self::new(answer.map(Judged::Done))
    }

    /// Packs a drop.
    #[inline(always)]
    #[must_use]
    pub const fn refused(reason: DropReason) -> Self {
        Self::new(Err(reason))
    }

    /// The same, of which the verifier knows nothing more: else it would follow what comes now once for each reason
    /// there is to drop.
    #[inline(always)]
    #[must_use]
    pub fn forgotten(self) -> Self {
        Self(kernel::forget(self.0))
    }

    /// Packs a drop of which nobody is told, since the packet is no longer what the guest sent.
    #[inline(always)]
    #[must_use]
    pub const fn refused_silently(reason: DropReason) -> Self {
        Self(Self::SILENT | Self::refused(reason).0)
    }

    /// Whether an action was packed.
    #[inline(always)]
    #[must_use]
    pub const fn is_done(self) -> bool {
        matches!(self.0 & 0xff, Self::NEXT | Self::REDIRECT)
    }

    /// Whether [`Judged::NoFlow`] was packed.
    #[inline(always)]
    #[must_use]
    pub const fn is_no_flow(self) -> bool {
        self.0 == Self::NO_FLOW
    }

    /// Whether [`Judged::Dns`] was packed.
    #[inline(always)]
    #[must_use]
    pub const fn is_for_dns(self) -> bool {
        self.0 == Self::DNS
    }

    /// Whether [`Judged::Dhcp`] was packed.
    #[inline(always)]
    #[must_use]
    pub const fn is_for_dhcp(self) -> bool {
        self.0 == Self::DHCP
    }

    /// Whether [`Judged::TurnsRound`] was packed.
    #[inline(always)]
    #[must_use]
    pub const fn is_turning_round(self) -> bool {
        self.0 == Self::TURNS_ROUND
    }

    /// Whether [`Judged::Opened`] was packed.
    #[inline(always)]
    #[must_use]
    pub const fn is_opened(self) -> bool {
        self.0 == Self::OPENED
    }

    /// Whether [`Judged::Stale`] was packed.
    #[inline(always)]
    #[must_use]
    pub const fn is_stale(self) -> bool {
        self.0 == Self::STALE
    }

    /// Whether [`Judged::Unsettled`] was packed.
    #[inline(always)]
    #[must_use]
    pub const fn is_unsettled(self) -> bool {
        self.0 == Self::UNSETTLED
    }

    /// The number of the reason, where [`Judged::Forbidden`] was packed.
    #[inline(always)]
    #[must_use]
    pub const fn forbidden(self) -> Option<u64> {
        if self.0 & 0xff == Self::FORBIDDEN {
            Some(self.0 >> 32)
        } else {
            None
        }
    }

    /// Where [`Judged::Settled`] was packed.
    #[inline(always)]
    #[must_use]
    pub const fn settled(self) -> Option<Settled> {
        if self.0 & 0xff == Self::SETTLED {
            Some(Settled(self.0))
        } else {
            None
        }
    }

    /// Whether [`Judged::Leg`] was packed; the slot is [`Packed::slot`].
    #[inline(always)]
    #[must_use]
    pub const fn is_of_leg(self) -> bool {
        self.0 & 0xff == Self::LEG
    }

    /// Whether a drop for this reason was packed.
    #[inline(always)]
    #[must_use]
    pub const fn is_refused_for(self, reason: DropReason) -> bool {
        self.0 == Self::refused(reason).0
    }

    /// Why it is dropped, where it is and somebody may be told.
    #[inline(always)]
    #[must_use]
    pub const fn refusal(self) -> Option<DropReason> {
        if self.0 & 0xff != 0 {
            return None;
        }
        self.reason()
    }

    #[inline(always)]
    const fn reason(self) -> Option<DropReason> {
        DropReason::from_number((self.0 >> 8) as u32 & 0xff_ffff)
    }

    /// The same, but for [`Judged::NoFlow`] and [`Judged::Stale`], which become a drop for this reason.
    #[inline(always)]
    #[must_use]
    pub const fn or_refused_for(self, reason: DropReason) -> Self {
        if self.is_no_flow() || self.is_stale() {
            Self::refused(reason)
        } else {
            self
        }
    }

    /// Packs an answer that says itself who counts a drop.
    #[inline(always)]
    #[must_use]
    pub const fn with_slot(answer: Result<Judged, Dropped>) -> Self {
        match answer {
            Ok(judged) => Self::new(Ok(judged)),
            Err(Dropped { slot, reason }) => Self((slot as u64) << 32 | Self::refused(reason).0),
        }
    }

    /// What was packed by [`Packed::with_slot`].
    ///
    /// # Errors
    /// Who counts the drop, and why it is one.
    #[inline(always)]
    pub fn action_with_slot(self) -> Result<Action, Dropped> {
        let slot = self.slot();
        self.action().map_err(|reason| Dropped { slot, reason })
    }

    /// Who counts a drop that was packed by [`Packed::with_slot`].
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The action that was packed.
    ///
    /// # Errors
    /// Why there is none.
    #[inline(always)]
    pub fn action(self) -> Result<Action, DropReason> {
        match self.0 & 0xff {
            Self::NEXT => Ok(Action::Next),
            Self::REDIRECT => Ok(Action::Redirect((self.0 >> 32) as i32)),
            _ => Err(self.reason().unwrap_or(DropReason::Malformed)),
        }
    }
}
