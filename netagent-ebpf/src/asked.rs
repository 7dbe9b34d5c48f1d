//! Which name server a guest asked, where its question is steered to the resolver (D-2): a few are remembered for each
//! interface, and the number of the one that was asked goes along with the question.

use netagent_common::drop::DropReason;
use netagent_common::services::{Place, REMEMBERED_FIRST, SERVERS};
use netagent_common::vm::Interface;

use crate::kernel;
use crate::maps::{self, FamilyMaps};

/// The number under which a server is remembered. The one remembered first makes room, so a guest that asks very many
/// at once may find an answer under another's address, and asks again.
///
/// # Errors
/// [`DropReason::ServiceLimit`] where there is no room for any of this interface.
#[inline(always)]
pub fn remember<A: FamilyMaps>(interface: &Interface, server: A) -> Result<u8, DropReason> {
    let asked = maps::asked::<A>(interface.slot).ok_or(DropReason::ServiceLimit)?;
    let mut number = REMEMBERED_FIRST;
    while usize::from(number) < SERVERS {
        let known = asked.servers.get(usize::from(number));
        if known.is_some_and(|known| *known == server) {
            return Ok(number);
        }
        number += 1;
    }
    let next = asked.last as u8 & Place::SERVER;
    let next = if next < REMEMBERED_FIRST || next == Place::SERVER {
        REMEMBERED_FIRST
    } else {
        next + 1
    };
    if let Some(known) = asked.servers.get_mut(usize::from(next)) {
        *known = server;
    }
    asked.last = next.into();
    Ok(next)
}

/// The server with a number; `None` where none was asked under it.
#[inline(always)]
pub fn server<A: FamilyMaps>(interface: &Interface, number: u8) -> Option<A> {
    let asked = maps::asked_before::<A>(interface.slot)?;
    // The compiler knows the bound by what was masked before, which the verifier of 6.1 does not: it is masked here.
    let number = kernel::forget(number.into()) & u64::from(Place::SERVER);
    asked.servers.get(number as usize).copied()
}
