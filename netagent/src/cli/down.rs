//! `netagent down`: removes what an agent left, without an agent.

use std::process::ExitCode;

use anyhow::Result;

use crate::agent::{host_options, open_store, store_id, take_down};
use crate::apply::KernelHost;
use crate::cli::{LogFormat, run, table};
use crate::config::{Config, Overrides};

pub(super) fn down(overrides: &Overrides, format: LogFormat) -> Result<ExitCode> {
    run::start_log(format);
    let config = Config::load(overrides)?;
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
    table::print(&format!(
        "removed {} TAPs and {} pins",
        cleaned.links.len(),
        cleaned.pins
    ))?;
    Ok(ExitCode::SUCCESS)
}
