//! The real agent in namespaces: real TAPs, a real uplink, and a world behind it.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic is how a test fails"
)]

mod exchange;
mod surroundings;

mod gateway;
mod masquerade;
mod path;
mod segments;
mod sockets;
mod stacks;
mod told;

mod hostile;
mod isolation;
mod noise;
mod owners;
mod services_hostile;

mod dhcp;
mod dns;
mod router_advert;

mod access;
mod custom;
mod guest_formats;
mod interfaces;

mod changes;
mod crash;
mod life;
mod mtu;
mod recovery;
mod refusals;
mod settings;
mod show;
mod sources;
