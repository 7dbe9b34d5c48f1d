//! The daemon and its command line.
#![deny(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    netagent::cli::main()
}
