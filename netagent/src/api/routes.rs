//! Every route: those that are built, and those that answer 501 until they are.

use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, Uri};
use axum::routing::{MethodRouter, any, get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::agent::AgentHandle;
use crate::api::error::ApiError;
use crate::api::instances;

/// Largest body of a request.
pub const BODY_MAX: usize = 16 << 20;

/// Routes of A-1 that are not built yet, as they are shown.
const NOT_BUILT: [(&str, &str); 17] = [
    ("PUT", "/v1/instances/{instance}/policy"),
    ("PUT", "/v1/instances/{instance}/publish"),
    ("PUT", "/v1/instances/{instance}/limits"),
    ("PUT", "/v1/instances/{instance}/announcements"),
    ("POST", "/v1/instances/{instance}/template"),
    ("POST", "/v1/instances/{instance}/branch"),
    ("POST", "/v1/instances/{instance}/checkpoint"),
    ("GET", "/v1/instances/{instance}/guest"),
    ("GET", "/v1/flows"),
    ("GET", "/v1/explain"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("POST", "/machines"),
    ("GET", "/machines/{instance}"),
    ("PUT", "/machines/{instance}/{action}"),
    ("PATCH", "/v1/instances/{instance}"),
    ("PUT", "/v1/instances/{instance}"),
];

/// The router over an agent.
pub fn router(agent: AgentHandle) -> Router {
    let one = get(instances::inspect).delete(instances::delete);
    let mut router = Router::new()
        .route("/healthz", get(instances::health))
        .route("/v1/plan", get(instances::plan))
        .route(
            "/v1/instances",
            post(instances::create).get(instances::list),
        )
        .route("/v1/instances/{instance}/start", put(instances::start))
        .route("/v1/instances/{instance}/stop", put(instances::stop));
    let mut one = Some(one);
    for (method, route) in NOT_BUILT {
        if route == "/v1/instances/{instance}" {
            // Its other methods are built.
            one = one.map(|built| with_unbuilt(built, method, route));
        } else {
            let answer = move || std::future::ready(unsupported(method, route));
            router = router.route(route, any(answer));
        }
    }
    if let Some(one) = one {
        router = router.route("/v1/instances/{instance}", one);
    }
    router
        .fallback(unknown)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(agent)
}

fn with_unbuilt(
    built: MethodRouter<AgentHandle>,
    method: &'static str,
    route: &'static str,
) -> MethodRouter<AgentHandle> {
    let answer = move || std::future::ready(unsupported(method, route));
    if method == "PATCH" {
        built.patch(answer)
    } else {
        built.put(answer)
    }
}

fn unsupported(method: &str, route: &str) -> ApiError {
    ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        format!("Not supported yet: {method} {route}"),
    )
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

/// The body of a healthy answer.
pub(crate) fn healthy() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

#[cfg(test)]
mod tests;
