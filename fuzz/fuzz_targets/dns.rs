//! DNS messages of guests and servers, by libFuzzer.
#![no_main]

#[path = "../src/dns.rs"]
mod dns;

libfuzzer_sys::fuzz_target!(|message: &[u8]| {
    dns::check(message);
});
