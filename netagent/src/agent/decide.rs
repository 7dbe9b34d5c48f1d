//! Requests that change something: decided in memory one after another, and committed together (S-1).

use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use crate::access::{AccountName, Caller, TokenRecord};
use crate::agent::handle::{Answer, Asked, NewToken, Request};
use crate::agent::registry::{Held, Key};
use crate::agent::state::InstanceState;
use crate::agent::{Agent, Announcement, RequestError, fault, now_ms};
use crate::host::Host;
use crate::instance::{Instance, Life, Origin};
use crate::policy::Compiled;
use crate::store::{AuditEntry, Change};

/// What was decided and waits for its commit.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) changes: Vec<Change>,
    /// What instances were before, in the order in which they were changed.
    undo: Vec<(Key, Option<Held>)>,
    /// Instances that must now be brought about.
    touched: Vec<Key>,
    owed: Vec<Owed>,
    /// Ports of the host may have other owners, or lead elsewhere.
    pub(crate) ports: bool,
}

/// An answer that waits for the commit, and for the steps after it.
enum Owed {
    State(Key, Answer<InstanceState>),
    Done(Answer<()>),
    Accepted(bool, Answer<bool>),
    Token(NewToken, Answer<NewToken>),
    Revoked(Uuid, u64, Answer<()>),
}

impl<H: Host> Agent<H> {
    /// Answers requests that waited together: one commit for all of them, then their steps.
    pub(crate) async fn answer_together(&mut self, asked: Vec<Asked>) {
        let mut batch = Batch::default();
        for one in asked {
            self.decide(&mut batch, one).await;
        }
        if batch.changes.is_empty() {
            return self.pay(batch).await;
        }
        fault::boundary();
        if let Err(error) = self.store.commit(&batch.changes) {
            tracing::error!(%error, "requests could not be stored and were refused");
            let ports = batch.ports;
            self.take_back(batch, &error.to_string());
            if ports {
                self.follow_ports().await;
            }
            return;
        }
        fault::boundary();
        self.pay(batch).await;
    }

    async fn decide(&mut self, batch: &mut Batch, asked: Asked) {
        let Asked { caller, request } = asked;
        match request {
            Request::Create(spec, compiled, answer) => {
                let made = self.decide_create(&caller, *spec, compiled, batch).await;
                owe(batch, made, answer);
            }
            Request::Start(name, answer) => {
                let started = self.decide_start(&caller, &name, batch).await;
                owe(batch, started, answer);
            }
            Request::Stop(name, answer) => {
                let stopped = self.decide_stop(&caller, &name, batch);
                owe(batch, stopped, answer);
            }
            Request::Delete(name, force, answer) => {
                match self.decide_delete(&caller, (&name, force), batch) {
                    Ok(()) => batch.owed.push(Owed::Done(answer)),
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
            Request::Announce(name, announcement, answer) => {
                match self.decide_announce(&caller, &name, announcement, batch) {
                    Ok(accepted) => batch.owed.push(Owed::Accepted(accepted, answer)),
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
            Request::Publish(name, ports, answer) => {
                let changed = self.decide_publish(&caller, &name, ports, batch).await;
                owe(batch, changed, answer);
            }
            Request::Policy(name, policy, answer) => {
                let changed = self.decide_policy(&caller, &name, *policy, batch);
                owe(batch, changed, answer);
            }
            Request::Limits(name, limits, answer) => {
                let changed = self.decide_limits(&caller, &name, limits, batch);
                owe(batch, changed, answer);
            }
            Request::CreateToken(account, net_manager, answer) => {
                let token = new_token(account, net_manager);
                batch
                    .changes
                    .push(Change::InsertToken(token.record.clone()));
                let detail = format!("account {}", token.record.account);
                let id = token.record.id.to_string();
                batch.audit(&caller, "create token", &id, detail);
                batch.owed.push(Owed::Token(token, answer));
            }
            Request::RevokeToken(id, answer) => self.decide_revoke(&caller, id, answer, batch),
            // The others change nothing and are answered elsewhere.
            Request::Check(..)
            | Request::List(_)
            | Request::Inspect(..)
            | Request::Template(..)
            | Request::Copyable(..)
            | Request::Guest(..)
            | Request::Explain(..)
            | Request::Plan(_)
            | Request::Health(_) => {}
        }
    }

    async fn decide_start(
        &mut self,
        caller: &Caller,
        name: &str,
        batch: &mut Batch,
    ) -> Result<Key, RequestError> {
        let key = self.find(caller, name)?;
        let held = self.held(key, name)?.clone();
        if held.instance.life == Life::Running {
            batch.touch_if_troubled(key, &held);
            return Ok(key);
        }
        let mut instance = held.instance.clone();
        self.begin_start(&mut instance, batch).await?;
        batch.audit(caller, "start", instance.name.as_str(), String::new());
        batch
            .changes
            .push(Change::Update(Box::new(instance.clone())));
        self.change(key, held, instance, batch);
        Ok(key)
    }

    /// Chooses what every start chooses anew: generation and interface indices, and for existing TAPs how they
    /// are to be given back.
    pub(crate) async fn begin_start(
        &mut self,
        instance: &mut Instance,
        batch: &mut Batch,
    ) -> Result<(), RequestError> {
        for interface in &mut instance.interfaces {
            match &interface.origin {
                Origin::Pool | Origin::Custom => {
                    interface.ifindex = self.reservations.next_ifindex(interface.slot);
                    let uses = self.reservations.uses(interface.slot);
                    let slot = interface.slot;
                    batch.changes.push(Change::SlotUses { slot, uses });
                }
                Origin::Existing(before) => {
                    let before = before.clone();
                    let lent = self.lent_alias(interface.id);
                    if let Some(found) = self.host.before(&interface.tap_name).await? {
                        interface.ifindex = found.ifindex;
                        // Ours already: what it was before stands in the store.
                        let kept = if found.alias.as_deref() == Some(&lent) {
                            before
                        } else {
                            found
                        };
                        interface.origin = Origin::Existing(kept);
                    }
                }
            }
        }
        instance.generation = self.next_generation;
        instance.life = Life::Running;
        self.next_generation = self.next_generation.wrapping_add(1).max(1);
        batch
            .changes
            .push(Change::NextGeneration(self.next_generation));
        Ok(())
    }

    fn decide_stop(
        &mut self,
        caller: &Caller,
        name: &str,
        batch: &mut Batch,
    ) -> Result<Key, RequestError> {
        let key = self.find(caller, name)?;
        let held = self.held(key, name)?.clone();
        let mut instance = held.instance.clone();
        instance.life = Life::Stopped;
        batch.audit(caller, "stop", instance.name.as_str(), String::new());
        batch
            .changes
            .push(Change::Update(Box::new(instance.clone())));
        self.change(key, held, instance, batch);
        Ok(key)
    }

    /// The first of two transactions (S-4): it is gone for everybody, and what it reserved is not free yet.
    fn decide_delete(
        &mut self,
        caller: &Caller,
        (name, force): (&str, bool),
        batch: &mut Batch,
    ) -> Result<(), RequestError> {
        let key = self.find(caller, name)?;
        let held = self.held(key, name)?.clone();
        let mut instance = held.instance.clone();
        if let Some(refusal) = self.refuse_delete(&instance).filter(|_| !force) {
            return Err(refusal);
        }
        instance.life = Life::Deleting;
        batch.audit(
            caller,
            "delete",
            instance.name.as_str(),
            instance.id.to_string(),
        );
        batch.changes.push(Change::MarkDeleting(instance.id));
        self.change(key, held, instance, batch);
        Ok(())
    }

    /// I-4: an announcement for another address than the primary's is ignored.
    fn decide_announce(
        &mut self,
        caller: &Caller,
        name: &str,
        announcement: Announcement,
        batch: &mut Batch,
    ) -> Result<bool, RequestError> {
        let key = self.find(caller, name)?;
        let held = self.held(key, name)?.clone();
        let mut instance = held.instance.clone();
        let primary = instance.interfaces.first();
        let own = primary.is_some_and(|primary| {
            let v6 = primary.guest_v6.map(|net| IpAddr::V6(net.addr()));
            announcement.address == IpAddr::V4(primary.guest_v4.addr())
                || Some(announcement.address) == v6
        });
        if !own {
            return Ok(false);
        }
        if !instance.announced.contains(&announcement.port) {
            if instance.announced.len() >= ANNOUNCED_MAX {
                let text = format!("An instance may announce {ANNOUNCED_MAX} ports");
                return Err(RequestError::Invalid(text));
            }
            instance.announced.push(announcement.port);
            instance.announced.sort_unstable();
            batch
                .changes
                .push(Change::Update(Box::new(instance.clone())));
            let changed = held.with(instance);
            batch.undo.push((key, Some(held)));
            self.registry.put(key, changed);
        }
        Ok(true)
    }

    fn decide_revoke(&self, caller: &Caller, id: Uuid, answer: Answer<()>, batch: &mut Batch) {
        let in_force = |token: &TokenRecord| token.id == id && token.revoked_ms.is_none();
        if !self.read_tokens().iter().any(in_force) {
            return drop(answer.send(Err(RequestError::TokenNotFound(id.to_string()))));
        }
        let at_ms = now_ms();
        batch.changes.push(Change::RevokeToken { id, at_ms });
        batch.audit(caller, "revoke token", &id.to_string(), String::new());
        batch.owed.push(Owed::Revoked(id, at_ms, answer));
    }

    pub(crate) fn change(&mut self, key: Key, before: Held, instance: Instance, batch: &mut Batch) {
        let changed = before.with(instance);
        self.change_held(key, before, changed, batch);
    }

    pub(crate) fn change_held(&mut self, key: Key, before: Held, changed: Held, batch: &mut Batch) {
        batch.ports |= !before.instance.publications.is_empty();
        batch.ports |= !changed.instance.publications.is_empty();
        batch.undo.push((key, Some(before)));
        batch.touched.push(key);
        self.registry.put(key, changed);
    }

    /// Takes a new instance in.
    pub(crate) fn take_in(
        &mut self,
        instance: Instance,
        compiled: Option<Arc<Compiled>>,
        batch: &mut Batch,
    ) -> Key {
        let started = instance.life == Life::Running;
        // The relay is one from now on, whether its client runs or not.
        let has_relay = instance.interfaces.iter().any(|one| one.relay.is_some());
        batch.ports |= !instance.publications.is_empty();
        let key = self.registry.insert(instance, compiled);
        batch.undo.push((key, None));
        batch.touched.extend((started || has_relay).then_some(key));
        key
    }

    /// A commit failed: memory becomes what the store still is, and every asker is told.
    fn take_back(&mut self, batch: Batch, reason: &str) {
        for (key, before) in batch.undo.into_iter().rev() {
            match before {
                Some(held) => self.registry.put(key, held),
                None => self.release(key),
            }
        }
        let refused = || RequestError::Store(reason.to_owned());
        for owed in batch.owed {
            match owed {
                Owed::State(_, answer) => drop(answer.send(Err(refused()))),
                Owed::Done(answer) | Owed::Revoked(_, _, answer) => {
                    drop(answer.send(Err(refused())));
                }
                Owed::Accepted(_, answer) => drop(answer.send(Err(refused()))),
                Owed::Token(_, answer) => drop(answer.send(Err(refused()))),
            }
        }
    }

    /// Brings about what was committed, and answers.
    async fn pay(&mut self, batch: Batch) {
        self.carry_out(&batch.touched).await;
        if batch.ports {
            self.follow_ports_of(&batch.touched).await;
        }
        for owed in batch.owed {
            match owed {
                Owed::State(key, answer) => drop(answer.send(self.state_of(key))),
                Owed::Done(answer) => drop(answer.send(Ok(()))),
                Owed::Accepted(accepted, answer) => drop(answer.send(Ok(accepted))),
                Owed::Token(token, answer) => {
                    self.with_tokens(|tokens| tokens.push(token.record.clone()));
                    drop(answer.send(Ok(token)));
                }
                Owed::Revoked(id, at_ms, answer) => {
                    self.with_tokens(|tokens| {
                        let revoked = tokens.iter_mut().filter(|token| token.id == id);
                        revoked.for_each(|token| token.revoked_ms = Some(at_ms));
                    });
                    drop(answer.send(Ok(())));
                }
            }
        }
    }

    /// Commits what the agent decided by itself, and takes it back where that fails.
    pub(crate) fn commit_own(&mut self, batch: Batch) -> Result<Vec<Key>, RequestError> {
        if batch.changes.is_empty() {
            return Ok(batch.touched);
        }
        fault::boundary();
        if let Err(error) = self.store.commit(&batch.changes) {
            let reason = error.to_string();
            self.take_back(batch, &reason);
            return Err(RequestError::Store(reason));
        }
        fault::boundary();
        Ok(batch.touched)
    }

    pub(crate) fn find(&self, caller: &Caller, name: &str) -> Result<Key, RequestError> {
        let found = self.registry.find(&caller.account, name);
        found.ok_or_else(|| RequestError::NotFound(name.to_owned()))
    }

    pub(crate) fn held(&self, key: Key, name: &str) -> Result<&Held, RequestError> {
        let held = self.registry.get(key);
        held.ok_or_else(|| RequestError::NotFound(name.to_owned()))
    }
}

/// Ports that one instance may announce.
const ANNOUNCED_MAX: usize = 1_024;

fn owe(batch: &mut Batch, decided: Result<Key, RequestError>, answer: Answer<InstanceState>) {
    match decided {
        Ok(key) => batch.owed.push(Owed::State(key, answer)),
        Err(error) => drop(answer.send(Err(error))),
    }
}

fn new_token(account: AccountName, net_manager: bool) -> NewToken {
    let (record, secret) = TokenRecord::new(account, net_manager, now_ms());
    NewToken { record, secret }
}

impl Batch {
    /// Says in the audit who changes what (S-6).
    pub(crate) fn audit(&mut self, caller: &Caller, action: &str, object: &str, detail: String) {
        tracing::info!(account = %caller.account, actor = caller.actor, object, action);
        self.changes.push(Change::Audit(AuditEntry {
            at_ms: now_ms(),
            account: caller.account.clone(),
            actor: caller.actor.clone(),
            action: action.to_owned(),
            object: object.to_owned(),
            detail,
        }));
    }

    /// An instance that stays as it is: one that failed is tried again at once.
    pub(crate) fn touch_if_troubled(&mut self, key: Key, held: &Held) {
        self.touched.extend(held.trouble.is_some().then_some(key));
    }

    /// An instance that changes without being asked for.
    pub(crate) fn replace(&mut self, key: Key, before: Held) {
        self.undo.push((key, Some(before)));
        self.touched.push(key);
    }
}
