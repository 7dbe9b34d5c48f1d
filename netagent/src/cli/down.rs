//! `netagent down`: removes what an agent left, without an agent.

use std::process::ExitCode;

use anyhow::Result;

use crate::agent::{host_options, open_store, store_id, take_down};
use crate::apply::KernelHost;
use crate::cli::{DownArgs, LogFormat, run, table};
use crate::config::Config;

pub(super) fn down(args: &DownArgs, format: LogFormat) -> Result<ExitCode> {
    run::start_log(format);
    let config = Config::load(&args.overrides)?;
    let cleaned = run::runtime()?.block_on(async {
        let (id, _lock) = store_id::open(&config.state_dir)?;
        // Where the database cannot be read, what it says of lent TAPs is lost, and all the rest still goes.
        let store = open_store(&config);
        let mut host = KernelHost::open(host_options(&config, &id))?;
        if let Err(error) = &store {
            tracing::warn!(%error, "taking down without the database");
        }
        take_down(&mut host, &id, store.ok().as_ref()).await
    })?;
    // `--all` is how it is asked for in scripts; there is nothing less to ask for.
    tracing::debug!(all = args.all, "taken down");
    let (links, pins) = (&cleaned.links, cleaned.pins);
    if args.json {
        table::print_json(&serde_json::json!({ "links": links, "pins": pins }))?;
    } else {
        table::print(&format!("removed {} TAPs and {pins} pins", links.len()))?;
    }
    Ok(ExitCode::SUCCESS)
}
