//! Which requests wait for a commit together, and the questions that change nothing.

use crate::access::Caller;
use crate::agent::handle::{Asked, Request};
use crate::agent::learned::start_of;
use crate::agent::state::InstanceState;
use crate::agent::{Agent, RequestError, Template};
use crate::guest::GuestConfig;
use crate::host::{Counters, Host, HostError};
use crate::instance::Life;
use crate::spec::InstanceSpec;

impl Request {
    /// Whether it changes what is stored.
    const fn is_change(&self) -> bool {
        match self {
            Self::Create(..)
            | Self::Start(..)
            | Self::Stop(..)
            | Self::Delete(..)
            | Self::Announce(..)
            | Self::Publish(..)
            | Self::Policy(..)
            | Self::Limits(..)
            | Self::CreateToken(..)
            | Self::RevokeToken(..) => true,
            Self::Check(..)
            | Self::List(_)
            | Self::Inspect(..)
            | Self::Template(..)
            | Self::Copyable(..)
            | Self::Guest(..)
            | Self::Explain(..)
            | Self::Plan(_)
            | Self::Health(_) => false,
        }
    }
}

impl<H: Host> Agent<H> {
    /// Answers requests in the order in which they came; changes that follow each other share a commit.
    pub(crate) async fn answer(&mut self, asked: Vec<Asked>) {
        let mut changes = Vec::new();
        for one in asked {
            if one.request.is_change() {
                changes.push(one);
                continue;
            }
            if !changes.is_empty() {
                self.answer_together(std::mem::take(&mut changes)).await;
            }
            self.answer_question(one).await;
        }
        if !changes.is_empty() {
            self.answer_together(changes).await;
        }
    }

    async fn answer_question(&mut self, asked: Asked) {
        let caller = &asked.caller;
        // An asker that went away does not wait for the answer.
        match asked.request {
            Request::Check(spec, answer) => drop(answer.send(self.check(caller, &spec).await)),
            Request::List(answer) => drop(answer.send(self.list(caller))),
            Request::Inspect(name, answer) => {
                drop(answer.send(self.inspect(caller, &name).await));
            }
            Request::Template(name, answer) => drop(answer.send(self.template(caller, &name))),
            Request::Copyable(name, what, answer) => {
                drop(answer.send(self.check_copyable(caller, &name, what)));
            }
            Request::Guest(name, answer) => drop(answer.send(self.guest(caller, &name))),
            Request::Explain(name, subject, answer) => {
                drop(answer.send(self.explain(caller, &name, &subject)));
            }
            Request::Plan(answer) => drop(answer.send(self.show_plan().await)),
            Request::Health(answer) => drop(answer.send(Ok(self.host_trouble.clone()))),
            Request::Create(..)
            | Request::Start(..)
            | Request::Stop(..)
            | Request::Delete(..)
            | Request::Announce(..)
            | Request::Publish(..)
            | Request::Policy(..)
            | Request::Limits(..)
            | Request::CreateToken(..)
            | Request::RevokeToken(..) => {}
        }
    }

    async fn check(
        &mut self,
        caller: &Caller,
        spec: &InstanceSpec,
    ) -> Result<Vec<String>, RequestError> {
        let refusals = self.refusals(caller, spec).await?;
        Ok(refusals.iter().map(ToString::to_string).collect())
    }

    fn list(&self, caller: &Caller) -> Result<Vec<InstanceState>, RequestError> {
        let own = self.registry.all().filter(|(_, held)| {
            held.instance.account == caller.account && held.instance.life != Life::Deleting
        });
        own.map(|(key, _)| self.state_of(key)).collect()
    }

    async fn inspect(
        &mut self,
        caller: &Caller,
        name: &str,
    ) -> Result<InstanceState, RequestError> {
        let key = self.find(caller, name)?;
        let mut state = self.state_of(key)?;
        let instance = self.held(key, name)?.instance.clone();
        let places = self.places_of(&instance);
        self.host
            .observe_interfaces(&mut self.observed, &places)
            .await?;
        for (interface, shown) in instance.interfaces.iter().zip(&mut state.interfaces) {
            let mut counters = self.host.counters(interface.slot).await?;
            let refused = self.directory.refused(interface.slot, instance.generation);
            counters.drops.extend(refused);
            if let Some(relay) = &interface.relay {
                self.add_leg(relay.leg, instance.generation, &mut counters)
                    .await?;
            }
            shown.relay = self.relay_state(&instance, interface, true);
            let link = self.observed.links.get(&interface.ifindex);
            let attached = instance.life == Life::Running && link.is_some_and(|link| link.carrier);
            shown.inspected = Some((attached, counters));
        }
        let dns = self.servers.as_ref();
        let dns = dns.map(|servers| servers.dns_counters(start_of(&instance)));
        state.dns = Some(dns.unwrap_or_default());
        Ok(state)
    }

    /// What is dropped on the far side of a relay is dropped for its client. What passes there was counted on this side.
    async fn add_leg(
        &mut self,
        leg: u32,
        generation: u32,
        counters: &mut Counters,
    ) -> Result<(), HostError> {
        let far = self.host.counters(leg).await?.drops;
        for (reason, count) in far
            .into_iter()
            .chain(self.directory.refused(leg, generation))
        {
            *counters.drops.entry(reason).or_default() += count;
        }
        Ok(())
    }

    fn template(&self, caller: &Caller, name: &str) -> Result<Template, RequestError> {
        let key = self.find(caller, name)?;
        let instance = &self.held(key, name)?.instance;
        let mut template = InstanceSpec::template(&instance.request);
        // It may have others by now than those that it was made with.
        template.extend(instance.policy.members());
        template.extend(instance.limits.members());
        if template.contains_key("exposed_ports") || !instance.exposed.is_empty() {
            let exposed = instance.exposed.iter().map(ToString::to_string);
            template.insert("exposed_ports".to_owned(), exposed.collect());
        }
        let interfaces = instance.interfaces.iter();
        let warnings = interfaces.filter_map(|interface| {
            let relay = &interface.relay.as_ref()?.name;
            let name = &interface.name;
            Some(format!(
                "network interface '{name}' has the relay '{relay}', and what is made of this template has none"
            ))
        });
        Ok(Template {
            request: template,
            warnings: warnings.collect(),
        })
    }

    fn guest(&self, caller: &Caller, name: &str) -> Result<GuestConfig, RequestError> {
        let key = self.find(caller, name)?;
        Ok(self.guest_config(&self.held(key, name)?.instance))
    }

    /// I-19.
    fn check_copyable(
        &self,
        caller: &Caller,
        name: &str,
        what: &'static str,
    ) -> Result<(), RequestError> {
        let key = self.find(caller, name)?;
        if self.held(key, name)?.instance.interfaces.len() > 1 {
            return Err(RequestError::SeveralInterfaces(what));
        }
        Ok(())
    }
}
