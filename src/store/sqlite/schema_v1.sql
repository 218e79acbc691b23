-- Version 1 of the SQLite schema, released: never change this file, add schema_v2.sql.
--
-- Times are milliseconds since 1970 in UTC. Text compares bytewise (BINARY), which is how Rust compares str.

-- A session, or the tombstone of an erased one: forget_at says until when, and all that it held is NULL.
-- AUTOINCREMENT, because an id must never be given out twice: events of an erased session may outlive its row.
CREATE TABLE sessions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant     TEXT NOT NULL,
    session_id TEXT NOT NULL,
    version    INTEGER NOT NULL,
    archived   INTEGER NOT NULL,
    forget_at  INTEGER,
    last_seq   INTEGER,
    status     TEXT,
    started_at INTEGER,
    ended_at   INTEGER,
    user_id    TEXT,
    language   TEXT,
    end_reason TEXT,
    metadata   TEXT,
    UNIQUE (tenant, session_id),
    CHECK (forget_at IS NOT NULL
        OR (status IS NOT NULL AND started_at IS NOT NULL AND metadata IS NOT NULL))
) STRICT;

-- One index for each way to list; tombstones are in none of them.
CREATE INDEX sessions_by_start ON sessions (tenant, started_at, session_id)
    WHERE forget_at IS NULL;
CREATE INDEX sessions_by_status ON sessions (tenant, status, started_at, session_id)
    WHERE forget_at IS NULL;
CREATE INDEX sessions_by_user ON sessions (tenant, user_id, started_at, session_id, status)
    WHERE forget_at IS NULL AND user_id IS NOT NULL;
CREATE INDEX tombstones ON sessions (forget_at)
    WHERE forget_at IS NOT NULL;

-- session is sessions.id. No foreign key: see erasures.
CREATE TABLE events (
    session   INTEGER NOT NULL,
    event_id  TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    type      TEXT NOT NULL,
    payload   TEXT NOT NULL
) STRICT;

-- An event id exists once in its session.
CREATE UNIQUE INDEX events_once ON events (session, event_id);

-- The order in which events are read; with type, so that a filter on it reads only the index.
CREATE INDEX events_in_order ON events (session, timestamp, seq, event_id, type);

-- The sessions.id of erased sessions that still have events to delete, whether or not the tombstone still stands.
CREATE TABLE erasures (
    session INTEGER PRIMARY KEY
) STRICT;
