//! Real virtual machines: a guest on a TAP of netagent, and netagent on the oldest kernel that it supports.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic is how a test fails"
)]

mod vm;

mod boots;
mod floor;
