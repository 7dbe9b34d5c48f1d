//! The datapath: everything that the programs of `main.rs` decide. It compiles for the host too, where the
//! compiler and its lints see it; what needs no kernel lies in `netagent-common` and is tested there.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![deny(unsafe_code)]

pub mod verdict;

pub mod drop_all;
pub mod from_services;
pub mod from_uplink;
pub mod from_vm;
pub mod socket;
pub mod to_vm;

pub mod apart;
pub mod arp;
pub mod asked;
pub mod collect;
pub mod conntrack;
pub mod echo;
pub mod family;
pub mod fragment;
pub mod host_error;
pub mod icmp;
pub mod limit;
pub mod listener;
pub mod mapping;
pub mod mss;
pub mod nat;
pub mod neighbour;
pub mod opening;
pub mod parse;
pub mod policy;
pub mod ports;
pub mod publish;
pub mod quote;
pub mod relay;
pub mod reset;
pub mod resume;
pub mod services;
pub mod shortcut;
pub mod spoof;
pub mod vm_to_vm;

pub mod kernel;
pub mod maps;
pub mod packet;
