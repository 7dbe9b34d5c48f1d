//! The handlers of instances.

use axum::Json;
use axum::extract::State;
use axum::http::header::WARNING;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde_json::{Map, Value, json};

use crate::access::Caller;
use crate::api::auth::{LocalCaller, Shared, grant};
use crate::api::body::Body;
use crate::api::error::ApiError;
use crate::api::key::Key;
use crate::api::views::{InstanceView, PlanBody};
use crate::spec::{Bounds, InstanceSpec};

type Answer<T> = Result<T, ApiError>;

/// What stands behind a path: nothing, or that the one parameter is true.
fn wants(uri: &Uri, parameter: &str) -> Answer<bool> {
    let query = uri.query().unwrap_or_default();
    match query.split_once('=') {
        None if query.is_empty() => Ok(false),
        Some((name, "false")) if name == parameter => Ok(false),
        Some((name, "true")) if name == parameter => Ok(true),
        None | Some(_) => Err(ApiError::bad(format!(
            "Unknown parameter '{query}': use {parameter}=true, or none"
        ))),
    }
}

/// `POST /v1/instances`, and with `?check=true` everything that is wrong with the request.
pub(crate) async fn create(
    shared: State<Shared>,
    caller: Caller,
    uri: Uri,
    body: Body,
) -> Answer<(StatusCode, Json<Value>)> {
    if wants(&uri, "check")? {
        let faults = check(&shared, &caller, &body).await?;
        return Ok((StatusCode::OK, Json(json!({ "faults": faults }))));
    }
    let view = made(&shared, &caller, &body).await?;
    Ok((StatusCode::CREATED, Json(json!(view))))
}

/// `POST /machines`: answers with the state at its commit.
pub(crate) async fn create_machine(
    shared: State<Shared>,
    caller: Caller,
    body: Body,
) -> Answer<(StatusCode, Json<InstanceView>)> {
    let view = made(&shared, &caller, &body).await?;
    Ok((StatusCode::CREATED, Json(view.at_commit())))
}

async fn made(shared: &State<Shared>, caller: &Caller, body: &Body) -> Answer<InstanceView> {
    let spec = InstanceSpec::parse(&body.0, grant(caller, shared))?;
    Ok(shared.agent.create(caller, spec).await?.into())
}

/// First what the request says of itself; the host is asked about a request that could be one.
async fn check(shared: &State<Shared>, caller: &Caller, body: &Body) -> Answer<Vec<String>> {
    let grant = grant(caller, shared);
    match InstanceSpec::parse(&body.0, grant) {
        Ok(spec) => Ok(shared.agent.check(caller, spec).await?),
        Err(_) => {
            let faults = InstanceSpec::faults(&body.0, grant, &Bounds::of(&shared.config));
            Ok(faults.iter().map(ToString::to_string).collect())
        }
    }
}

/// `GET /v1/instances`
pub(crate) async fn list(
    State(shared): State<Shared>,
    caller: Caller,
) -> Answer<Json<Vec<InstanceView>>> {
    let states = shared.agent.list(&caller).await?;
    Ok(Json(states.into_iter().map(InstanceView::brief).collect()))
}

/// `GET /v1/instances/{instance}`
pub(crate) async fn inspect(
    State(shared): State<Shared>,
    caller: Caller,
    Key(key): Key,
) -> Answer<Json<InstanceView>> {
    Ok(Json(shared.agent.inspect(&caller, key).await?.into()))
}

/// `PUT /v1/instances/{instance}/start`
pub(crate) async fn start(
    State(shared): State<Shared>,
    caller: Caller,
    Key(key): Key,
) -> Answer<Json<InstanceView>> {
    let state = shared.agent.start(&caller, key).await?;
    Ok(Json(InstanceView::brief(state)))
}

/// `PUT /v1/instances/{instance}/stop`
pub(crate) async fn stop(
    State(shared): State<Shared>,
    caller: Caller,
    Key(key): Key,
) -> Answer<Json<InstanceView>> {
    let state = shared.agent.stop(&caller, key).await?;
    Ok(Json(InstanceView::brief(state)))
}

/// `DELETE /v1/instances/{instance}`, and with `?force=true` even one that is the relay of others.
pub(crate) async fn delete(
    State(shared): State<Shared>,
    caller: Caller,
    uri: Uri,
    Key(key): Key,
) -> Answer<StatusCode> {
    let force = wants(&uri, "force")?;
    shared.agent.delete(&caller, key, force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/instances/{instance}/template` (I-19). The body makes an instance as it stands, so what it lacks is said in a
/// header.
pub(crate) async fn template(
    State(shared): State<Shared>,
    caller: Caller,
    Key(key): Key,
) -> Answer<(HeaderMap, Json<Map<String, Value>>)> {
    let template = shared.agent.template(&caller, key).await?;
    let mut headers = HeaderMap::new();
    for warning in template.warnings {
        // Names of interfaces fit into a header as they are (RFC 7234 section 5.5).
        if let Ok(value) = HeaderValue::try_from(format!("299 netagent \"{warning}\"")) {
            headers.append(WARNING, value);
        }
    }
    Ok((headers, Json(template.request)))
}

/// `GET /v1/plan`
pub(crate) async fn plan(
    State(shared): State<Shared>,
    LocalCaller(caller): LocalCaller,
) -> Answer<Json<PlanBody>> {
    Ok(Json(shared.agent.plan(&caller).await?.into()))
}

/// `GET /healthz`
pub(crate) async fn health(State(shared): State<Shared>) -> Answer<Json<Value>> {
    match shared.agent.health().await? {
        None => Ok(Json(json!({ "status": "ok" }))),
        Some(trouble) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, trouble)),
    }
}
