//! Every route in one table: the router and the OpenAPI document are made from it.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, Uri};
use axum::routing::{MethodRouter, delete, get, patch, post, put};

use crate::agent::AgentHandle;
use crate::api::auth::Shared;
use crate::api::error::ApiError;
use crate::api::{changes, explain, guest, instances, openapi, tokens};
use crate::config::Config;

/// Largest body of a request.
pub const BODY_MAX: usize = 16 << 20;

/// One method of one path.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) summary: &'static str,
    /// Who may ask.
    pub(crate) access: Access,
    handler: MethodRouter<Shared>,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody.
    Open,
    /// An account: by the unix socket or a token.
    Account,
    /// The unix socket alone.
    Local,
}

/// The routes below an instance, under each of its two names.
const PREFIXES: [&str; 2] = ["/v1/instances", "/machines"];

fn route(
    method: &'static str,
    path: impl Into<String>,
    summary: &'static str,
    handler: MethodRouter<Shared>,
) -> Route {
    Route {
        method,
        path: path.into(),
        summary,
        access: Access::Account,
        handler,
    }
}

/// A route that answers 501 until it is built.
fn not_built(method: &'static str, path: impl Into<String>, summary: &'static str) -> Route {
    let path = path.into();
    let text = format!("{method} {path}");
    let answer = move |_: crate::access::Caller| std::future::ready(ApiError::not_built(&text));
    let handler = match method {
        "POST" => post(answer),
        "PUT" => put(answer),
        _ => get(answer),
    };
    route(method, path, summary, handler)
}

/// All of them.
pub(crate) fn all() -> Vec<Route> {
    let with = |access, route| Route { access, ..route };
    let mut routes = vec![
        with(
            Access::Open,
            route(
                "GET",
                "/healthz",
                "Whether the host's part is in order",
                get(instances::health),
            ),
        ),
        with(
            Access::Open,
            route("GET", "/openapi.json", "This document", get(openapi::serve)),
        ),
        with(
            Access::Local,
            route(
                "GET",
                "/v1/plan",
                "What the agent would change now",
                get(instances::plan),
            ),
        ),
        with(
            Access::Local,
            route("POST", "/v1/tokens", "Make a token", post(tokens::create)),
        ),
        with(
            Access::Local,
            route("GET", "/v1/tokens", "List the tokens", get(tokens::list)),
        ),
        with(
            Access::Local,
            route(
                "DELETE",
                "/v1/tokens/{token}",
                "Revoke a token",
                delete(tokens::revoke),
            ),
        ),
        route(
            "POST",
            "/v1/instances",
            "Create an instance, or with check=true say what is wrong with it",
            post(instances::create),
        ),
        route(
            "POST",
            "/machines",
            "Create an instance, and answer with its state at the commit",
            post(instances::create_machine),
        ),
        not_built(
            "POST",
            "/machines/{instance}/exec",
            "Run a command in the guest",
        ),
        not_built("GET", "/v1/flows", "Flows"),
        route(
            "GET",
            "/v1/explain",
            "What becomes of what a guest sends, and why",
            get(explain::explain),
        ),
        not_built("GET", "/metrics", "Counters for Prometheus"),
    ];
    routes.extend(PREFIXES.into_iter().flat_map(of_instances));
    routes.extend(PREFIXES.into_iter().flat_map(of_changes));
    routes
}

fn of_instances(prefix: &str) -> Vec<Route> {
    let one = |rest: &str| format!("{prefix}/{{instance}}{rest}");
    vec![
        route(
            "GET",
            prefix,
            "List the instances of the account",
            get(instances::list),
        ),
        route(
            "GET",
            one(""),
            "Show an instance with its counters",
            get(instances::inspect),
        ),
        route(
            "DELETE",
            one(""),
            "Delete an instance",
            delete(instances::delete),
        ),
        route(
            "PUT",
            one(""),
            "Refused: the topology is fixed",
            put(changes::topology),
        ),
        route(
            "PATCH",
            one(""),
            "Refused: the topology is fixed",
            patch(changes::topology),
        ),
        route(
            "PUT",
            one("/start"),
            "Start an instance",
            put(instances::start),
        ),
        route(
            "PUT",
            one("/stop"),
            "Stop an instance; its reservations stay",
            put(instances::stop),
        ),
        route(
            "GET",
            one("/guest"),
            "What the guest is to be configured with, ready to paste",
            get(guest::show),
        ),
    ]
}

/// What changes or copies an instance that exists.
fn of_changes(prefix: &str) -> Vec<Route> {
    let one = |rest: &str| format!("{prefix}/{{instance}}{rest}");
    vec![
        route(
            "PUT",
            one("/policy"),
            "Replace the whole policy: a member that is not named has its default, so {} is allow-all",
            put(changes::policy),
        ),
        route(
            "PUT",
            one("/publish"),
            "Replace both published and exposed ports: a list that is not named is empty afterwards",
            put(changes::publish),
        ),
        route(
            "PUT",
            one("/limits"),
            "Replace all limits: one that is not named has its default",
            put(changes::limits),
        ),
        route(
            "PUT",
            one("/announcements"),
            "Announce a port of the guest",
            put(changes::announce),
        ),
        route(
            "POST",
            one("/template"),
            "The request without its network configuration",
            post(instances::template),
        ),
        route(
            "POST",
            one("/branch"),
            "Make a copy that runs",
            post(changes::branch),
        ),
        route(
            "POST",
            one("/checkpoint"),
            "Make a copy to return to",
            post(changes::checkpoint),
        ),
    ]
}

/// The router over an agent.
pub fn router(agent: AgentHandle, config: Arc<Config>) -> Router {
    let mut router = Router::new();
    for route in all() {
        router = router.route(&route.path, route.handler);
    }
    router
        .fallback(unknown)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(Shared { agent, config })
}

async fn unknown(uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("Unknown route {}", uri.path()),
    )
}

async fn method_not_allowed(uri: Uri) -> ApiError {
    let message = format!("Method not allowed on {}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

#[cfg(test)]
mod tests;
