//! An error as the API shows it: `{"status":"error","message":"<text>"}`.

use axum::Json;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::agent::RequestError;
use crate::publish::ReserveError;
use crate::spec::SpecError;

/// An error with its status.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// A request that makes no sense.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Something that is known and not built yet.
    pub(crate) fn not_built(what: &str) -> Self {
        let text = format!("Not supported yet: {what}");
        Self::new(StatusCode::NOT_IMPLEMENTED, text)
    }

    /// Nobody known.
    pub(crate) fn unauthorized() -> Self {
        let text = "Send the token of an account: 'Authorization: Bearer <token>'";
        Self::new(StatusCode::UNAUTHORIZED, text)
    }

    /// An error with this status and text.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "status": "error", "message": self.message });
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

impl From<SpecError> for ApiError {
    fn from(error: SpecError) -> Self {
        let status = match error {
            SpecError::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            SpecError::License => StatusCode::FORBIDDEN,
            SpecError::Json(_)
            | SpecError::UnknownMember(_)
            | SpecError::WrongType { .. }
            | SpecError::NotAnObject
            | SpecError::InterfaceCount(_)
            | SpecError::Name(_)
            | SpecError::IpWithoutTap
            | SpecError::TapName(_)
            | SpecError::Mac(_)
            | SpecError::MulticastMac
            | SpecError::Value { .. }
            | SpecError::Address { .. }
            | SpecError::Ip6WithoutIp
            | SpecError::Repeated { .. }
            | SpecError::Port { .. }
            | SpecError::TooMany { .. }
            | SpecError::IpFromPool
            | SpecError::TapFromPool
            | SpecError::NotAvailable
            | SpecError::DenyAllWithLists
            | SpecError::Mtu(_)
            | SpecError::CustomWithoutLists
            | SpecError::Relay(_)
            | SpecError::RelayWithoutName
            | SpecError::RelayDnsWithDomains
            | SpecError::Cidr(_)
            | SpecError::Domain(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let status = match error {
            RequestError::Spec(fault) => return fault.into(),
            RequestError::NotFound(_) | RequestError::TokenNotFound(_) => StatusCode::NOT_FOUND,
            RequestError::NameTaken(_)
            | RequestError::InterfaceNameTaken(_)
            | RequestError::AddressTaken(_)
            | RequestError::TapTaken(_)
            | RequestError::MacTaken(_)
            | RequestError::RelayInUse(_)
            | RequestError::PortTaken { .. }
            | RequestError::PortOutside { .. }
            | RequestError::PortOfNat { .. }
            | RequestError::SnatNotOurs { .. }
            | RequestError::FlowLimit { .. }
            | RequestError::Port(ReserveError::InUse(_) | ReserveError::NotOurs(_))
            | RequestError::SeveralInterfaces(_) => StatusCode::CONFLICT,
            RequestError::UnknownUser(_)
            | RequestError::UnknownGroup(_)
            | RequestError::NotATap(_)
            | RequestError::Invalid(_) => StatusCode::BAD_REQUEST,
            RequestError::TapNotAllowed(_) => StatusCode::FORBIDDEN,
            RequestError::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            RequestError::Exhausted(_)
            | RequestError::InstanceLimit(_)
            | RequestError::AccountLimit { .. }
            | RequestError::AccountPortLimit { .. }
            | RequestError::PortPlaces { .. }
            | RequestError::Store(_) => StatusCode::INSUFFICIENT_STORAGE,
            RequestError::Host(_) | RequestError::Port(ReserveError::Failed { .. }) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            RequestError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}
