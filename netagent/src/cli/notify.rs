//! What systemd is told: ready, alive, stopping. Without systemd, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::agent::AgentHandle;

/// Tells systemd.
pub(super) fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

/// Says that the agent is alive at half of the time that systemd waits for, but only while its task answers.
pub(super) async fn watchdog(agent: AgentHandle) {
    // systemd writes 0 where it waits for nothing.
    let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let Some(limit) = limit else {
        return;
    };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        if answers(&agent, limit / 4).await {
            say(&[NotifyState::Watchdog]);
        } else {
            tracing::error!("the agent's task does not answer: systemd is not told that it lives");
        }
    }
}

/// Trouble of the host is an answer too: a new start would not mend it.
async fn answers(agent: &AgentHandle, limit: Duration) -> bool {
    tokio::time::timeout(limit, agent.health())
        .await
        .is_ok_and(|health| health.is_ok())
}
