//! Real VMs: one on a TAP of netagent, and one whose kernel is the oldest that netagent runs on.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic is how a test fails"
)]

mod machine;

mod on_a_tap;

mod configures_itself;

mod kernel_floor;

mod relay;
