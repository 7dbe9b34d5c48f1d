//! Writes one change.

use ipnet::IpNet;
use rusqlite::{Transaction, params};
use uuid::Uuid;

use crate::access::TokenRecord;
use crate::instance::{Instance, Interface, Life};
use crate::store::{AuditEntry, Change};

pub(super) fn change(to: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Insert(instance) => insert(to, instance),
        Change::Update(instance) => update(to, instance),
        Change::Publish(instance) => publish(to, instance),
        Change::Policy(instance) => policy(to, instance),
        Change::Limits(instance) => limits(to, instance),
        Change::MarkDeleting(id) => mark_deleting(to, *id),
        Change::Remove(id) => run(
            to,
            "DELETE FROM instances WHERE id = ?1",
            params![id.to_string()],
        ),
        Change::InsertToken(token) => insert_token(to, token),
        Change::RevokeToken { id, at_ms } => run(
            to,
            "UPDATE tokens SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL",
            params![id.to_string(), time(*at_ms)],
        ),
        Change::SlotUses { slot, uses } => run(
            to,
            "INSERT INTO slot_uses VALUES (?1, ?2) ON CONFLICT DO UPDATE SET uses = ?2",
            params![slot, uses],
        ),
        Change::NextGeneration(next) => number(to, "next_generation", *next),
        Change::NextPublication(next) => number(to, "next_publication", *next),
        Change::Audit(entry) => audit(to, entry),
    }
}

fn run(to: &Transaction<'_>, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<()> {
    to.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

fn number(to: &Transaction<'_>, name: &str, value: u32) -> rusqlite::Result<()> {
    run(
        to,
        "INSERT INTO numbers VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2",
        params![name, value],
    )
}

fn insert(to: &Transaction<'_>, instance: &Instance) -> rusqlite::Result<()> {
    run(
        to,
        "INSERT INTO instances VALUES (?1, (SELECT coalesce(max(seq), 0) + 1 FROM instances),
         ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        params![
            instance.id.to_string(),
            instance.account.as_str(),
            instance.name.as_str(),
            json(&instance.request)?,
            instance.gateway.map(|address| address.to_string()),
            instance.nameserver.map(|address| address.to_string()),
            instance.life.as_str(),
            instance.generation,
            json(&instance.announced)?,
            time(instance.created_ms),
            instance.policy_generation,
            json(&instance.exposed)?,
            instance.snat_address.map(|address| address.to_string()),
            json(&instance.policy.members())?,
            json(&instance.limits.members())?,
        ],
    )?;
    for (position, interface) in (0_u32..).zip(&instance.interfaces) {
        insert_interface(to, instance, position, interface)?;
    }
    insert_publications(to, instance)
}

/// Replaces the published and exposed ports; what stays as it is keeps its number.
fn publish(to: &Transaction<'_>, instance: &Instance) -> rusqlite::Result<()> {
    let id = instance.id.to_string();
    run(
        to,
        "UPDATE instances SET policy_generation = ?2, exposed = ?3 WHERE id = ?1",
        params![id, instance.policy_generation, json(&instance.exposed)?],
    )?;
    run(
        to,
        "DELETE FROM publications WHERE instance = ?1",
        params![id],
    )?;
    insert_publications(to, instance)
}

fn policy(to: &Transaction<'_>, instance: &Instance) -> rusqlite::Result<()> {
    run(
        to,
        "UPDATE instances SET policy_generation = ?2, policy = ?3 WHERE id = ?1",
        params![
            instance.id.to_string(),
            instance.policy_generation,
            json(&instance.policy.members())?,
        ],
    )
}

fn limits(to: &Transaction<'_>, instance: &Instance) -> rusqlite::Result<()> {
    run(
        to,
        "UPDATE instances SET limits = ?2 WHERE id = ?1",
        params![instance.id.to_string(), json(&instance.limits.members())?,],
    )
}

fn insert_publications(to: &Transaction<'_>, instance: &Instance) -> rusqlite::Result<()> {
    for (position, publication) in (0_u32..).zip(&instance.publications) {
        let port = &publication.port;
        run(
            to,
            "INSERT INTO publications VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                publication.id,
                instance.id.to_string(),
                position,
                port.at.protocol.as_str(),
                port.at.address.map(|address| address.to_string()),
                port.at.port,
                port.guest_port,
                port.allow_from.as_ref().map(json).transpose()?,
            ],
        )?;
    }
    Ok(())
}

fn insert_interface(
    to: &Transaction<'_>,
    instance: &Instance,
    position: u32,
    interface: &Interface,
) -> rusqlite::Result<()> {
    let guest_v6 = interface.guest_v6.map(IpNet::V6);
    let relay = interface.relay.as_ref();
    run(
        to,
        "INSERT INTO interfaces VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,
         ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)",
        params![
            interface.id.to_string(),
            instance.id.to_string(),
            position,
            instance.account.as_str(),
            interface.name.as_str(),
            instance.life == Life::Deleting,
            interface.slot,
            interface.ifindex,
            interface.tap_name,
            interface.tap_owner,
            interface.tap_group,
            interface.queues,
            json(&interface.origin)?,
            interface.host_v4.to_string(),
            interface.guest_v4.addr().to_string(),
            interface.guest_v4.prefix_len(),
            guest_v6.map(|net| net.addr().to_string()),
            guest_v6.map(|net| net.prefix_len()),
            interface.mac,
            interface.model,
            interface.autoconfig,
            interface.mtu,
            relay.map(|relay| relay.name.as_str()),
            relay.and_then(|relay| relay.dns),
            relay.map(|relay| relay.leg),
        ],
    )
}

fn update(to: &Transaction<'_>, instance: &Instance) -> rusqlite::Result<()> {
    run(
        to,
        "UPDATE instances SET life = ?2, generation = ?3, announced = ?4 WHERE id = ?1",
        params![
            instance.id.to_string(),
            instance.life.as_str(),
            instance.generation,
            json(&instance.announced)?,
        ],
    )?;
    for interface in &instance.interfaces {
        run(
            to,
            "UPDATE interfaces SET ifindex = ?2, origin = ?3 WHERE id = ?1",
            params![
                interface.id.to_string(),
                interface.ifindex,
                json(&interface.origin)?,
            ],
        )?;
    }
    Ok(())
}

fn mark_deleting(to: &Transaction<'_>, id: Uuid) -> rusqlite::Result<()> {
    let id = id.to_string();
    run(
        to,
        "UPDATE instances SET life = 'deleting' WHERE id = ?1",
        params![id],
    )?;
    run(
        to,
        "UPDATE interfaces SET deleting = 1 WHERE instance = ?1",
        params![id],
    )
}

fn insert_token(to: &Transaction<'_>, token: &TokenRecord) -> rusqlite::Result<()> {
    run(
        to,
        "INSERT INTO tokens VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            token.id.to_string(),
            token.account.as_str(),
            token.net_manager,
            token.hash,
            time(token.created_ms),
            token.revoked_ms.map(time),
        ],
    )
}

fn audit(to: &Transaction<'_>, entry: &AuditEntry) -> rusqlite::Result<()> {
    run(
        to,
        "INSERT INTO audit (at_ms, account, actor, action, object, detail)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            time(entry.at_ms),
            entry.account.as_str(),
            entry.actor,
            entry.action,
            entry.object,
            entry.detail,
        ],
    )
}

/// SQLite's integers are signed.
fn time(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
