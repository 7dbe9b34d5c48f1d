//! The programs in the kernel: map state and a packet in, verdict, packet and map state out.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic is how a test fails"
)]

mod addresses;
mod answers;
mod bandwidth;
mod drop_all;
mod drops;
mod errors;
mod exhaustion;
mod forged;
mod fragments;
mod frames;
mod garbage;
mod lent;
mod limits;
mod listeners;
mod local;
mod mappings;
mod mss;
mod names;
mod nat;
mod paths;
mod pieces;
mod policy;
mod ports;
mod program_cost;
mod published;
mod quotes;
mod relay;
mod requests;
mod segments;
mod services;
mod shortcut;
mod silence;
mod snat;
mod spoofs;
mod states;
mod strays;
mod vm_to_vm;

mod collect;
mod loads;
mod policies;
mod records;

mod rfc_checklist;
