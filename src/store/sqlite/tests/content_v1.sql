-- What schema version 1 held, released: never change this file.
INSERT INTO sessions
    (id, tenant, session_id, version, archived, forget_at, last_seq, status, started_at, ended_at, user_id, language, end_reason, metadata)
VALUES
    (1, 'default', 'live', 2, 0, NULL, 1000, 'active', 500, NULL, 'anna', 'en-US', NULL, '{"a":1}'),
    (2, 'default', 'ended', 2, 0, NULL, NULL, 'failed', 600, 700, NULL, NULL, 'hung up', '{}'),
    (3, 'default', 'erased', 0, 0, 253402300799999, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO events (session, event_id, seq, timestamp, type, payload)
VALUES
    (1, 'e-1', 999, 510, 'user_speech', '{"text":"hello"}'),
    (1, 'e-2', 1000, 520, 'bot_speech', '{"text":"hi"}'),
    (3, 'gone', 5, 5, 'system', '{}');
INSERT INTO erasures (session) VALUES (3);
