//! What a guest is to be configured with, in a form to paste (G-2).

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use crate::access::Caller;
use crate::api::auth::Shared;
use crate::api::error::ApiError;
use crate::api::key::Key;
use crate::guest::format::{Format, FormatError};

/// `GET /v1/instances/{instance}/guest`
pub(crate) async fn show(
    State(shared): State<Shared>,
    caller: Caller,
    Key(key): Key,
    uri: Uri,
) -> Result<Response, ApiError> {
    let format = format(&uri)?;
    let guest = shared.agent.guest(&caller, key).await?;
    let text = format.print(&guest)?;
    Ok(([(CONTENT_TYPE, format.content_type())], text).into_response())
}

/// What stands behind the path: nothing, or one format.
fn format(uri: &Uri) -> Result<Format, ApiError> {
    let query = uri.query().unwrap_or_default();
    if query.is_empty() {
        return Ok(Format::default());
    }
    match query.split_once('=') {
        Some(("format", name)) if !name.contains('&') => Ok(Format::parse(name)?),
        _ => Err(ApiError::bad(format!(
            "Unknown parameter '{query}': use format=<format>, or none"
        ))),
    }
}

impl From<FormatError> for ApiError {
    fn from(error: FormatError) -> Self {
        let status = match error {
            FormatError::Unknown(_) => StatusCode::BAD_REQUEST,
            // The request makes sense, only not for this instance.
            FormatError::GatewayOffLink { .. } | FormatError::Model { .. } => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string())
    }
}
