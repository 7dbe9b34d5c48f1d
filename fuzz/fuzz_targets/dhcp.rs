//! A guest's DHCP messages, by libFuzzer.
#![no_main]

#[path = "../src/dhcp.rs"]
mod dhcp;

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    dhcp::check(message);
});
