-- Version 3 of the store: published and exposed ports (N-3, N-4).

-- Moves with every change of what may reach a guest: what was allowed under an earlier number is judged again.
ALTER TABLE instances ADD COLUMN policy_generation INTEGER NOT NULL DEFAULT 1 CHECK (policy_generation > 0);
ALTER TABLE instances ADD COLUMN exposed TEXT NOT NULL DEFAULT '[]';

CREATE TABLE publications (
    -- Never used again, so that nothing that is kept for a publication is ever another's.
    id          INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 4294967295),
    instance    TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    position    INTEGER NOT NULL CHECK (position >= 0),
    protocol    TEXT NOT NULL CHECK (protocol IN ('tcp', 'udp')),
    -- NULL is every address of the host.
    address     TEXT,
    host_port   INTEGER NOT NULL CHECK (host_port BETWEEN 1 AND 65535),
    guest_port  INTEGER NOT NULL CHECK (guest_port BETWEEN 1 AND 65535),
    -- NULL is everybody.
    allow_from  TEXT,
    UNIQUE (instance, position)
) STRICT;
CREATE INDEX published_port ON publications (host_port, protocol);
-- As two binds would clash: the same port, and the same address or every address.
CREATE TRIGGER published_port_once BEFORE INSERT ON publications
    WHEN EXISTS (SELECT 1 FROM publications WHERE host_port = NEW.host_port AND protocol = NEW.protocol
        AND (address IS NULL OR NEW.address IS NULL OR address = NEW.address))
    BEGIN SELECT RAISE(ABORT, 'publications.host_port is already in use'); END;
CREATE TRIGGER publication_stays BEFORE UPDATE ON publications
    BEGIN SELECT RAISE(ABORT, 'a publication never changes: it is replaced'); END;
