//! Users and groups that a request names, as the host knows them.

use nix::unistd::{Group, User};

use crate::agent::RequestError;
use crate::spec::Principal;

/// The user that may open a TAP.
pub(crate) fn user(principal: &Principal) -> Result<u32, RequestError> {
    match principal {
        Principal::Id(id) => Ok(*id),
        Principal::Name(name) => match User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            Ok(None) | Err(_) => Err(RequestError::UnknownUser(name.clone())),
        },
    }
}

/// The group that may open a TAP.
pub(crate) fn group(principal: &Principal) -> Result<u32, RequestError> {
    match principal {
        Principal::Id(id) => Ok(*id),
        Principal::Name(name) => match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            Ok(None) | Err(_) => Err(RequestError::UnknownGroup(name.clone())),
        },
    }
}
