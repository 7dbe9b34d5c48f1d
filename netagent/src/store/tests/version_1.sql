-- A dump of a file of version 1, as the agent left it when it ended: one instance with a TAP of the pool and an existing one.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
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
INSERT INTO instances VALUES('457524fa-52c2-4ea4-9867-283e997c5346',1,'default','a','{"name":"a","tags":[1],"nameserver":"1.2.3.4","network_interfaces":[{"tap_owner":1000,"queues":2},{"ip":"192.168.0.1/30","ip6":"fec0::2/64","tap_name":"vpc0","autoconfig":false}]}',NULL,'1.2.3.4','running',2,'[]',1795245779748);
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
INSERT INTO interfaces VALUES('ed926392-3b38-4882-88de-1e334d83896d','457524fa-52c2-4ea4-9867-283e997c5346',0,'default','a-eth0',0,0,131072,'tap0',1000,NULL,2,'"pool"','172.16.0.1/30','172.16.0.2',30,'fdea:93f4:a4f7::2',64,X'aafc00000001','virtio-net-pci',1);
INSERT INTO interfaces VALUES('541b2ab9-c3ab-49bd-a855-e0b56016018b','457524fa-52c2-4ea4-9867-283e997c5346',1,'default','a-eth1',0,65535,3,'vpc0',NULL,NULL,1,'{"existing":{"ifindex":3,"mac":[94,4,200,50,254,182],"mtu":1400,"alias":"mine","up":false,"addresses":["10.200.0.1/24"],"settings":{"ipv4/conf/vpc0/accept_redirects":"1","ipv4/conf/vpc0/forwarding":"0","ipv4/conf/vpc0/proxy_arp":"0","ipv4/conf/vpc0/rp_filter":"0","ipv4/conf/vpc0/send_redirects":"1","ipv6/conf/vpc0/accept_ra":"0","ipv6/conf/vpc0/addr_gen_mode":"0","ipv6/conf/vpc0/disable_ipv6":"0","ipv6/conf/vpc0/forwarding":"0"}}}','192.168.0.2/32','192.168.0.1',30,'fec0::2',64,X'924f119693c9','virtio-net-pci',0);
CREATE TABLE slot_uses (
    slot        INTEGER PRIMARY KEY CHECK (slot BETWEEN 0 AND 65535),
    uses        INTEGER NOT NULL
) STRICT;
INSERT INTO slot_uses VALUES(0,2);
CREATE TABLE numbers (
    name        TEXT PRIMARY KEY,
    value       INTEGER NOT NULL
) STRICT;
INSERT INTO numbers VALUES('next_generation',3);
CREATE TABLE tokens (
    id          TEXT PRIMARY KEY,
    account     TEXT NOT NULL,
    net_manager INTEGER NOT NULL CHECK (net_manager IN (0, 1)),
    hash        BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_ms  INTEGER NOT NULL,
    revoked_ms  INTEGER
) STRICT;
INSERT INTO tokens VALUES('e87af03c-70a6-4a6d-9a85-f0e31d2223ae','acme',0,X'a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5',1795245779760,NULL);
CREATE TABLE audit (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms       INTEGER NOT NULL,
    account     TEXT NOT NULL,
    actor       TEXT NOT NULL,
    action      TEXT NOT NULL,
    object      TEXT NOT NULL,
    detail      TEXT NOT NULL
) STRICT;
INSERT INTO audit VALUES(1,1795245779749,'default','uid 0 pid 29936','create','a','457524fa-52c2-4ea4-9867-283e997c5346');
INSERT INTO audit VALUES(2,1795245779760,'default','uid 0 pid 30081','create token','e87af03c-70a6-4a6d-9a85-f0e31d2223ae','account acme');
INSERT INTO audit VALUES(3,1795245779761,'default','uid 0 pid 29936','stop','a','');
INSERT INTO audit VALUES(4,1795245779782,'default','uid 0 pid 29936','start','a','');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('audit',4);
CREATE UNIQUE INDEX instance_name ON instances (account, name) WHERE life <> 'deleting';
CREATE UNIQUE INDEX interface_name ON interfaces (account, name) WHERE deleting = 0;
CREATE TRIGGER audit_keeps_rows BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
CREATE TRIGGER audit_keeps_values BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
COMMIT;
PRAGMA application_id = 1852142689;
PRAGMA user_version = 1;
