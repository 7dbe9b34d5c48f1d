//! `netagent down`: removes what an agent left, without an agent.

use std::process::ExitCode;

use anyhow::Result;

use crate::agent::{StartError, clean_host, host_options, store_id};
use crate::apply::KernelHost;
use crate::cli::{LogFormat, run, table};
use crate::config::{Config, Overrides};

pub(super) fn down(overrides: &Overrides, format: LogFormat) -> Result<ExitCode> {
    run::start_log(format);
    let config = Config::load(overrides)?;
    let cleaned = run::runtime()?.block_on(async {
        let (id, _lock) = store_id::open(&config.state_dir)?;
        let mut host = KernelHost::open(host_options(&config, &id))?;
        Ok::<_, StartError>(clean_host(&mut host).await?)
    })?;
    table::print(&format!(
        "removed {} TAPs and {} pins",
        cleaned.links.len(),
        cleaned.pins
    ))?;
    Ok(ExitCode::SUCCESS)
}
