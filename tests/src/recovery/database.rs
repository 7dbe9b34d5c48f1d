//! The agent's database, read without the agent's own code.

use std::fs;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, Row as SqlRow};

use crate::recovery::shown::{Shown, ShownNic};

/// File in the state directory.
pub const DATABASE: &str = "netagent.db";

/// An instance as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What the API shows of it, too.
    pub shown: Shown,
    /// Where its interfaces are in the datapath, in the same order.
    pub places: Vec<Place>,
    /// Id of the store.
    pub store_id: String,
}

/// Where an interface is in the datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its slot.
    pub slot: u32,
    /// Index of its TAP since the last start.
    pub ifindex: u32,
}

/// All instances of a state directory, by name.
///
/// # Panics
/// Where it cannot be read.
#[must_use]
pub fn read(state_dir: &Path) -> Vec<Row> {
    let store_id = store_id(state_dir);
    let path = state_dir.join(DATABASE);
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let instances = "SELECT id, name, life FROM instances ORDER BY name";
    let mut statement = connection.prepare(instances).expect("the schema's tables");
    let rows = statement.query_map([], |row| {
        let id: String = row.get("id")?;
        let (nics, places) = interfaces(&connection, &id)?.into_iter().unzip();
        let shown = Shown {
            name: row.get("name")?,
            id,
            status: row.get("life")?,
            nics,
        };
        let store_id = store_id.clone();
        Ok(Row {
            shown,
            places,
            store_id,
        })
    });
    let rows: rusqlite::Result<Vec<Row>> = rows.and_then(Iterator::collect);
    rows.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn interfaces(connection: &Connection, instance: &str) -> rusqlite::Result<Vec<(ShownNic, Place)>> {
    let interfaces = "SELECT * FROM interfaces WHERE instance = ?1 ORDER BY position";
    let mut statement = connection.prepare(interfaces)?;
    statement.query_map([instance], interface)?.collect()
}

fn interface(row: &SqlRow<'_>) -> rusqlite::Result<(ShownNic, Place)> {
    let network = |address: &str, prefix: &str| -> rusqlite::Result<Option<String>> {
        let address: Option<String> = row.get(address)?;
        let prefix: Option<u8> = row.get(prefix)?;
        Ok(address
            .zip(prefix)
            .map(|(address, prefix)| format!("{address}/{prefix}")))
    };
    let host_v4: String = row.get("host_v4")?;
    let mac: [u8; 6] = row.get("mac")?;
    let nic = ShownNic {
        id: row.get("id")?,
        name: row.get("name")?,
        tap_name: row.get("tap_name")?,
        ip: network("guest_v4", "prefix_v4")?.expect("every interface has an address"),
        ip6: network("guest_v6", "prefix_v6")?,
        tap_ip: host_v4.split('/').next().unwrap_or_default().to_owned(),
        mac: mac.map(|octet| format!("{octet:02X}")).join(":"),
    };
    let place = Place {
        slot: row.get("slot")?,
        ifindex: row.get("ifindex")?,
    };
    Ok((nic, place))
}

/// Says that the database is of this version.
///
/// # Panics
/// Where it cannot be written.
pub fn set_version(state_dir: &Path, version: u32) {
    let connection = Connection::open(state_dir.join(DATABASE)).expect("a database");
    connection
        .pragma_update(None, "user_version", version)
        .expect("nobody else has it open");
}

/// Makes a database that is not the agent's.
///
/// # Panics
/// Where it cannot be written.
pub fn make_foreign(state_dir: &Path) {
    let connection = Connection::open(state_dir.join(DATABASE)).expect("a directory of our own");
    connection
        .execute_batch(
            "PRAGMA application_id = 4711; PRAGMA user_version = 1; CREATE TABLE guests (name TEXT);",
        )
        .expect("a file of our own");
}

/// The id that the aliases of the agent's links begin with.
fn store_id(state_dir: &Path) -> String {
    let path = state_dir.join("id");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut lines = text.lines();
    let id = lines.find_map(|line| line.strip_prefix("store_id = "));
    id.expect("the file has it").trim_matches('"').to_owned()
}
