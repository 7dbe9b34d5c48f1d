//! The body of a request: bounded, strict JSON.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::api::auth::Shared;
use crate::api::error::ApiError;
use crate::api::routes::BODY_MAX;
use crate::spec::{SpecError, json};

/// The bytes of a body.
#[derive(Debug)]
pub(crate) struct Body(pub(crate) Bytes);

impl FromRequest<Shared> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Self::Rejection> {
        match Bytes::from_request(request, shared).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let text = format!("The body is larger than {} MiB", BODY_MAX >> 20);
                Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, text))
            }
            Err(rejection) => Err(ApiError::new(rejection.status(), rejection.body_text())),
        }
    }
}

impl Body {
    /// The object in it; no member twice.
    pub(crate) fn any_object(&self) -> Result<Map<String, Value>, ApiError> {
        match json::parse(&self.0).map_err(SpecError::Json)? {
            Value::Object(object) => Ok(object),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Err(SpecError::NotAnObject.into()),
        }
    }

    /// The object in it, with these members at most.
    pub(crate) fn object(&self, members: &[&str]) -> Result<Map<String, Value>, ApiError> {
        let object = self.any_object()?;
        match object.keys().find(|name| !members.contains(&name.as_str())) {
            Some(name) => Err(SpecError::UnknownMember(name.clone()).into()),
            None => Ok(object),
        }
    }
}
