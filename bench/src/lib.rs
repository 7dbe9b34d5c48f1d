//! The benchmarks: what a packet, a collection pass and an instance cost.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(
    clippy::indexing_slicing,
    reason = "a benchmark that goes wrong is to stop, and to say where"
)]

pub mod catalogue;
pub mod costs;
pub mod figures;
pub mod memory;
pub mod outputs;
pub mod report;
pub mod run;
pub mod session;
pub mod slices;

pub mod frames;
pub mod guest;
pub mod insist;
pub mod load;
pub mod pair;
pub mod path;
pub mod peers;
pub mod variant;

pub mod across;
pub mod between;
pub mod collect;
pub mod control;
pub mod cpu;
pub mod create;
pub mod datapath;
pub mod dhcp;
pub mod dns;
pub mod drop_all;
pub mod flows;
pub mod full;
pub mod gso;
pub mod latency;
pub mod limit;
pub mod neighbour;
pub mod policy;
pub mod program_cost;
pub mod rate;
pub mod relay;
pub mod replace;
pub mod reverse;
pub mod scale;
pub mod start;
pub mod storm;
pub mod throughput;
