-- What schema version 4 held, released: never change this file.
INSERT INTO sessions
    (id, tenant, session_id, version, archived, forget_at, last_seq, status, started_at, ended_at, user_id, language, end_reason, metadata,
     epoch, segment, first_row, rows, claim_owner, claim_until, opened_at, restored_at, tidy_at, used_at)
VALUES
    (1, 'default', 'live', 2, 0, NULL, 1000, 'active', 500, NULL, 'anna', 'en-US', NULL, '{"a":1}',
     0, NULL, NULL, NULL, NULL, NULL, 501, NULL, NULL, 501),
    (2, 'default', 'ended', 2, 0, NULL, NULL, 'failed', 600, 700, NULL, NULL, 'hung up', '{}',
     4, NULL, NULL, NULL, 'default.1970-01-01.0198c0de7d1a70008000000000000003', 1000, 601, 800, NULL, 601),
    (3, 'default', 'erased', 0, 0, 253402300799999, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     7, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (4, 'default', 'archived', 3, 1, NULL, 30, 'completed', 600, 700, NULL, NULL, NULL, '{}',
     5, 'default.1970-01-01.0198c0de7d1a70008000000000000002', 12, 3, NULL, NULL, 601, NULL, 900, 601);
INSERT INTO events (session, event_id, seq, timestamp, type, payload)
VALUES
    (1, 'e-1', 999, 510, 'user_speech', '{"text":"hello"}'),
    (1, 'e-2', 1000, 520, 'bot_speech', '{"text":"hi"}'),
    (3, 'gone', 5, 5, 'system', '{}'),
    (4, 'straggler', 30, 690, 'system', '{}');
INSERT INTO erasures (session) VALUES (3);
INSERT INTO leftovers (session, segment, erased)
VALUES
    (2, 'default.1970-01-01.0198c0de7d1a70008000000000000001', 0),
    (3, 'default.1970-01-01.0198c0de7d1a70008000000000000001', 1);
INSERT INTO archive_runs (id, started_at, record)
VALUES ('run-1', 253402300799999, '{"sessions":1}');
