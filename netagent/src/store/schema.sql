-- Version 1 of the store. What must be unique is unique here too, whatever the code believes.

CREATE TABLE instances (
    id          TEXT PRIMARY KEY,
    seq         INTEGER NOT NULL UNIQUE,
    account     TEXT NOT NULL,
    name        TEXT NOT NULL,
    request     TEXT NOT NULL,
    gateway     TEXT,
    nameserver  TEXT,
    life        TEXT NOT NULL CHECK (life IN ('pending', 'running', 'stopped', 'deleting')),
    generation  INTEGER NOT NULL CHECK (generation >= 0),
    announced   TEXT NOT NULL,
    created_ms  INTEGER NOT NULL
) STRICT;
-- The name of what is being deleted is free; what it reserved is not (see interfaces).
CREATE UNIQUE INDEX instance_name ON instances (account, name) WHERE life <> 'deleting';

CREATE TABLE interfaces (
    id          TEXT PRIMARY KEY,
    instance    TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    position    INTEGER NOT NULL CHECK (position BETWEEN 0 AND 3),
    account     TEXT NOT NULL,
    name        TEXT NOT NULL,
    deleting    INTEGER NOT NULL DEFAULT 0 CHECK (deleting IN (0, 1)),
    slot        INTEGER NOT NULL UNIQUE CHECK (slot BETWEEN 0 AND 65535),
    ifindex     INTEGER NOT NULL CHECK (ifindex >= 0),
    tap_name    TEXT NOT NULL UNIQUE CHECK (length(tap_name) BETWEEN 1 AND 15),
    tap_owner   INTEGER,
    tap_group   INTEGER,
    queues      INTEGER NOT NULL CHECK (queues BETWEEN 1 AND 256),
    origin      TEXT NOT NULL,
    host_v4     TEXT NOT NULL,
    guest_v4    TEXT NOT NULL UNIQUE,
    prefix_v4   INTEGER NOT NULL CHECK (prefix_v4 BETWEEN 1 AND 32),
    guest_v6    TEXT UNIQUE,
    prefix_v6   INTEGER CHECK (prefix_v6 BETWEEN 1 AND 128),
    mac         BLOB NOT NULL UNIQUE CHECK (length(mac) = 6),
    model       TEXT NOT NULL,
    autoconfig  INTEGER NOT NULL CHECK (autoconfig IN (0, 1)),
    UNIQUE (instance, position)
) STRICT;
CREATE UNIQUE INDEX interface_name ON interfaces (account, name) WHERE deleting = 0;

-- How often each slot was started: an interface index is never used again (S-5), so this outlives the instance.
CREATE TABLE slot_uses (
    slot        INTEGER PRIMARY KEY CHECK (slot BETWEEN 0 AND 65535),
    uses        INTEGER NOT NULL
) STRICT;

CREATE TABLE numbers (
    name        TEXT PRIMARY KEY,
    value       INTEGER NOT NULL
) STRICT;

-- Of a token only the hash is kept.
CREATE TABLE tokens (
    id          TEXT PRIMARY KEY,
    account     TEXT NOT NULL,
    net_manager INTEGER NOT NULL CHECK (net_manager IN (0, 1)),
    hash        BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_ms  INTEGER NOT NULL,
    revoked_ms  INTEGER
) STRICT;

-- Who changed what (S-6): rows are added and never change.
CREATE TABLE audit (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms       INTEGER NOT NULL,
    account     TEXT NOT NULL,
    actor       TEXT NOT NULL,
    action      TEXT NOT NULL,
    object      TEXT NOT NULL,
    detail      TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_keeps_rows BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_keeps_values BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
