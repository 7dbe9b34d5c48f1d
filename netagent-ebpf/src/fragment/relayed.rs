//! Fragments between a client and its relay: nothing of them changes.

use netagent_common::drop::DropReason;
use netagent_common::flow::{FlowKey, Opener, Sender};
use netagent_common::fragment::FROM_RELAY;
use netagent_common::vm::Interface;

use crate::family::Family;
use crate::fragment::{Fragment, REACH, check, fits, key, key_from_vm, ports, remember};
use crate::from_uplink::hand_over;
use crate::kernel::Skb;
use crate::packet::Origin;
use crate::parse::{Kind, Transport};
use crate::verdict::Judged;
use crate::{conntrack, limit, maps, relay, spoof};

/// Passes a fragment of a client on to its relay.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn to_relay(skb: Skb, interface: &Interface) -> Result<Judged, DropReason> {
    let leg = relay::leg(interface)?;
    fits(skb, leg.mtu)?;
    limit::from_vm(skb, interface, (1, skb.len()))?;
    hand_over(skb, leg).map(Judged::Done)
}

/// A fragment that a relay passes on to its client.
///
/// # Errors
/// Why it is dropped.
#[inline(always)]
pub fn to_client<A: Family>(skb: Skb, client: &Interface) -> Result<Judged, DropReason> {
    skb.reach::<REACH>(Origin::Vm);
    let fragment = A::fragment(skb)?;
    let header = fragment.header;
    spoof::check_no_partial_checksum(skb)?;
    check(skb, &fragment)?;
    let fragment_key = key(FROM_RELAY | client.instance, &fragment);
    let transport = ports(skb, &fragment, &fragment_key)?;
    if transport.kind == Kind::Datagram {
        spoof::check_dhcp::<A>(&transport)?;
    }
    let key = key_to_client(client, &fragment, &transport);
    let Some(flow) = maps::flow(&key) else {
        return Ok(Judged::NoFlow);
    };
    if !Opener::is_by_relay(flow.opener) || !conntrack::is_current(flow, client) {
        return Ok(Judged::Stale);
    }
    if header.first_fragment {
        conntrack::touch(flow, Sender::World, transport.kind);
        remember(client, &fragment_key, &fragment, &transport)?;
    }
    fits(skb, client.mtu)?;
    limit::to_vm(skb, client, (1, skb.len()))?;
    hand_over(skb, client).map(Judged::Done)
}

/// Key of the flow of a fragment for a client of a relay, and its kind where it is the first.
#[inline(always)]
pub fn key_at_client<A: Family>(
    skb: Skb,
    client: &Interface,
) -> Option<(FlowKey<A>, Option<Kind>)> {
    let fragment = A::fragment(skb).ok()?;
    let fragment_key = key(FROM_RELAY | client.instance, &fragment);
    let transport = ports(skb, &fragment, &fragment_key).ok()?;
    let kind = fragment.header.first_fragment.then_some(transport.kind);
    Some((key_to_client(client, &fragment, &transport), kind))
}

/// Key of the flow of a fragment of a client, the first or a later one.
#[inline(always)]
pub fn key_of_client<A: Family>(skb: Skb, client: &Interface) -> Option<FlowKey<A>> {
    let fragment = A::fragment(skb).ok()?;
    let transport = ports(skb, &fragment, &key(client.instance, &fragment)).ok()?;
    let (source, destination) = (transport.source, transport.destination);
    Some(key_from_vm(client, &fragment, source, destination))
}

#[inline(always)]
fn key_to_client<A: Family>(
    client: &Interface,
    fragment: &Fragment<A>,
    transport: &Transport,
) -> FlowKey<A> {
    FlowKey {
        instance: client.instance,
        guest: fragment.header.destination,
        remote: fragment.header.source,
        guest_port: transport.destination,
        remote_port: transport.source,
        protocol: fragment.protocol.into(),
    }
}
