//! `netagent run`: the agent, until a signal ends it.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::agent::{self, host_options, store_id};
use crate::api::auth::Peer;
use crate::api::tcp::TcpEntrance;
use crate::api::{routes, socket};
use crate::apply::KernelHost;
use crate::cli::{LogFormat, doctor, notify};
use crate::config::{Config, Overrides};

/// Threads of the runtime: one for the agent's task, one for the API.
const THREADS: usize = 2;
/// How long open connections may keep the end waiting.
const GRACE: Duration = Duration::from_secs(5);

pub(super) fn run(overrides: &Overrides, format: LogFormat) -> Result<ExitCode> {
    start_log(format);
    let config = Config::load(overrides)?;
    if let Some((what, fix)) = doctor::first_obstacle(&config) {
        bail!("{what}: {fix}");
    }
    raise_descriptor_limit();
    runtime()?.block_on(serve(config))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("cannot start threads")
}

/// Log lines go to standard error; `RUST_LOG` sets what is logged.
pub(super) fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_env_filter(filter);
    match format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// As many descriptors as the limit can be raised to: thousands of queries may wait, each with a socket of its own.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(now, most)| match now {
        _ if now < most => setrlimit(Resource::RLIMIT_NOFILE, most, most),
        // The unit sets both, and lets nobody change them.
        _ => Ok(()),
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// An error means that the sender is gone, which is the end as well.
async fn over(mut ended: watch::Receiver<bool>) {
    ended.wait_for(|end| *end).await.ok();
}

async fn serve(config: Config) -> Result<()> {
    let (end, ended) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (id, lock) = store_id::open(&config.state_dir)?;
    let store = agent::open_store(&config).map_err(agent::StartError::from)?;
    let socket = socket::bind(&config.api)?;
    // Whatever is wrong with address or certificate is said before the host is touched.
    let entrance = TcpEntrance::open(&config.api).await?;
    let host = KernelHost::open(host_options(&config, &id)).map_err(agent::StartError::from)?;
    let (agent, handle) = agent::start(host, config.clone(), &id, store).await?;
    let watched = handle.clone();
    let listener = UnixListener::from_std(socket.listener)?;
    let router =
        routes::router(handle, Arc::new(config)).into_make_service_with_connect_info::<Peer>();
    let api = axum::serve(listener, router.clone()).with_graceful_shutdown(over(ended.clone()));
    let api = tokio::spawn(api.into_future());
    let remote = entrance.map(|entrance| {
        let remote = axum::serve(entrance, router).with_graceful_shutdown(over(ended.clone()));
        tokio::spawn(remote.into_future())
    });
    let agent = tokio::spawn(agent.run(over(ended)));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");
    notify::say(&[NotifyState::Ready, NotifyState::Status("serving")]);
    let watchdog = tokio::spawn(notify::watchdog(watched));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    watchdog.abort();
    notify::say(&[
        NotifyState::Stopping,
        NotifyState::Status("ending; the datapath stays"),
    ]);
    tracing::info!("ending; the datapath stays");
    end.send_replace(true);
    agent.await.context("the agent's task failed")?;
    let deadline = tokio::time::Instant::now() + GRACE;
    for served in std::iter::once(api).chain(remote) {
        if let Ok(served) = tokio::time::timeout_at(deadline, served).await {
            served.context("the API's task failed")??;
        }
    }
    drop(socket.guard);
    drop(lock);
    Ok(())
}
