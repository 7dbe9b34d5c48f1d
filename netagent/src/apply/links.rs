//! Changes links through netlink.

use std::collections::BTreeSet;

use ipnet::IpNet;
use netagent_common::net::GATEWAY_MAC;
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use crate::apply::addresses::{add_address, remove_address};
use crate::apply::queues;
use crate::apply::settings::{self, SettingError};
use crate::apply::tap::{TapError, UnfinishedTap};
use crate::instance::Before;
use crate::netlink::{Netlink, NetlinkError};
use crate::observe::links as observed_links;
use crate::plan::{LENT, TapSpec};

/// First number tried for the group of links that are deleted together.
const GROUP: u32 = 0x6e61_0000;

/// Why a link is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The name or the index belongs to a device that is not the one meant.
    #[error(
        "'{name}' has index {found}, not {wanted}: a device of another owner has taken the name"
    )]
    Foreign {
        /// Name that both have.
        name: String,
        /// Index that was chosen.
        wanted: u32,
        /// Index of the device that is there.
        found: u32,
    },
    /// Somebody was quicker than the owner: what that queue sends would pass for the guest's.
    #[error(
        "the new TAP '{name}' has {held} queues, not 1: another process attached one before it had an owner"
    )]
    QueueTaken {
        /// Its name.
        name: String,
        /// Queues that somebody holds.
        held: u32,
    },
    /// The device file refused.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// Netlink refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting cannot be written.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// Makes a TAP and configures it, down. It outlives the agent only when it is complete.
pub async fn create_tap(netlink: &Netlink, tap: &TapSpec) -> Result<(), LinkError> {
    if let Some(link) = named(netlink, &tap.name).await? {
        if link.header.index != tap.ifindex {
            let (name, wanted, found) = (tap.name.clone(), tap.ifindex, link.header.index);
            return Err(LinkError::Foreign {
                name,
                wanted,
                found,
            });
        }
        if !is_half_made(&link) {
            return configure_tap(netlink, tap).await;
        }
        // Its maker is dead, so somebody else holds it, from before it had an owner.
        delete(netlink, tap.ifindex).await?;
    }
    let unfinished = UnfinishedTap::create(tap)?;
    if tap.queues > 1 {
        check_queues(netlink, tap).await?;
    }
    configure_tap(netlink, tap).await?;
    unfinished.persist()?;
    Ok(())
}

/// Without alias and never up: it was not configured.
fn is_half_made(link: &LinkMessage) -> bool {
    alias(link).is_none() && !link.header.flags.contains(LinkFlags::Up)
}

/// From here on only the owner can attach queues. One that was attached before would keep the TAP alive, so
/// the TAP is deleted.
async fn check_queues(netlink: &Netlink, tap: &TapSpec) -> Result<(), LinkError> {
    let link = indexed(netlink, tap.ifindex).await?;
    let held = link.as_ref().and_then(queues::held).unwrap_or(0);
    if held == 1 {
        return Ok(());
    }
    delete(netlink, tap.ifindex).await?;
    let name = tap.name.clone();
    Err(LinkError::QueueTaken { name, held })
}

/// Sets MAC address, MTU, alias, settings and queueing of a TAP.
pub async fn configure_tap(netlink: &Netlink, tap: &TapSpec) -> Result<(), LinkError> {
    // The alias first: it says that a TAP of the user's is to be given back, whatever follows.
    set(
        netlink,
        tap.ifindex,
        LinkAttribute::IfAlias(tap.alias.clone()),
    )
    .await?;
    let mut message = link(tap.ifindex);
    message.attributes = vec![
        LinkAttribute::Address(GATEWAY_MAC.to_vec()),
        LinkAttribute::Mtu(tap.mtu),
    ];
    netlink
        .change(RouteNetlinkMessage::SetLink(message), 0)
        .await?;
    settings::write(&tap.name, tap.v6)?;
    without_queue(netlink, tap.ifindex).await?;
    Ok(())
}

/// How a link is now; `None` where there is none of this name.
pub async fn before(netlink: &Netlink, name: &str) -> Result<Option<Before>, NetlinkError> {
    let Some(found) = named(netlink, name).await? else {
        return Ok(None);
    };
    let (ifindex, link) = observed_links::read_one(netlink, found).await?;
    Ok(Some(Before {
        ifindex,
        mac: link.mac,
        mtu: link.mtu,
        alias: link.alias,
        up: link.up,
        addresses: link.addresses,
        settings: settings::read(name),
    }))
}

/// Gives a link back as it was before; it is down and without programs. The alias goes last. Where nobody knows how
/// it was, only the alias goes.
pub async fn give_back(
    netlink: &Netlink,
    ifindex: u32,
    before: Option<&Before>,
) -> Result<(), LinkError> {
    let Some(found) = indexed(netlink, ifindex).await? else {
        return Ok(());
    };
    if let Some(before) = before {
        keep_addresses(netlink, found, &before.addresses).await?;
        let mut message = link(ifindex);
        message.attributes = vec![
            LinkAttribute::Address(before.mac.to_vec()),
            LinkAttribute::Mtu(before.mtu),
        ];
        netlink
            .change(RouteNetlinkMessage::SetLink(message), 0)
            .await?;
        settings::restore(&before.settings)?;
        set_up(netlink, ifindex, before.up).await?;
        // The kernel took addresses away with the link, and made link-local ones with its settings.
        if let Some(found) = indexed(netlink, ifindex).await? {
            let now = keep_addresses(netlink, found, &before.addresses).await?;
            for address in before.addresses.difference(&now) {
                add_address(netlink, ifindex, *address).await?;
            }
        }
    }
    let alias = before.and_then(|before| before.alias.clone());
    let alias = LinkAttribute::IfAlias(alias.unwrap_or_default());
    Ok(set(netlink, ifindex, alias).await?)
}

/// Removes every address of a link but these; the addresses that it had.
async fn keep_addresses(
    netlink: &Netlink,
    found: LinkMessage,
    kept: &BTreeSet<IpNet>,
) -> Result<BTreeSet<IpNet>, NetlinkError> {
    let (ifindex, now) = observed_links::read_one(netlink, found).await?;
    for address in now.addresses.difference(kept) {
        remove_address(netlink, ifindex, *address).await?;
    }
    Ok(now.addresses)
}

async fn set(
    netlink: &Netlink,
    ifindex: u32,
    attribute: LinkAttribute,
) -> Result<(), NetlinkError> {
    let mut message = link(ifindex);
    message.attributes.push(attribute);
    netlink
        .change(RouteNetlinkMessage::SetLink(message), 0)
        .await
}

/// Gives a link its alias.
pub async fn set_alias(netlink: &Netlink, ifindex: u32, alias: &str) -> Result<(), NetlinkError> {
    set(netlink, ifindex, LinkAttribute::IfAlias(alias.to_owned())).await
}

/// A TAP has its own ring: a queue before it costs 70 ns a packet and delays (measured).
async fn without_queue(netlink: &Netlink, ifindex: u32) -> Result<(), NetlinkError> {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = TcHandle::ROOT;
    message
        .attributes
        .push(TcAttribute::Kind("noqueue".to_owned()));
    netlink
        .change(
            RouteNetlinkMessage::NewQueueDiscipline(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .await
}

/// Sets a link up or down. One that is gone is down.
pub async fn set_up(netlink: &Netlink, ifindex: u32, up: bool) -> Result<(), NetlinkError> {
    let mut message = link(ifindex);
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = if up {
        LinkFlags::Up
    } else {
        LinkFlags::empty()
    };
    match netlink
        .change(RouteNetlinkMessage::SetLink(message), 0)
        .await
    {
        Err(error) if !up && error.is(Errno::ENODEV) => Ok(()),
        result => result,
    }
}

/// Deletes a link, but only one with this index and this alias (S-4). Says whether one was deleted.
pub async fn remove(netlink: &Netlink, ifindex: u32, alias: &str) -> Result<bool, NetlinkError> {
    let Some(found) = indexed(netlink, ifindex).await? else {
        return Ok(false);
    };
    if self::alias(&found) != Some(alias) {
        return Ok(false);
    }
    delete(netlink, ifindex).await
}

async fn delete(netlink: &Netlink, ifindex: u32) -> Result<bool, NetlinkError> {
    match netlink
        .change(RouteNetlinkMessage::DelLink(link(ifindex)), 0)
        .await
    {
        Err(error) if error.is(Errno::ENODEV) => Ok(false),
        result => result.map(|()| true),
    }
}

/// Deletes every link whose alias starts with `prefix`, all at once: one by one each waits 20 ms for RCU, by
/// group 0.3 ms (measured). Returns their names.
pub async fn remove_marked(netlink: &Netlink, prefix: &str) -> Result<Vec<String>, LinkError> {
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let (mut ours, mut lent) = (Vec::new(), Vec::new());
    let mut groups = BTreeSet::new();
    for answer in netlink.dump(question).await? {
        let RouteNetlinkMessage::NewLink(found) = answer else {
            continue;
        };
        groups.extend(found.attributes.iter().find_map(group));
        match alias(&found) {
            // Somebody else's: it is freed, and stays.
            Some(alias) if alias.starts_with(prefix) && alias.ends_with(LENT) => {
                lent.push(found.header.index);
            }
            Some(alias) if alias.starts_with(prefix) => ours.push(found),
            Some(_) | None => {}
        }
    }
    for ifindex in lent {
        set_up(netlink, ifindex, false).await?;
        give_back(netlink, ifindex, None).await?;
    }
    let free = (GROUP..).find(|group| !groups.contains(group));
    let Some(group) = free.filter(|_| !ours.is_empty()) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for found in &ours {
        let mut message = link(found.header.index);
        message.attributes.push(LinkAttribute::Group(group));
        let grouped = netlink.change(RouteNetlinkMessage::SetLink(message), 0);
        if !is_gone(grouped.await)? {
            names.extend(name(found));
        }
    }
    let mut all = LinkMessage::default();
    all.attributes.push(LinkAttribute::Group(group));
    is_gone(netlink.change(RouteNetlinkMessage::DelLink(all), 0).await)?;
    Ok(names)
}

/// Whether the link of a change was gone already: the way to the servers of an agent that was killed goes by itself, in
/// the kernel's own time.
fn is_gone(changed: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match changed {
        Err(error) if error.is(Errno::ENODEV) => Ok(true),
        result => result.map(|()| false),
    }
}

fn group(attribute: &LinkAttribute) -> Option<u32> {
    if let LinkAttribute::Group(group) = attribute {
        Some(*group)
    } else {
        None
    }
}

fn name(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute {
            Some(name.clone())
        } else {
            None
        }
    })
}

/// The link of this name.
pub async fn named(netlink: &Netlink, name: &str) -> Result<Option<LinkMessage>, NetlinkError> {
    let mut question = LinkMessage::default();
    question
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    one(netlink, question).await
}

/// The link of this index.
pub async fn indexed(netlink: &Netlink, ifindex: u32) -> Result<Option<LinkMessage>, NetlinkError> {
    one(netlink, link(ifindex)).await
}

async fn one(
    netlink: &Netlink,
    question: LinkMessage,
) -> Result<Option<LinkMessage>, NetlinkError> {
    match netlink.get(RouteNetlinkMessage::GetLink(question)).await {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(link)),
        Ok(_) => Ok(None),
        Err(error) if error.is(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The alias of a link, where it has one.
pub fn alias(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::IfAlias(alias) = attribute {
            Some(alias.as_str())
        } else {
            None
        }
    })
}

fn link(ifindex: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
}
