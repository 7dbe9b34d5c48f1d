mod access;
mod document;
mod explain;
mod guest;
mod instances;
mod policy;
mod ports;
mod surface;

use axum::body::Body;
use axum::extract::connect_info::MockConnectInfo;
use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::agent::tests::{Running, running};
use crate::api::auth::Peer;
use crate::config::Config;
use crate::host::fake::host;

struct Api {
    router: Router,
    agent: Running,
}

/// Whoever asks speaks through the unix socket.
fn local(agent: &Running, config: Config) -> Router {
    let peer = MockConnectInfo(Peer::Local("uid 0 pid 1".into()));
    router(agent.handle.0.clone(), Arc::new(config)).layer(peer)
}

async fn api() -> Api {
    let agent = running(host(), Config::default()).await;
    Api {
        router: local(&agent, Config::default()),
        agent,
    }
}

impl Api {
    async fn call(&self, method: &str, path: &str, body: impl Into<Body>) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(body.into())
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        (status, value)
    }

    /// How many instances there are.
    async fn count(&self) -> usize {
        let (_, instances) = self.call("GET", "/v1/instances", "").await;
        instances.as_array().unwrap().len()
    }

    async fn check_error(
        &self,
        (method, path, body): (&str, &str, &str),
        status: u16,
        message: &str,
    ) {
        let (found, value) = self.call(method, path, body.to_owned()).await;
        assert_eq!(
            value,
            json!({ "status": "error", "message": message }),
            "{method} {path} {body}"
        );
        assert_eq!(found, status, "{method} {path} {body}");
    }
}
