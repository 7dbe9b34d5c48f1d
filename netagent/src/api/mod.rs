//! The REST interface on a unix socket and, where it is wanted, on TCP.

pub mod auth;
mod body;
mod changes;
pub mod error;
mod explain;
mod guest;
mod instances;
mod key;
mod openapi;
pub mod routes;
pub mod socket;
pub mod tcp;
mod tokens;
mod views;
