//! What the agent's own servers answer to guests. Nothing else comes this way, and nothing goes to the host.

use netagent_common::drop::DropReason;

use crate::kernel::Skb;
use crate::verdict::{Action, Dropped};

/// Judges a frame from the servers' namespace.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn judge(_skb: Skb) -> Result<Action, Dropped> {
    Err(Dropped::nowhere(DropReason::Unsolicited))
}
