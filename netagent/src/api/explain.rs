//! What becomes of what a guest sends, and why (O-3).

use std::borrow::Cow;
use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::agent::explain::{Answered, Explained};
use crate::api::auth::Shared;
use crate::api::error::ApiError;
use crate::policy::explain::{
    Explanation, LearnedFrom, NameExplanation, Path, Question, QuestionError, Subject,
};

/// Parameters with what they mean, and whether a question needs them.
pub(crate) const PARAMETERS: [(&str, &str, bool); 4] = [
    (
        "instance",
        "Id or name of the instance whose guest sends",
        true,
    ),
    (
        "address",
        "Address of the other end, with or without a port: 192.0.2.1:443, [2001:db8::1]:443; or a name",
        true,
    ),
    ("port", "Port, where the address has none behind it", false),
    (
        "protocol",
        "tcp, udp or icmp: tcp where a port is named, else an echo request",
        false,
    ),
];

/// What becomes of what a guest sends, or asks for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ExplainBody {
    Packet(PacketBody),
    Name(NameBody),
}

/// What becomes of a packet.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PacketBody {
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
    /// Name of the interface that is its relay: it goes there first.
    relay: Option<String>,
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

/// What becomes of the question for a name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NameBody {
    instance: String,
    /// Lower case, without a dot at its end.
    name: String,
    /// Whether the instance runs; one that does not is answered for as if it did.
    runs: bool,
    /// `allowed`, `denied`, or `audited`: it is answered, and the policy would refuse it.
    verdict: &'static str,
    /// As which drop the question is counted; null where it is answered, if with REFUSED.
    reason: Option<&'static str>,
    /// What decides.
    rule: String,
    /// What is open to the instance because the name led there.
    addresses: Vec<LearnedBody>,
    /// What the answer depends on besides.
    notes: Vec<String>,
}

/// An address that a name led to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LearnedBody {
    #[schema(value_type = String)]
    address: IpAddr,
    /// How long it stays open without a new answer; 0 where flows alone hold it.
    seconds_left: u64,
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
    let subject = Subject::parse(&address, port.as_deref(), protocol.as_deref())?;
    let explained = shared.agent.explain(&caller, instance.into(), subject);
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
        let Explained {
            instance,
            answer,
            runs,
            notes,
        } = explained;
        let instance = instance.to_string();
        match answer {
            Answered::Packet(question, explanation) => {
                Self::Packet(packet(instance, (question, explanation), runs, notes))
            }
            Answered::Name(name, explanation) => {
                Self::Name(name_body(instance, (name, explanation), runs, notes))
            }
        }
    }
}

fn packet(
    instance: String,
    (question, explanation): (Question, Explanation),
    runs: bool,
    notes: Vec<String>,
) -> PacketBody {
    let path = match &explanation.relay {
        Some(relay) => format!("via relay {relay}, then {}", explanation.path),
        None => explanation.path.to_string(),
    };
    let (uplink, next_hop, source) = match explanation.path {
        Path::Uplink {
            name,
            next_hop,
            source,
        } => (Some(name), next_hop, source),
        Path::Resolver
        | Path::Gateway
        | Path::Published { .. }
        | Path::Listener
        | Path::Host
        | Path::OwnAddress
        | Path::Instance
        | Path::AlwaysDenied(_)
        | Path::NotUplink
        | Path::NoRoute => (None, None, None),
    };
    PacketBody {
        instance,
        address: question.address,
        port: question.packet.port(),
        protocol: question.packet.protocol(),
        runs,
        verdict: explanation.verdict.as_str(),
        reason: explanation.reason.map(|reason| reason.name()),
        rule: explanation.rule.to_string(),
        path,
        relay: explanation.relay,
        uplink,
        next_hop,
        source,
        notes,
    }
}

fn name_body(
    instance: String,
    (name, explanation): (String, NameExplanation),
    runs: bool,
    notes: Vec<String>,
) -> NameBody {
    let addresses = explanation.addresses.into_iter();
    NameBody {
        instance,
        name,
        runs,
        verdict: explanation.verdict.as_str(),
        reason: explanation.reason.map(|reason| reason.name()),
        rule: explanation.rule.to_string(),
        addresses: addresses.map(LearnedBody::from).collect(),
        notes,
    }
}

impl From<LearnedFrom> for LearnedBody {
    fn from(learned: LearnedFrom) -> Self {
        Self {
            address: learned.address,
            seconds_left: learned.seconds_left,
        }
    }
}
