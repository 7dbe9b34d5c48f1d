//! What survives: instances with their reservations, tokens and the audit, in one SQLite file (S-1).
//!
//! Every commit is on the disk before it returns (`synchronous=FULL`). The file belongs to one agent; its lock is
//! the one on the state directory.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use uuid::Uuid;

use crate::access::{AccountName, TokenRecord};
use crate::instance::Instance;

mod rows;
mod write;

/// Marks the file as netagent's: "neta".
const APPLICATION_ID: i32 = 0x6e65_7461;
/// One script for each version; the last one's number is the version of the code.
const MIGRATIONS: &[&str] = &[
    include_str!("schema.sql"),
    include_str!("mtu.sql"),
    include_str!("publish.sql"),
    include_str!("snat.sql"),
    include_str!("policy.sql"),
    include_str!("relay.sql"),
];
/// Statements kept prepared.
const STATEMENTS: usize = 32;

/// The database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

/// Everything that a start reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// In the order in which they were created.
    pub instances: Vec<Instance>,
    /// Tokens, revoked ones too.
    pub tokens: Vec<TokenRecord>,
    /// How often each slot was started.
    pub slot_uses: BTreeMap<u32, u32>,
    /// Generation of the next start.
    pub next_generation: u32,
    /// Number of the next publication.
    pub next_publication: u32,
}

/// One change. Changes that are committed together happen together or not at all.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "the fields are what the sentence of their change names"
)]
pub enum Change {
    /// A new instance with its reservations.
    Insert(Box<Instance>),
    /// Life, generation, announced ports; indices and origins of its interfaces.
    Update(Box<Instance>),
    /// Published and exposed ports, and the policy generation that moved with them.
    Publish(Box<Instance>),
    /// The policy, and the policy generation that moved with it.
    Policy(Box<Instance>),
    /// The limits.
    Limits(Box<Instance>),
    /// The first half of a delete: it is nobody's any more, and still holds what it reserved (S-4).
    MarkDeleting(Uuid),
    /// The second half.
    Remove(Uuid),
    /// A new token.
    InsertToken(TokenRecord),
    /// The end of a token.
    RevokeToken { id: Uuid, at_ms: u64 },
    /// How often a slot was started.
    SlotUses { slot: u32, uses: u32 },
    /// Generation of the next start.
    NextGeneration(u32),
    /// Number of the next publication.
    NextPublication(u32),
    /// Who did what.
    Audit(AuditEntry),
}

/// A line of the audit (S-6). It never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// For which account.
    pub account: AccountName,
    /// Who: `uid 0 pid 4711` or `token <id>`.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// More of it.
    pub detail: String,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or its directory cannot be used.
    #[error("cannot open {path}: {source}: run as root, or name another directory with --state-dir", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Written by a later netagent.
    #[error("{path} was written by a newer netagent (version {found}, this one knows {known}): install that version again, or move the file away and remove what is left with `netagent down --all`", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version of this code.
        known: u32,
    },
    /// Not a database, another program's, or broken.
    #[error("{path} is damaged ({reason}): put a copy of it back, or move it away and remove what is left with `netagent down --all`", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Nothing more fits.
    #[error("the disk of {path} is full or fails ({reason})", path = path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// Two things would be one.
    #[error("{0} is already in use")]
    Conflict(String),
    /// Somebody else holds the file.
    #[error("{path} is in use by another process: end it", path = path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// Anything else that SQLite says.
    #[error("{path}: {source}", path = path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: rusqlite::Error,
    },
}

impl Store {
    /// Opens the database, makes it where it is missing, and brings its schema up to date. A file that this code
    /// does not understand is left as it is.
    ///
    /// # Errors
    /// Where it cannot be used; with what to do.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, MIGRATIONS)
    }

    fn open_with(path: &Path, migrations: &[&str]) -> Result<Self, StoreError> {
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path);
        let opened = made.and_then(|file| file.metadata());
        let metadata = opened.map_err(|source| StoreError::Open {
            path: path.to_owned(),
            source,
        })?;
        if metadata.len() > 0 {
            check_foreign(path, migrations.len())?;
        }
        let mut store = Self {
            connection: Connection::open(path).map_err(|error| failed(path, error))?,
            path: path.to_owned(),
        };
        store
            .prepare(metadata.len() == 0, migrations)
            .map_err(|error| failed(path, error))?;
        Ok(store)
    }

    fn prepare(&mut self, fresh: bool, migrations: &[&str]) -> rusqlite::Result<()> {
        let connection = &mut self.connection;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        for (number, script) in (1_u32..).zip(migrations).skip(version as usize) {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(script)?;
            if fresh {
                transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            }
            transaction.pragma_update(None, "user_version", number)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// Reads everything.
    ///
    /// # Errors
    /// Where a value cannot be what it should be, naming the row, or the file cannot be read.
    pub fn load(&self) -> Result<Stored, StoreError> {
        rows::load(&self.connection).map_err(|error| self.failed(error))
    }

    /// Makes changes, all of them or none; they are on the disk when this returns.
    ///
    /// # Errors
    /// Where one contradicts what is stored, or nothing more can be written. The store can be used on.
    pub fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let written = self.write(changes);
        written.map_err(|error| self.failed(error))
    }

    fn write(&mut self, changes: &[Change]) -> rusqlite::Result<()> {
        // Dropped before its commit, a transaction is rolled back.
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in changes {
            write::change(&transaction, change)?;
        }
        transaction.commit()
    }

    /// The last lines of the audit, the newest first.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn audit(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        rows::audit(&self.connection, limit).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: rusqlite::Error) -> StoreError {
        failed(&self.path, error)
    }
}

/// Looks at an existing file without changing a byte of it, nor of its write-ahead log.
fn check_foreign(path: &Path, known: usize) -> Result<(), StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let look = || -> rusqlite::Result<(i32, u32, String)> {
        let connection = Connection::open_with_flags(path, flags)?;
        Ok((
            connection.pragma_query_value(None, "application_id", |row| row.get(0))?,
            connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
            connection.pragma_query_value(None, "quick_check", |row| row.get(0))?,
        ))
    };
    let (application, version, health) = look().map_err(|error| failed(path, error))?;
    let damaged = |reason: String| {
        let path = path.to_owned();
        Err(StoreError::Damaged { path, reason })
    };
    // Killed before its first commit, it is an empty database.
    if application != APPLICATION_ID && (application, version) != (0, 0) {
        return damaged("it is another program's database".to_owned());
    }
    if version as usize > known {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: version,
            known: u32::try_from(known).unwrap_or(u32::MAX),
        });
    }
    if health == "ok" {
        Ok(())
    } else {
        damaged(health.replace('\n', " "))
    }
}

fn failed(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    let reason = error.to_string();
    if let rusqlite::Error::FromSqlConversionFailure(..) = error {
        return StoreError::Damaged { path, reason };
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Damaged { path, reason }
        }
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => StoreError::Full { path, reason },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { path },
        Some(ErrorCode::ConstraintViolation) => StoreError::Conflict(reason),
        _ => StoreError::Sqlite {
            path,
            source: error,
        },
    }
}

#[cfg(test)]
mod tests;
