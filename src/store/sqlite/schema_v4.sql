-- Version 4 of the SQLite schema, released: never change this file, add schema_v5.sql.
--
-- Every move of a session writes here and takes it off again, so the table has as few indexes as its questions need.
CREATE TABLE leftovers_by_segment_and_session (
    segment TEXT NOT NULL,
    session INTEGER NOT NULL,
    erased  INTEGER NOT NULL,
    PRIMARY KEY (segment, session)
) STRICT, WITHOUT ROWID;
INSERT INTO leftovers_by_segment_and_session (segment, session, erased)
    SELECT segment, session, erased FROM leftovers;
DROP TABLE leftovers;
ALTER TABLE leftovers_by_segment_and_session RENAME TO leftovers;

CREATE INDEX leftovers_of_session ON leftovers (session);
CREATE INDEX leftovers_of_erased ON leftovers (erased, session)
    WHERE erased = 1;
