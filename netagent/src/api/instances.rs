//! Instances on the wire (I-14), and the handlers of their routes.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use ipnet::{Ipv4Net, Ipv6Net};
use netagent_common::vm::Traffic;
use serde::Serialize;
use serde_json::{Map, Value};
use std::net::Ipv4Addr;
use uuid::Uuid;

use crate::access::Caller;
use crate::agent::state::{InstanceState, InterfaceState};
use crate::agent::{AgentHandle, PlanView};
use crate::api::error::ApiError;
use crate::api::routes::{BODY_MAX, healthy};
use crate::host::Counters;
use crate::spec::{Grant, InstanceSpec};

type Answer<T> = Result<T, ApiError>;

/// An instance as create, ls and inspect show it.
#[derive(Debug, Serialize)]
pub(crate) struct InstanceView {
    id: Uuid,
    name: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    primary: Option<PrimaryView>,
    network_interfaces: Vec<InterfaceView>,
    #[serde(flatten)]
    machine: Map<String, Value>,
    #[serde(flatten)]
    counters: Option<CountersView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_flows: Option<u64>,
}

/// What is said of the first interface, flat.
#[derive(Debug, Serialize)]
struct PrimaryView {
    private_ip: Ipv4Addr,
    gateway: Ipv4Addr,
    nameserver: Ipv4Addr,
    tap_device: String,
    tap_ip: Ipv4Addr,
    guest_ip: Ipv4Addr,
    guest_mac: String,
}

#[derive(Debug, Serialize)]
struct InterfaceView {
    id: Uuid,
    name: String,
    mode: &'static str,
    tap_name: String,
    ip: Ipv4Net,
    ip6: Option<Ipv6Net>,
    tap_ip: Ipv4Addr,
    mac: String,
    mtu: u32,
    autoconfig: bool,
    relay: Option<Value>,
    #[serde(flatten)]
    counters: Option<CountersView>,
}

#[derive(Debug, Default, Serialize)]
struct CountersView {
    attached: bool,
    drops: BTreeMap<&'static str, u64>,
    traffic: TrafficView,
}

#[derive(Debug, Default, Serialize)]
struct TrafficView {
    from_vm_packets: u64,
    from_vm_bytes: u64,
    to_vm_packets: u64,
    to_vm_bytes: u64,
}

/// What the agent would change.
#[derive(Debug, Serialize)]
pub(crate) struct PlanBody {
    steps: Vec<StepView>,
    problems: Vec<ProblemView>,
}

#[derive(Debug, Serialize)]
struct StepView {
    instance: Option<String>,
    step: String,
}

#[derive(Debug, Serialize)]
struct ProblemView {
    instance: Option<String>,
    problem: String,
}

impl From<InstanceState> for InstanceView {
    fn from(state: InstanceState) -> Self {
        // Gateway and nameserver come from the first pool interface (I-16): all are of the pool.
        let primary = state.interfaces.first().map(|primary| PrimaryView {
            private_ip: primary.guest_v4.addr(),
            gateway: primary.host_v4.addr(),
            nameserver: primary.host_v4.addr(),
            tap_device: primary.tap_name.clone(),
            tap_ip: primary.host_v4.addr(),
            guest_ip: primary.guest_v4.addr(),
            guest_mac: mac_text(primary.guest_mac),
        });
        let inspected = state
            .interfaces
            .iter()
            .filter_map(|one| one.inspected.as_ref());
        let open_flows = inspected
            .clone()
            .next()
            .map(|(_, counters)| counters.open_flows);
        let counters = open_flows.map(|_| {
            inspected.fold(CountersView::default(), |mut sum, (attached, counters)| {
                sum.add(*attached, counters);
                sum
            })
        });
        Self {
            id: state.id,
            name: state.name.to_string(),
            status: state.status.as_str(),
            reason: state.reason,
            primary,
            network_interfaces: state
                .interfaces
                .into_iter()
                .map(InterfaceView::from)
                .collect(),
            machine: state.machine,
            counters,
            open_flows,
        }
    }
}

impl From<InterfaceState> for InterfaceView {
    fn from(state: InterfaceState) -> Self {
        let counters = state.inspected.map(|(attached, counters)| {
            let mut view = CountersView::default();
            view.add(attached, &counters);
            view
        });
        Self {
            id: state.id,
            name: state.name.to_string(),
            mode: "nat",
            tap_name: state.tap_name,
            ip: state.guest_v4,
            ip6: state.guest_v6,
            tap_ip: state.host_v4.addr(),
            mac: mac_text(state.guest_mac),
            mtu: state.mtu,
            autoconfig: true,
            relay: None,
            counters,
        }
    }
}

impl CountersView {
    fn add(&mut self, attached: bool, counters: &Counters) {
        self.attached |= attached;
        for (reason, count) in &counters.drops {
            *self.drops.entry(reason.name()).or_default() += count;
        }
        let Traffic {
            from_vm_packets,
            from_vm_bytes,
            to_vm_packets,
            to_vm_bytes,
        } = counters.traffic;
        self.traffic.from_vm_packets += from_vm_packets;
        self.traffic.from_vm_bytes += from_vm_bytes;
        self.traffic.to_vm_packets += to_vm_packets;
        self.traffic.to_vm_bytes += to_vm_bytes;
    }
}

impl From<PlanView> for PlanBody {
    fn from(view: PlanView) -> Self {
        let steps = view
            .steps
            .into_iter()
            .map(|(instance, step)| StepView { instance, step });
        let problems = view.problems.into_iter();
        let problems = problems.map(|(instance, problem)| ProblemView { instance, problem });
        Self {
            steps: steps.collect(),
            problems: problems.collect(),
        }
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02X}")).join(":")
}

/// `POST /v1/instances`
pub(crate) async fn create(
    State(agent): State<AgentHandle>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<(StatusCode, Json<InstanceView>)> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The body is larger than {} MiB", BODY_MAX >> 20),
        ),
        status => ApiError::new(status, rejection.body_text()),
    })?;
    let state = agent
        .create(
            &Caller::local("api"),
            InstanceSpec::parse(&body, Grant::ALL)?,
        )
        .await?;
    Ok((StatusCode::CREATED, Json(state.into())))
}

/// `GET /v1/instances`
pub(crate) async fn list(State(agent): State<AgentHandle>) -> Answer<Json<Vec<InstanceView>>> {
    let states = agent.list(&Caller::local("api")).await?;
    Ok(Json(states.into_iter().map(InstanceView::from).collect()))
}

/// `GET /v1/instances/{instance}`
pub(crate) async fn inspect(
    State(agent): State<AgentHandle>,
    Path(key): Path<String>,
) -> Answer<Json<InstanceView>> {
    Ok(Json(
        agent.inspect(&Caller::local("api"), key).await?.into(),
    ))
}

/// `PUT /v1/instances/{instance}/start`
pub(crate) async fn start(
    State(agent): State<AgentHandle>,
    Path(key): Path<String>,
) -> Answer<Json<InstanceView>> {
    Ok(Json(agent.start(&Caller::local("api"), key).await?.into()))
}

/// `PUT /v1/instances/{instance}/stop`
pub(crate) async fn stop(
    State(agent): State<AgentHandle>,
    Path(key): Path<String>,
) -> Answer<Json<InstanceView>> {
    Ok(Json(agent.stop(&Caller::local("api"), key).await?.into()))
}

/// `DELETE /v1/instances/{instance}`
pub(crate) async fn delete(
    State(agent): State<AgentHandle>,
    Path(key): Path<String>,
) -> Answer<StatusCode> {
    agent.delete(&Caller::local("api"), key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/plan`
pub(crate) async fn plan(State(agent): State<AgentHandle>) -> Answer<Json<PlanBody>> {
    Ok(Json(agent.plan(&Caller::local("api")).await?.into()))
}

/// `GET /healthz`
pub(crate) async fn health(State(agent): State<AgentHandle>) -> Answer<Json<Value>> {
    match agent.health().await? {
        None => Ok(healthy()),
        Some(trouble) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, trouble)),
    }
}
