//! The agent's database, looked at from beside the agent.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};

/// The first bytes of every SQLite database.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Path of the one database in a state directory.
///
/// # Panics
/// Where there is none, or more than one.
#[must_use]
pub fn path(state_dir: &Path) -> PathBuf {
    let entries = fs::read_dir(state_dir).expect("the agent made its state directory");
    let files = entries.map(|entry| entry.expect("a readable directory").path());
    let mut databases =
        files.filter(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(MAGIC)));
    let found = databases
        .next()
        .expect("the state directory has a database");
    assert_eq!(databases.next(), None, "a second database");
    found
}

/// Every row of every table, sorted, by the name of the table.
///
/// # Panics
/// Where the database cannot be read.
#[must_use]
pub fn rows(state_dir: &Path) -> BTreeMap<String, Vec<String>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path(state_dir), flags).expect("a database");
    let tables = texts(
        &database,
        "SELECT name FROM sqlite_master WHERE type = 'table'",
    );
    let rows_of = |table: &String| texts(&database, &format!("SELECT * FROM \"{table}\""));
    tables
        .iter()
        .map(|table| (table.clone(), rows_of(table)))
        .collect()
}

/// What a query gives, one text for each row.
fn texts(database: &Connection, query: &str) -> Vec<String> {
    let mut statement = database.prepare(query).expect("a statement of our own");
    let columns = statement.column_count();
    let mut found = Vec::new();
    let mut rows = statement.query([]).expect("a readable database");
    while let Some(row) = rows.next().expect("a readable row") {
        let cell = |index| match row.get(index).expect("a column of the row") {
            Value::Null => "null".to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Real(number) => number.to_string(),
            Value::Text(text) => text,
            Value::Blob(bytes) => crate::packet::hex(&bytes),
        };
        found.push((0..columns).map(cell).collect::<Vec<_>>().join(" "));
    }
    found.sort();
    found
}
