# A sandbox: it knows its addresses and its gateway, and nothing of a shield.
take_addresses
