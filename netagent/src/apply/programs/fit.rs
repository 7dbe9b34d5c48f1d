//! Whether a pinned map is what the programs expect.

use std::collections::BTreeMap;

use aya::maps::{HashOfMaps, Map, MapData, MapError, MapInfo};
use aya_obj::Object;
use netagent_common::policy::{NO_POLICY, PolicyId};
use nix::libc;

use crate::apply::pins::Pins;
use crate::apply::programs::LoadError;

/// aya takes whatever lies at the pin of a map; a map of another layout would be read as ours.
pub(super) fn check_pinned(
    pins: &Pins,
    name: &'static str,
    object: &Object,
    sizes: &BTreeMap<&'static str, u32>,
) -> Result<(), LoadError> {
    let declared = object.maps.get(name).ok_or(LoadError::Absent(name))?;
    let found = MapInfo::from_pin(pins.map(name)).map_err(LoadError::map(name))?;
    let kind = found.map_type().map_err(LoadError::map(name))? as u32;
    let entries = sizes.get(name).copied().unwrap_or(declared.max_entries());
    for (what, found, wanted) in [
        ("type", kind, declared.map_type()),
        ("key size", found.key_size(), declared.key_size()),
        ("value size", found.value_size(), declared.value_size()),
        ("size", found.max_entries(), entries),
        ("flags", found.map_flags(), declared.map_flags()),
    ] {
        if found != wanted {
            return Err(LoadError::Unfit {
                name,
                what,
                found,
                wanted,
            });
        }
    }
    let Some(inner) = declared.inner() else {
        return Ok(());
    };
    let takes = takes_inner(pins, name, &inner).map_err(LoadError::map(name))?;
    takes.then_some(()).ok_or(LoadError::UnfitInner { name })
}

/// Whether a pinned map of policies takes maps of this definition. The kernel does not show which it takes, but refuses
/// others: one is offered to an entry that is never there, so that nothing changes.
fn takes_inner(pins: &Pins, name: &str, inner: &aya_obj::Map) -> Result<bool, MapError> {
    const REPLACE_ONLY: u64 = 2;
    // The same without its type information, which belongs to the object.
    let inner = aya_obj::Map::new_from_params(
        inner.map_type(),
        inner.key_size(),
        inner.value_size(),
        inner.max_entries(),
        inner.map_flags(),
    );
    let offered = MapData::create(inner, "fits", None)?;
    let outer = Map::from_map_data(MapData::from_pin(pins.map(name))?)?;
    let mut outer: HashOfMaps<_, PolicyId> = HashOfMaps::try_from(outer)?;
    match outer.insert(NO_POLICY, &offered, REPLACE_ONLY) {
        Err(MapError::SyscallError(error)) => match error.io_error.raw_os_error() {
            Some(libc::ENOENT) => Ok(true),
            Some(libc::EINVAL) => Ok(false),
            _ => Err(error.into()),
        },
        // What is there was taken.
        inserted => inserted.map(|()| true),
    }
}
