-- Version 5 of the store: what a guest may reach (P-1), and how much it may send, receive and hold open (P-11, P-13), as
-- the members of a request that say so. '{}' is everything, and no limit.

ALTER TABLE instances ADD COLUMN policy TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(policy));
ALTER TABLE instances ADD COLUMN limits TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(limits));
