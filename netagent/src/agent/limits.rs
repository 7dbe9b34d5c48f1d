//! How much guests may send, receive and hold open.

use netagent_common::limit::Rate;
use serde_json::Value;

use crate::access::Caller;
use crate::agent::decide::Batch;
use crate::agent::registry::Key;
use crate::agent::{Agent, RequestError};
use crate::host::Host;
use crate::instance::Instance;
use crate::spec::limit::{Bandwidth, LimitsSpec};
use crate::store::Change;

/// The limits of an instance as its records have them.
pub(crate) struct Rates {
    pub(crate) bandwidth: Rate,
    pub(crate) bandwidth_in: Rate,
    pub(crate) packets: Rate,
    /// Flows that it may have open.
    pub(crate) flows: u32,
}

impl<H: Host> Agent<H> {
    pub(crate) fn rates_of(&self, instance: &Instance) -> Rates {
        let limits = &instance.limits;
        let rate = |bandwidth: Option<Bandwidth>| {
            bandwidth.map_or(Rate::NONE, |rate| Rate::of_bits(rate.bits_per_second()))
        };
        // The configuration may allow less by now than when it was asked for.
        let most = self.config.limits.flows;
        Rates {
            bandwidth: rate(limits.bandwidth),
            bandwidth_in: rate(limits.bandwidth_in),
            packets: limits
                .pps
                .map_or(Rate::NONE, |pps| Rate::of_packets(pps.into())),
            flows: limits.flows.map_or(most, |flows| flows.min(most)),
        }
    }

    /// Why an instance cannot have these limits.
    pub(crate) fn refuse_limits(&self, limits: &LimitsSpec) -> Option<RequestError> {
        let most = self.config.limits.flows;
        let flows = limits.flows.filter(|flows| *flows > most)?;
        Some(RequestError::FlowLimit { flows, most })
    }

    /// Replaces the limits of an instance.
    pub(crate) fn decide_limits(
        &mut self,
        caller: &Caller,
        name: &str,
        limits: LimitsSpec,
        batch: &mut Batch,
    ) -> Result<Key, RequestError> {
        let key = self.find(caller, name)?;
        let held = self.held(key, name)?.clone();
        if let Some(refusal) = self.refuse_limits(&limits) {
            return Err(refusal);
        }
        if held.instance.limits == limits {
            batch.touch_if_troubled(key, &held);
            return Ok(key);
        }
        let instance = Instance {
            limits,
            ..held.instance.clone()
        };
        let detail = Value::Object(limits.members()).to_string();
        batch.audit(caller, "limits", instance.name.as_str(), detail);
        let change = Change::Limits(Box::new(instance.clone()));
        batch.changes.push(change);
        self.change(key, held, instance, batch);
        Ok(key)
    }
}
