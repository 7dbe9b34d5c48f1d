//! The REST interface on a unix socket.

pub mod error;
pub mod instances;
pub mod routes;
pub mod socket;
