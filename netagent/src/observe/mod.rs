//! Looks at the host: what links, routes, neighbours and events say.

pub mod events;
pub mod interfaces;
pub mod links;
pub mod routes;
