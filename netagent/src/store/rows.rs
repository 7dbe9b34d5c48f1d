//! Reads everything. A value that cannot be what it should be is damage, named by its row.

use std::collections::BTreeMap;
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use rusqlite::types::Type;
use rusqlite::{Connection, Row};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::access::{AccountName, TokenRecord};
use crate::instance::{Instance, Interface, Life, Publication, Relay};
use crate::spec::limit::LimitsSpec;
use crate::spec::name::Name;
use crate::spec::policy::PolicySpec;
use crate::spec::publish::{HostPort, PortProtocol, PublishedPort};
use crate::store::{AuditEntry, Stored};

/// What stands in a column where something else must stand.
#[derive(Debug, thiserror::Error)]
#[error("{row}: {column} is '{value}'")]
struct BadValue {
    row: String,
    column: &'static str,
    value: String,
}

pub(super) fn load(connection: &Connection) -> rusqlite::Result<Stored> {
    let mut interfaces = load_interfaces(connection)?;
    let mut publications = load_publications(connection)?;
    let mut statement = connection.prepare("SELECT * FROM instances ORDER BY seq")?;
    let instances = statement.query_map([], |row| {
        let id: Uuid = parsed(row, "id")?;
        let interfaces = interfaces.remove(&id).unwrap_or_default();
        let publications = publications.remove(&id).unwrap_or_default();
        instance(row, id, (interfaces, publications))
    })?;
    let instances = instances.collect::<rusqlite::Result<_>>()?;
    let mut statement = connection.prepare("SELECT * FROM tokens ORDER BY created_ms, id")?;
    let tokens = statement.query_map([], token)?;
    let mut uses = connection.prepare("SELECT slot, uses FROM slot_uses")?;
    let slot_uses = uses.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let next = |name: &str| {
        let sql = "SELECT coalesce(max(value), 1) FROM numbers WHERE name = ?1";
        connection.query_row(sql, [name], |row| row.get(0))
    };
    Ok(Stored {
        instances,
        tokens: tokens.collect::<rusqlite::Result<_>>()?,
        slot_uses: slot_uses.collect::<rusqlite::Result<_>>()?,
        next_generation: next("next_generation")?,
        next_publication: next("next_publication")?,
    })
}

pub(super) fn audit(connection: &Connection, limit: u32) -> rusqlite::Result<Vec<AuditEntry>> {
    let mut statement = connection.prepare("SELECT * FROM audit ORDER BY seq DESC LIMIT ?1")?;
    let entries = statement.query_map([limit], |row| {
        Ok(AuditEntry {
            at_ms: time(row, "at_ms")?,
            account: account(row)?,
            actor: row.get("actor")?,
            action: row.get("action")?,
            object: row.get("object")?,
            detail: row.get("detail")?,
        })
    })?;
    entries.collect()
}

fn load_interfaces(connection: &Connection) -> rusqlite::Result<BTreeMap<Uuid, Vec<Interface>>> {
    let mut statement = connection.prepare("SELECT * FROM interfaces ORDER BY position")?;
    let mut interfaces: BTreeMap<Uuid, Vec<Interface>> = BTreeMap::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let instance = parsed(row, "instance")?;
        interfaces
            .entry(instance)
            .or_default()
            .push(interface(row)?);
    }
    Ok(interfaces)
}

fn load_publications(
    connection: &Connection,
) -> rusqlite::Result<BTreeMap<Uuid, Vec<Publication>>> {
    let mut statement = connection.prepare("SELECT * FROM publications ORDER BY position")?;
    let mut publications: BTreeMap<Uuid, Vec<Publication>> = BTreeMap::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let of = publications.entry(parsed(row, "instance")?).or_default();
        of.push(publication(row)?);
    }
    Ok(publications)
}

fn publication(row: &Row<'_>) -> rusqlite::Result<Publication> {
    let protocol: String = row.get("protocol")?;
    let protocol = PortProtocol::parse(&protocol).ok_or_else(|| bad(row, "protocol", &protocol))?;
    let allow_from: Option<String> = row.get("allow_from")?;
    let allow_from = allow_from.map(|_| json(row, "allow_from")).transpose()?;
    let at = HostPort {
        port: row.get("host_port")?,
        protocol,
        address: optional(row, "address")?,
    };
    Ok(Publication {
        id: row.get("id")?,
        port: PublishedPort {
            at,
            guest_port: row.get("guest_port")?,
            allow_from,
        },
    })
}

fn instance(
    row: &Row<'_>,
    id: Uuid,
    (interfaces, publications): (Vec<Interface>, Vec<Publication>),
) -> rusqlite::Result<Instance> {
    let lives = [Life::Pending, Life::Running, Life::Stopped, Life::Deleting];
    let life: String = row.get("life")?;
    let life = lives.into_iter().find(|one| one.as_str() == life);
    if interfaces.is_empty() {
        return Err(bad(row, "interfaces", "none"));
    }
    let policy = PolicySpec::parse(&json(row, "policy")?);
    let limits = LimitsSpec::parse(&json(row, "limits")?);
    Ok(Instance {
        id,
        account: account(row)?,
        name: name(row)?,
        request: json(row, "request")?,
        gateway: optional(row, "gateway")?,
        nameserver: optional(row, "nameserver")?,
        snat_address: optional(row, "snat_address")?,
        life: life.ok_or_else(|| bad(row, "life", ""))?,
        generation: row.get("generation")?,
        announced: json(row, "announced")?,
        publications,
        exposed: json(row, "exposed")?,
        policy: policy.map_err(|error| bad(row, "policy", &error.to_string()))?,
        policy_generation: row.get("policy_generation")?,
        limits: limits.map_err(|error| bad(row, "limits", &error.to_string()))?,
        created_ms: time(row, "created_ms")?,
        interfaces,
    })
}

fn interface(row: &Row<'_>) -> rusqlite::Result<Interface> {
    let v4 = Ipv4Net::new(parsed(row, "guest_v4")?, row.get("prefix_v4")?);
    let v6 = optional(row, "guest_v6")?.zip(row.get("prefix_v6")?);
    let v6 = v6.map(|(address, prefix)| Ipv6Net::new(address, prefix));
    Ok(Interface {
        id: parsed(row, "id")?,
        name: name(row)?,
        slot: row.get("slot")?,
        ifindex: row.get("ifindex")?,
        tap_name: row.get("tap_name")?,
        tap_owner: row.get("tap_owner")?,
        tap_group: row.get("tap_group")?,
        queues: row.get("queues")?,
        origin: json(row, "origin")?,
        host_v4: parsed(row, "host_v4")?,
        guest_v4: v4.map_err(|error| bad(row, "prefix_v4", &error.to_string()))?,
        guest_v6: v6
            .transpose()
            .map_err(|error| bad(row, "prefix_v6", &error.to_string()))?,
        mac: row.get("mac")?,
        model: row.get("model")?,
        autoconfig: row.get("autoconfig")?,
        mtu: row.get("mtu")?,
        relay: relay(row)?,
    })
}

fn relay(row: &Row<'_>) -> rusqlite::Result<Option<Relay>> {
    let Some(name) = row.get::<_, Option<String>>("relay")? else {
        return Ok(None);
    };
    Ok(Some(Relay {
        name: Name::parse(&name).ok_or_else(|| bad(row, "relay", &name))?,
        dns: row.get("relay_dns")?,
        leg: row.get("leg")?,
    }))
}

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRecord> {
    let revoked: Option<i64> = row.get("revoked_ms")?;
    Ok(TokenRecord {
        id: parsed(row, "id")?,
        account: account(row)?,
        net_manager: row.get("net_manager")?,
        hash: row.get("hash")?,
        created_ms: time(row, "created_ms")?,
        revoked_ms: revoked.map(i64::unsigned_abs),
    })
}

fn account(row: &Row<'_>) -> rusqlite::Result<AccountName> {
    let text: String = row.get("account")?;
    AccountName::parse(&text).ok_or_else(|| bad(row, "account", &text))
}

fn name(row: &Row<'_>) -> rusqlite::Result<Name> {
    let text: String = row.get("name")?;
    Name::parse(&text).ok_or_else(|| bad(row, "name", &text))
}

fn time(row: &Row<'_>, column: &'static str) -> rusqlite::Result<u64> {
    let ms: i64 = row.get(column)?;
    Ok(ms.unsigned_abs())
}

fn parsed<T: FromStr>(row: &Row<'_>, column: &'static str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    text.parse().ok().ok_or_else(|| bad(row, column, &text))
}

fn optional<T: FromStr>(row: &Row<'_>, column: &'static str) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    let parse = |text: String| text.parse().ok().ok_or_else(|| bad(row, column, &text));
    text.map(parse).transpose()
}

fn json<T: DeserializeOwned>(row: &Row<'_>, column: &'static str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| bad(row, column, &format!("{text}: {error}")))
}

fn bad(row: &Row<'_>, column: &'static str, value: &str) -> rusqlite::Error {
    let named = row
        .get("id")
        .or_else(|_| row.get::<_, u32>("id").map(|id| id.to_string()));
    let row: String = named.unwrap_or_else(|_| "a row".to_owned());
    let value = value.to_owned();
    let cause = BadValue { row, column, value };
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(cause))
}
