-- Version 4 of the store: the host's address under which an instance leaves (N-8). NULL is that of the route.

ALTER TABLE instances ADD COLUMN snat_address TEXT;
