//! netagent, the network agent of microVM hosts: what should be, what is, and the steps between them.
#![deny(unsafe_code)]

pub mod config;

pub mod access;
pub mod gateway;
pub mod guest;
pub mod instance;
pub mod ipam;
pub mod spec;
pub mod store;

pub mod plan;
pub mod policy;

pub mod host;
pub mod publish;
pub mod services;

pub mod apply;
pub mod netlink;
pub mod observe;

pub mod dns;
pub mod learned;

pub mod agent;

pub mod api;
pub mod cli;
