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
mod ports;
mod segments;
mod snat;
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
mod dns_steering;
mod router_advert;

mod access;
mod custom;
mod guest_formats;
mod interfaces;

mod changes;
mod closed_ways;
mod crash;
mod doctor;
mod drop_all;
mod life;
mod limits;
mod mtu;
mod policy;
mod published_host;
mod published_kills;
mod published_ports;
mod recovery;
mod refusals;
mod relay;
mod relay_requests;
mod replaced_binary;
mod second_uplink;
mod settings;
mod show;
mod sources;
mod uplink_life;
