-- Version 6 of the store: the relay of an interface, by its name, whether there is such an interface or not (R-2).
-- relay_dns is NULL where nothing was said of it. The leg has a slot like an interface, and shares it with none.

ALTER TABLE interfaces ADD COLUMN relay TEXT;
ALTER TABLE interfaces ADD COLUMN relay_dns INTEGER
    CHECK (relay_dns IS NULL OR (relay_dns IN (0, 1) AND relay IS NOT NULL));
ALTER TABLE interfaces ADD COLUMN leg INTEGER
    CHECK ((leg IS NULL) = (relay IS NULL) AND (leg IS NULL OR (leg BETWEEN 0 AND 65535 AND leg <> slot)));
CREATE UNIQUE INDEX interface_leg ON interfaces (leg);
CREATE TRIGGER legs_and_slots_differ BEFORE INSERT ON interfaces
    WHEN EXISTS (SELECT 1 FROM interfaces WHERE slot = NEW.leg OR leg = NEW.slot)
    BEGIN SELECT RAISE(ABORT, 'interfaces.leg or interfaces.slot'); END;
