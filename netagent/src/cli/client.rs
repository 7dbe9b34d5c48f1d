//! HTTP to the agent over its unix socket.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("no agent listens on {}: start it with `netagent run`, or name its socket with --socket", socket.display())]
pub(super) struct NoAgent {
    socket: PathBuf,
    source: io::Error,
}

/// Asks the agent once, and gives the answer's JSON; null where it has no body.
pub(super) fn call(socket: &Path, method: Method, path: &str, body: Vec<u8>) -> Result<Value> {
    parse(&ask(socket, method, path, body)?)
}

/// Asks the agent once, and gives the answer as it is.
pub(super) fn call_text(socket: &Path, method: Method, path: &str) -> Result<String> {
    let body = ask(socket, method, path, Vec::new())?;
    String::from_utf8(body.into()).context("the agent's answer is no text")
}

fn ask(socket: &Path, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(exchange(socket, method, path, body))
}

/// The path of one instance.
pub(super) fn instance_path(key: &str) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if key.is_empty() || !key.bytes().all(plain) {
        bail!("Instance '{key}' not found");
    }
    Ok(format!("/v1/instances/{key}"))
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Vec<u8>) -> Result<Bytes> {
    let connected = UnixStream::connect(socket).await;
    let stream = connected.map_err(|source| NoAgent {
        socket: socket.to_owned(),
        source,
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "netagent")
        .header("content-type", "application/json")
        .body(Body::from(body))?;
    let response = sender
        .send_request(request)
        .await
        .context("the agent hung up")?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    if status.is_success() {
        Ok(body)
    } else {
        Err(refusal(&body, status.as_u16()))
    }
}

fn parse(body: &Bytes) -> Result<Value> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).context("the agent's answer is no JSON")
}

fn refusal(body: &Bytes, status: u16) -> anyhow::Error {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let message = value
        .as_ref()
        .and_then(|value| value.get("message")?.as_str());
    message.map_or_else(
        || anyhow!("the agent answered {status}"),
        |message| anyhow!("{message}"),
    )
}
