//! Everything that netagent and its eBPF programs agree on, byte for byte. Reading starts here.
#![no_std]
#![deny(unsafe_code)]

pub mod wire;

pub mod names;
pub mod net;

pub mod bucket;
pub mod drop;
pub mod flow;
pub mod fragment;
pub mod learned;
pub mod limit;
pub mod nat;
pub mod policy;
pub mod publish;
pub mod services;
pub mod timeouts;
pub mod vm;

pub mod checksum;
