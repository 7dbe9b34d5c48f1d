//! What the policy of an instance says of its guest's flows (P-2, P-3). What is always denied is none of its business.

use netagent_common::drop::DropReason;
use netagent_common::flow::FlowKey;
use netagent_common::learned::LearnedKey;
use netagent_common::net::protocol;
use netagent_common::policy::{NO_POLICY, Verdict, policy_flag};
use netagent_common::services::port;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::{kernel, maps};

/// Whether the guest may open a flow, as far as the instance's lists say.
///
/// # Errors
/// Why not.
#[inline(always)]
pub fn judge<A: Family>(interface: &Interface, key: &FlowKey<A>) -> Result<(), DropReason> {
    if interface.policy == NO_POLICY {
        return Ok(());
    }
    let has_names = interface.policy_flags & policy_flag::NAMES != 0;
    if has_names && is_dns_bypass(key) {
        audited(interface, DropReason::DnsBypass)?;
    }
    match maps::verdict(&interface.policy, key.remote) {
        Some(Verdict::NotAllowed) if has_names && is_learned(interface, key.remote) => Ok(()),
        Some(verdict) => verdict.judge().or_else(|reason| audited(interface, reason)),
        None => Err(DropReason::PolicyMissing),
    }
}

/// Whether a flow asks for names past the resolver (D-2): plain DNS that was not steered, since it comes in fragments or
/// its flow is older than the list; over TLS and QUIC (RFC 7858, RFC 9250); mDNS; LLMNR.
#[inline(always)]
fn is_dns_bypass<A>(key: &FlowKey<A>) -> bool {
    let has_ports = key.protocol == protocol::TCP.into() || key.protocol == protocol::UDP.into();
    let remote_port = u16::from_be_bytes(key.remote_port);
    has_ports && (remote_port == port::DNS || port::DNS_BYPASSES.contains(&remote_port))
}

/// Whether an allowed name led to an address since the instance started (D-4). A flow is about to use it, which no
/// collection pass has seen yet.
#[inline(always)]
fn is_learned<A: Family>(interface: &Interface, address: A) -> bool {
    let key = LearnedKey {
        instance: interface.instance,
        address,
    };
    let Some(learned) = maps::learned(&key) else {
        return false;
    };
    if learned.generation != interface.generation {
        return false;
    }
    learned.used_ns = kernel::now_ns();
    true
}

/// Notes that a flow uses an address that was learned, so that it stays open (D-5).
#[inline(always)]
pub fn note_use<A: Family>(interface: &Interface, address: A, now_ns: u64) {
    if interface.policy_flags & policy_flag::NAMES == 0 {
        return;
    }
    let key = LearnedKey {
        instance: interface.instance,
        address,
    };
    if let Some(learned) = maps::learned(&key) {
        learned.used_ns = now_ns;
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
