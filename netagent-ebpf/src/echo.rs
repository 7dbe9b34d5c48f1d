//! Echo requests of a guest to its own gateway are answered here, so that no firewall of the host matters.

use netagent_common::drop::DropReason;
use netagent_common::net::GATEWAY_MAC;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::kernel::Skb;
use crate::maps;
use crate::parse::{Header, Kind, checksum_field, transport_offset};
use crate::verdict::Action;

/// Turns the request into its reply and sends it back.
///
/// # Errors
/// [`DropReason::HelperFailed`].
#[inline(always)]
pub fn answer<A: Family>(
    skb: Skb,
    interface: &Interface,
    header: &Header<A>,
) -> Result<Action, DropReason> {
    let code = skb.window::<2>(transport_offset::<A>())?.byte::<1>();
    skb.window::<12>(0)?
        .set_macs(interface.guest_mac, GATEWAY_MAC);
    A::turn_round(skb, header)?;
    let icmp = skb.window::<2>(transport_offset::<A>())?;
    icmp.set_byte::<0>(A::ECHO_REPLY);
    let field = checksum_field::<A>(Kind::EchoRequest);
    skb.correct_l4_checksum_for_word(field, [A::ECHO_REQUEST, code], [A::ECHO_REPLY, code])?;
    skb.set_mark(maps::mark());
    Ok(Action::Redirect(skb.redirect(interface.ifindex)))
}
