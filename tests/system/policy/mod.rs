//! What guests may reach, and how much of it (section P).

mod explain;
mod front;
pub(crate) mod site;

mod always_denied;
mod audit;
mod blocked;
mod kept;
mod listeners;
mod lists;
mod refused;
mod replaced;
mod toward;
mod vm_to_vm;
