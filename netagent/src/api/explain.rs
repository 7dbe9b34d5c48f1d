//! What becomes of what a guest sends, and why (O-3).

use std::borrow::Cow;
use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::agent::explain::Explained;
use crate::api::auth::Shared;
use crate::api::error::ApiError;
use crate::policy::explain::{Path, Question, QuestionError};

/// Parameters with what they mean, and whether a question needs them.
pub(crate) const PARAMETERS: [(&str, &str, bool); 4] = [
    (
        "instance",
        "Id or name of the instance whose guest sends",
        true,
    ),
    (
        "address",
        "Address of the other end, with or without a port: 192.0.2.1:443, [2001:db8::1]:443",
        true,
    ),
    ("port", "Port, where the address has none behind it", false),
    (
        "protocol",
        "tcp, udp or icmp: tcp where a port is named, else an echo request",
        false,
    ),
];

/// What becomes of a packet.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExplainBody {
    instance: String,
    #[schema(value_type = String)]
    address: IpAddr,
    port: Option<u16>,
    protocol: &'static str,
    /// Whether the instance runs; one that does not is answered for as if it did.
    runs: bool,
    /// `allowed`, `denied`, or `audited`: it passes, and the policy would drop it.
    verdict: &'static str,
    /// As which drop it is counted; in audit mode, as which it would be.
    reason: Option<&'static str>,
    /// What decides.
    rule: String,
    /// Where it goes, or would go.
    path: String,
    /// Name of the uplink by which it leaves.
    uplink: Option<String>,
    /// Neighbour on that way; null where the destination itself is it.
    #[schema(value_type = Option<String>)]
    next_hop: Option<IpAddr>,
    /// Address under which it leaves.
    #[schema(value_type = Option<String>)]
    source: Option<IpAddr>,
    /// What the answer depends on besides.
    notes: Vec<String>,
}

/// `GET /v1/explain`
pub(crate) async fn explain(
    State(shared): State<Shared>,
    caller: Caller,
    uri: Uri,
) -> Result<Json<ExplainBody>, ApiError> {
    let [instance, address, port, protocol] = parameters(uri.query().unwrap_or_default())?;
    let needed = |value: Option<_>, name| {
        value.ok_or_else(|| ApiError::bad(format!("Parameter '{name}' is missing")))
    };
    let instance: Cow<'_, str> = needed(instance, "instance")?;
    let address = needed(address, "address")?;
    let question = Question::parse(&address, port.as_deref(), protocol.as_deref())?;
    let explained = shared.agent.explain(&caller, instance.into(), question);
    Ok(Json(explained.await?.into()))
}

/// The values in the order of [`PARAMETERS`].
fn parameters(query: &str) -> Result<[Option<Cow<'_, str>>; 4], ApiError> {
    let mut values = [const { None }; 4];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let mut known = PARAMETERS.iter().zip(&mut values);
        let Some((_, place)) = known.find(|((known, ..), _)| *known == name) else {
            let name: String = name.chars().take(64).collect();
            return Err(ApiError::bad(format!(
                "Unknown parameter '{name}': use instance, address, port and protocol"
            )));
        };
        if place.replace(value).is_some() {
            return Err(ApiError::bad(format!("Parameter '{name}' is given twice")));
        }
    }
    Ok(values)
}

impl From<QuestionError> for ApiError {
    fn from(error: QuestionError) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<Explained> for ExplainBody {
    fn from(explained: Explained) -> Self {
        let (question, explanation) = (explained.question, explained.explanation);
        let path = explanation.path.to_string();
        let (uplink, next_hop, source) = match explanation.path {
            Path::Uplink {
                name,
                next_hop,
                source,
            } => (Some(name), next_hop, source),
            Path::Gateway
            | Path::Published { .. }
            | Path::Listener
            | Path::Host
            | Path::OwnAddress
            | Path::Instance
            | Path::AlwaysDenied(_)
            | Path::NotUplink
            | Path::NoRoute => (None, None, None),
        };
        Self {
            instance: explained.instance.to_string(),
            address: question.address,
            port: question.packet.port(),
            protocol: question.packet.protocol(),
            runs: explained.runs,
            verdict: explanation.verdict.as_str(),
            reason: explanation.reason.map(|reason| reason.name()),
            rule: explanation.rule.to_string(),
            path,
            uplink,
            next_hop,
            source,
            notes: explained.notes,
        }
    }
}
