-- Version 2 of the store: the MTU that was asked for (M-7). NULL is the uplink's.

ALTER TABLE interfaces ADD COLUMN mtu INTEGER CHECK (mtu BETWEEN 68 AND 65535);
