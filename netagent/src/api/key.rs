//! What a path names: the id or name of an instance, the id of a token.

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;

use crate::api::auth::Shared;
use crate::api::error::ApiError;

/// The one variable part of a path, decoded.
#[derive(Debug)]
pub(crate) struct Key(pub(crate) String);

impl FromRequestParts<Shared> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &Shared,
    ) -> Result<Self, Self::Rejection> {
        match Path::<String>::from_request_parts(parts, shared).await {
            Ok(Path(key)) => Ok(Self(key)),
            // What is no UTF-8 names nothing.
            Err(_) => {
                let text = format!("Unknown route {}", parts.uri.path());
                Err(ApiError::new(StatusCode::NOT_FOUND, text))
            }
        }
    }
}
