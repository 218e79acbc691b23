//! Segments of every version of the format that was ever written: they stay readable. See `tests/golden/README`.

use std::{fs, path::Path, sync::Arc};

use super::model::{Conversation, DAY_MS, at, event, key, page, session};
use crate::{
    archive::segment::{SegmentReader, events_path, manifest_path, memory::Memory, sessions_path},
    domain::{EventFilter, EventQuery, JsonObject, Kind, Limit, Order, SegmentName, Status},
};

const NAME: &str = "default.2026-09-01.0198c0de7d1a70008000000000000001";

/// What is in the segment of version 1.
fn conversations() -> Vec<Conversation> {
    let mut plain = session("Anna-1");
    plain.status = Status::Failed;
    plain.user_id = Some("user@example.com".parse().unwrap());
    plain.language = Some("de-CH".parse().unwrap());
    plain.metadata = JsonObject::from_stored(r#"{"grüße":["😀",null,true],"n":-9223372036854775808}"#);
    plain.end_reason = Some(String::from("aufgelegt: \"tschüss\"\n\u{0}"));
    plain.version = i64::MAX;
    let of = |id: &str, ms: i64, seq: i64, event_type: &str, payload: &str| {
        event(&plain.id, id, ms, seq, event_type, payload)
    };
    let events = vec![
        of("before-time", -62_167_219_200_000, i64::MIN, "system", "{}"),
        of(
            "turn-0",
            DAY_MS,
            1,
            "user_speech",
            r#"{"text":"日本語 👩‍👩‍👧‍👦 e\u0301 \\ \" \u0000"}"#,
        ),
        of(
            "turn-1",
            DAY_MS,
            2,
            "bot_speech",
            r#"{"n":[9223372036854775807,-9223372036854775808,1e308,5e-324,0.1,-0.0]}"#,
        ),
        of(
            "turn-10",
            DAY_MS,
            2,
            "bot_speech",
            r#"{"text":"the same instant and number"}"#,
        ),
        of(
            "TURN-2",
            DAY_MS + 1,
            2,
            "tool.call-2",
            &format!(r#"{{"long":"{}"}}"#, "ab".repeat(1_000)),
        ),
        of(
            "after-time",
            253_402_300_799_999,
            i64::MAX,
            "system",
            r#"{"":""}"#,
        ),
    ];
    let mut empty = session("anna-2");
    empty.ended_at = None;
    let mut last = session("~");
    last.started_at = at(-1);
    let events_of_last = vec![event(&last.id, "=", DAY_MS, 0, "x", r#"{"a":{"b":[{}]}}"#)];
    let of = |session, epoch, events| Conversation {
        session,
        epoch,
        events,
    };
    vec![
        of(plain, 1, events),
        of(empty, i64::MAX, Vec::new()),
        of(last, 7, events_of_last),
    ]
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/segments/v1")
}

fn name() -> SegmentName {
    NAME.parse().unwrap()
}

fn golden() -> (Arc<Memory>, SegmentReader) {
    let objects = Arc::new(Memory::default());
    for path in [
        sessions_path(&name()),
        events_path(&name()),
        manifest_path(&name()),
    ] {
        objects.replace(&path, fs::read(folder().join(&path)).unwrap());
    }
    let reader = SegmentReader::new(Arc::clone(&objects) as _, 1 << 20);
    (objects, reader)
}

#[tokio::test]
async fn a_segment_of_version_1_reads_for_ever() {
    let (_, reader) = golden();
    let manifest = reader.check(&name()).await.unwrap();
    assert_eq!((manifest.counts.sessions, manifest.counts.events), (3, 7));
    let mut sessions = reader.sessions(&name()).await.unwrap();
    let mut events = reader.events(&name()).await.unwrap();
    for conversation in conversations() {
        let row = sessions.next().await.unwrap().unwrap();
        assert_eq!(
            (&row.session, row.epoch),
            (&conversation.session, conversation.epoch)
        );
        for order in [Order::Ascending, Order::Descending] {
            let query = EventQuery {
                filter: EventFilter::default(),
                order,
                after: None,
                limit: Limit::MAX,
                payload_bytes_max: 1 << 20,
            };
            let given = reader
                .page(&key(&conversation), &row.pointer, &query)
                .await
                .unwrap();
            assert_eq!(given, page(&conversation, &query));
        }
        for event in conversation.events {
            let read = events.next().await.unwrap().unwrap();
            assert_eq!(read, (row.session.id.clone(), event));
        }
    }
    assert_eq!(sessions.next().await.unwrap(), None);
    assert_eq!(events.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused_by_name() {
    let (objects, reader) = golden();
    let row = reader
        .sessions(&name())
        .await
        .unwrap()
        .next()
        .await
        .unwrap()
        .unwrap();
    let path = events_path(&name());
    let mut bytes = objects.bytes(&path).to_vec();
    let key_bytes = b"colloquy.format";
    let place = bytes
        .windows(key_bytes.len())
        .position(|window| window == key_bytes)
        .unwrap();
    let value = place + bytes[place..].iter().position(|&byte| byte == b'1').unwrap();
    bytes[value] = b'2';
    objects.replace(&path, bytes);
    let error = reader
        .find(&key(&conversations()[0]), &row.pointer, &["x".parse().unwrap()])
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::ArchiveDamaged);
    assert!(
        error.detail().contains("a newer colloquy wrote it, in format 2"),
        "{error}"
    );
}
