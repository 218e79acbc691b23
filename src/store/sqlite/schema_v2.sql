-- Version 2 of the SQLite schema, released: never change this file, add schema_v3.sql.
--
-- What the archive keeps: who may archive a session at the moment, and where its events went.

-- Grows with every claim and erasure.
ALTER TABLE sessions ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
-- The pointer of an archived session, and of no other.
ALTER TABLE sessions ADD COLUMN segment TEXT;
ALTER TABLE sessions ADD COLUMN first_row INTEGER;
ALTER TABLE sessions ADD COLUMN rows INTEGER;
-- Who claims it: the name of the segment being written. It stands until claim_until.
ALTER TABLE sessions ADD COLUMN claim_owner TEXT;
ALTER TABLE sessions ADD COLUMN claim_until INTEGER;
-- The server's clock when it was opened, where started_at is what its caller said. NULL in rows of version 1.
ALTER TABLE sessions ADD COLUMN opened_at INTEGER;
ALTER TABLE sessions ADD COLUMN restored_at INTEGER;
-- When to look for hot events of an archived session; NULL for never.
ALTER TABLE sessions ADD COLUMN tidy_at INTEGER;

CREATE INDEX sessions_due ON sessions (ended_at)
    WHERE archived = 0 AND forget_at IS NULL AND ended_at IS NOT NULL;
CREATE INDEX sessions_untidy ON sessions (tidy_at)
    WHERE tidy_at IS NOT NULL;
CREATE INDEX sessions_by_segment ON sessions (segment)
    WHERE segment IS NOT NULL;
CREATE INDEX sessions_by_claim ON sessions (claim_owner)
    WHERE claim_owner IS NOT NULL;

-- Segments that may still hold bytes of a session that no pointer leads to; session is sessions.id, of a row that
-- stands as long as there is one here. erased says that the row is a tombstone.
CREATE TABLE leftovers (
    session INTEGER NOT NULL,
    segment TEXT NOT NULL,
    erased  INTEGER NOT NULL,
    UNIQUE (session, segment)
) STRICT;

CREATE INDEX leftovers_by_segment ON leftovers (segment);
CREATE INDEX leftovers_erased ON leftovers (erased, segment)
    WHERE erased = 1;
CREATE INDEX leftovers_of_erased ON leftovers (erased, session)
    WHERE erased = 1;

CREATE TABLE archive_runs (
    id         TEXT PRIMARY KEY NOT NULL,
    started_at INTEGER NOT NULL,
    record     TEXT NOT NULL
) STRICT;

CREATE INDEX archive_runs_by_start ON archive_runs (started_at);
