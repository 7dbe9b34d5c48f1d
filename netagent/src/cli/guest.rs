//! `guest`: what a guest is to be configured with, in a form to paste.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hyper::Method;
use serde_json::json;

use crate::cli::Client;
use crate::cli::client::{call_text, instance_path};
use crate::cli::table::{print, print_json};
use crate::guest::format::Format;

/// What the list of words says.
pub(super) const ABOUT_SHORT: &str =
    "Print what the guest is to be configured with, ready to paste";

/// What its own help and page say.
pub(super) const ABOUT: &str = "Print what the guest is to be configured with, ready to paste

Interfaces are eth0, eth1, ... in the order of the request. json, cmdline and cloud-init tell the guest what to set: \
they leave out interfaces with autoconfig: false, and the others keep their numbers. firecracker and qemu tell the VMM \
what to build: they list every interface.";

#[derive(Args, Debug)]
pub(super) struct GuestArgs {
    /// Id or name of the instance
    instance: String,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    client: Client,
}

/// The text as it is; with `--json` one that is no JSON comes as a member.
pub(super) fn guest(args: &GuestArgs) -> Result<ExitCode> {
    let path = instance_path(&args.instance)?;
    let path = format!("{path}/guest?format={}", args.format.name());
    let text = call_text(&args.client.socket, Method::GET, &path)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    if args.client.json && !args.format.is_json() {
        print_json(&json!({ "format": args.format.name(), "text": text }))?;
    } else {
        print(text)?;
    }
    Ok(ExitCode::SUCCESS)
}
