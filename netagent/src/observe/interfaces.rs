//! Looks at some interfaces alone, which costs one question for a TAP that is not there.

use crate::apply::links;
use crate::host::Place;
use crate::netlink::{Netlink, NetlinkError};
use crate::observe::{links as observed_links, routes};
use crate::plan::Observed;

/// Replaces what `observed` says of the link at one place: the one with its index, and the one with its name.
///
/// # Errors
/// Where netlink refuses.
pub async fn read(
    strict: &Netlink,
    place: &Place,
    observed: &mut Observed,
) -> Result<(), NetlinkError> {
    let gone: Vec<u32> = observed
        .links
        .iter()
        .filter(|(ifindex, link)| **ifindex == place.ifindex || link.name == place.tap_name)
        .map(|(ifindex, _)| *ifindex)
        .collect();
    for ifindex in gone {
        forget(ifindex, observed);
    }
    let named = links::named(strict, &place.tap_name).await?;
    let is_there = named
        .as_ref()
        .is_some_and(|link| link.header.index == place.ifindex);
    let indexed = if place.ifindex == 0 || is_there {
        None
    } else {
        links::indexed(strict, place.ifindex).await?
    };
    for link in [named, indexed].into_iter().flatten() {
        let (ifindex, link) = observed_links::read_one(strict, link).await?;
        let neighbours = routes::read_neighbours_of(strict, ifindex).await?;
        observed.neighbours.extend(neighbours);
        let found = routes::read_of(strict, ifindex).await?;
        observed.routes.extend(found);
        observed.links.insert(ifindex, link);
    }
    Ok(())
}

fn forget(ifindex: u32, observed: &mut Observed) {
    observed.links.remove(&ifindex);
    observed.neighbours.retain(|one| one.ifindex != ifindex);
    observed.routes.retain(|one| one.ifindex != ifindex);
}
