//! Fixtures of the kernel, system and guest tests and of the benchmarks: namespaces, TAPs, packets, the agent.
//!
//! A fixture panics where it cannot do its work, with a sentence that says how to mend it: a privileged test
//! that cannot run fails, it is never skipped.
#![deny(unsafe_code)]
#![allow(
    clippy::indexing_slicing,
    reason = "fixtures run in tests only: a panic is how a test fails"
)]

pub mod deadline;
pub mod random;
pub mod sys;

pub mod client;
pub mod netns;
pub mod ping;
pub mod second_uplink;
pub mod server;
pub mod world;

pub mod fragment;
pub mod frame;
pub mod neighbour;
pub mod packet;

pub mod dhcp;
pub mod router;

pub mod raw;
pub mod tap;

pub mod agent;
pub mod bpffs;
pub mod cloud_init;
pub mod database;
pub mod guest;
pub mod http;
pub mod limits;
pub mod numbered;
pub mod rebuilt;
pub mod relay;
pub mod stack;
pub mod talk;

pub mod demand;

pub mod dhcp_client;
pub mod dnsmasq;
pub mod name_server;
pub mod resolve;
pub mod upstream;

pub mod tls;

pub mod recovery;

pub mod coverage;
pub mod prog_run;
pub mod program_cost;
pub mod published;
pub mod replacing;
pub mod route;
pub mod scene;
