-- Version 3 of the SQLite schema, released: never change this file, add schema_v4.sql.
--
-- The last use of a session that the sweep of idle ones knows of, by the server's clock: at first its opening. Of a session
-- that goes on it is never NULL.
ALTER TABLE sessions ADD COLUMN used_at INTEGER;

-- Rows of version 1 have no opened_at, and their started_at, which is what a caller said, may lie in the future.
UPDATE sessions
    SET used_at = coalesce(opened_at, min(started_at, CAST(unixepoch('subsec') * 1000 AS INTEGER)))
    WHERE forget_at IS NULL AND ended_at IS NULL;

CREATE INDEX sessions_idle ON sessions (used_at)
    WHERE ended_at IS NULL AND forget_at IS NULL;
