//! Changes of an instance that exists: policy, limits, ports, and what is never changed.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::access::Caller;
use crate::agent::Announcement;
use crate::api::auth::Shared;
use crate::api::body::Body;
use crate::api::error::ApiError;
use crate::api::key::Key;
use crate::api::views::InstanceView;
use crate::instance::AnnouncedPort;
use crate::spec::limit::{self, LimitsSpec};
use crate::spec::policy::{self, PolicySpec};
use crate::spec::publish::{PortProtocol, PortsSpec};
use crate::spec::{SpecError, member_names};

type Answer<T> = Result<T, ApiError>;

/// I-18.
const FIXED: &str = "Network interfaces cannot be changed after creation";
/// Members that each of the routes replaces; all others are refused.
pub(crate) const POLICY: [&str; 5] = policy::MEMBERS;
pub(crate) const PUBLISH: [&str; 2] = ["publish", "exposed_ports"];
pub(crate) const LIMITS: [&str; 3] = limit::MEMBERS;
/// Members of an announcement (I-4).
pub(crate) const ANNOUNCEMENT: [&str; 3] = ["ip", "port", "protocol"];
/// What of an instance is its place in the network, for good.
const TOPOLOGY: [&str; 6] = [
    "network_interfaces",
    "gateway",
    "nameserver",
    "snat_address",
    "mtu",
    "annotations",
];

/// `PUT /v1/instances/{instance}/announcements` (I-4)
pub(crate) async fn announce(
    State(shared): State<Shared>,
    caller: Caller,
    Key(key): Key,
    body: Body,
) -> Answer<Json<Value>> {
    let announcement = announcement(&body.object(&ANNOUNCEMENT)?)?;
    let accepted = shared.agent.announce(&caller, key, announcement).await?;
    Ok(Json(json!({ "accepted": accepted })))
}

fn announcement(object: &Map<String, Value>) -> Answer<Announcement> {
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let address: Option<IpAddr> = text("ip").and_then(|text| text.parse().ok());
    let port = object.get("port").and_then(Value::as_u64);
    let port = port
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0);
    let protocol = text("protocol").and_then(PortProtocol::parse);
    Ok(Announcement {
        address: address.ok_or_else(|| ApiError::bad("Member 'ip' must be an IP address"))?,
        port: AnnouncedPort {
            port: port
                .ok_or_else(|| ApiError::bad("Member 'port' must be a number from 1 to 65535"))?,
            protocol: protocol
                .ok_or_else(|| ApiError::bad("Member 'protocol' must be tcp or udp"))?,
        },
    })
}

/// `POST /v1/instances/{instance}/branch` (I-19)
pub(crate) async fn branch(shared: State<Shared>, caller: Caller, key: Key) -> Answer<Json<Value>> {
    copy(shared, caller, key, ("branch", "branched")).await
}

/// `POST /v1/instances/{instance}/checkpoint` (I-19)
pub(crate) async fn checkpoint(
    shared: State<Shared>,
    caller: Caller,
    key: Key,
) -> Answer<Json<Value>> {
    copy(shared, caller, key, ("checkpoint", "checkpointed")).await
}

async fn copy(
    State(shared): State<Shared>,
    caller: Caller,
    Key(key): Key,
    (word, done): (&str, &'static str),
) -> Answer<Json<Value>> {
    shared.agent.check_copyable(&caller, key, done).await?;
    Err(ApiError::not_built(word))
}

/// `PATCH|PUT /v1/instances/{instance}` (I-18)
pub(crate) async fn topology(
    State(shared): State<Shared>,
    caller: Caller,
    Key(key): Key,
) -> Answer<Json<Value>> {
    shared.agent.inspect(&caller, key).await?;
    Err(ApiError::new(StatusCode::CONFLICT, FIXED))
}

/// `PUT /v1/instances/{instance}/policy`: replaces the whole policy; what is not named has its default.
pub(crate) async fn policy(
    State(shared): State<Shared>,
    caller: Caller,
    Key(key): Key,
    body: Body,
) -> Answer<Json<InstanceView>> {
    let object = replacement(&shared, &caller, &key, (&body, &POLICY)).await?;
    let policy = PolicySpec::parse(&object)?;
    let state = shared.agent.replace_policy(&caller, key, policy).await?;
    Ok(Json(state.into()))
}

/// `PUT /v1/instances/{instance}/publish`: replaces both lists; one that is not named is empty afterwards.
pub(crate) async fn publish(
    State(shared): State<Shared>,
    caller: Caller,
    Key(key): Key,
    body: Body,
) -> Answer<Json<InstanceView>> {
    let object = replacement(&shared, &caller, &key, (&body, &PUBLISH)).await?;
    let ports = PortsSpec::parse(&object)?;
    let state = shared.agent.publish(&caller, key, ports).await?;
    Ok(Json(InstanceView::brief(state)))
}

/// `PUT /v1/instances/{instance}/limits`: replaces all of them; what is not named is not limited.
pub(crate) async fn limits(
    State(shared): State<Shared>,
    caller: Caller,
    Key(key): Key,
    body: Body,
) -> Answer<Json<InstanceView>> {
    let object = replacement(&shared, &caller, &key, (&body, &LIMITS)).await?;
    let limits = LimitsSpec::parse(&object)?;
    let state = shared.agent.replace_limits(&caller, key, limits).await?;
    Ok(Json(InstanceView::brief(state)))
}

/// The body of a request that replaces these members of an instance, and no others (I-18).
async fn replacement(
    shared: &Shared,
    caller: &Caller,
    key: &str,
    (body, members): (&Body, &[&str]),
) -> Answer<Map<String, Value>> {
    shared.agent.inspect(caller, key.to_owned()).await?;
    let object = body.any_object()?;
    let (_, of_interfaces) = member_names();
    let is_topology = |name: &str| TOPOLOGY.contains(&name) || of_interfaces.contains(&name);
    if object.keys().any(|name| is_topology(name)) {
        return Err(ApiError::new(StatusCode::CONFLICT, FIXED));
    }
    match object.keys().find(|name| !members.contains(&name.as_str())) {
        Some(name) => Err(SpecError::UnknownMember(name.clone()).into()),
        None => Ok(object),
    }
}
