//! What the policy of an instance says of its guest's flows (P-2, P-3). What is always denied is none of its business.

use netagent_common::drop::DropReason;
use netagent_common::policy::{NO_POLICY, policy_flag};
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::maps;

/// Whether the guest may open a flow to an address, as far as the instance's lists say.
///
/// # Errors
/// Why not.
#[inline(always)]
pub fn judge<A: Family>(interface: &Interface, remote: A) -> Result<(), DropReason> {
    if interface.policy == NO_POLICY {
        return Ok(());
    }
    match maps::verdict(&interface.policy, remote) {
        Some(verdict) => verdict.judge().or_else(|reason| audited(interface, reason)),
        None => Err(DropReason::PolicyMissing),
    }
}

/// Whether the guest may open anything.
///
/// # Errors
/// [`DropReason::DenyAll`].
#[inline(always)]
pub fn judge_any(interface: &Interface) -> Result<(), DropReason> {
    if interface.policy_flags & policy_flag::DENY_ALL == 0 {
        Ok(())
    } else {
        audited(interface, DropReason::DenyAll)
    }
}

/// Whether somebody may have a flow with the guest that the guest did not open: the denied networks may not.
///
/// # Errors
/// [`DropReason::DeniedCidr`].
#[inline(always)]
pub fn judge_peer<A: Family>(interface: &Interface, peer: A) -> Result<(), DropReason> {
    if interface.policy == NO_POLICY {
        return Ok(());
    }
    match maps::verdict(&interface.policy, peer) {
        Some(verdict) if verdict.denies_peers() => audited(interface, DropReason::DeniedCidr),
        Some(_) => Ok(()),
        None => Err(DropReason::PolicyMissing),
    }
}

/// In audit mode, counts what would be dropped, and lets it pass (P-14). What every instance is denied stays denied.
#[inline(always)]
fn audited(interface: &Interface, reason: DropReason) -> Result<(), DropReason> {
    if reason.is_of_policy() && interface.policy_flags & policy_flag::AUDIT != 0 {
        maps::count_audited(interface.slot, reason);
        Ok(())
    } else {
        Err(reason)
    }
}
