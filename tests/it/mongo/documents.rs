//! What an operator finds in the database.

use colloquy::domain::{End, Expected, JsonObject, Kind, NewSession, Session, SessionPatch, Tenant};
use mongodb::bson::{DateTime, Document, doc};

use super::{append, at, event, events, key, open, store};

const TEN_MINUTES_MS: i64 = 600_000;

async fn only(database: &mongodb::Database, collection: &str) -> Document {
    let collection = database.collection::<Document>(collection);
    assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 1);
    collection.find_one(doc! {}).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_read_well() {
    let (store, database) = store().await;
    let new = br#"{"userId":"anna","language":"en-US","metadata":{"plan":"gold","seats":3,"rate":0.5},"startedAt":"2026-09-01T08:00:00Z"}"#;
    let session = Session::opened(NewSession::read(new, "").unwrap(), "s-1".parse().unwrap(), at(0));
    store.open(&Tenant::default(), session, at(0)).await.unwrap();
    append(&store, event("s-1", "e-1", 1_788_249_603_808_999))
        .await
        .unwrap();
    let end = End::read(br#"{"status":"failed","reason":"hung up"}"#).unwrap();
    store.end(&key("s-1"), &end, at(1_788_249_700_000)).await.unwrap();

    let started = DateTime::parse_rfc3339_str("2026-09-01T08:00:00Z").unwrap();
    let session = doc! {
        "_id": "ebca:default/s-1", "tenant": "default", "sessionId": "s-1", "userId": "anna", "status": "failed",
        "language": "en-US", "metadata": { "plan": "gold", "seats": 3_i64, "rate": 0.5 }, "startedAt": started,
        "version": 3_i64, "archived": false, "endReason": "hung up",
        "openedAt": DateTime::from_millis(0), "endedAt": DateTime::from_millis(1_788_249_700_000),
    };
    let mut found = only(&database, "sessions").await;
    // A field that came later stands later; the rest is in the order in which it was written.
    let ended_at = found.remove("endedAt").unwrap();
    found.insert("endedAt", ended_at);
    assert_eq!(found, session);
    let event = doc! {
        "_id": "ebca:default/s-1/e-1", "session": "ebca:default/s-1", "eventId": "e-1",
        "seq": 1_788_249_603_808_999_i64, "timestamp": DateTime::from_millis(1_788_249_603_808), "type": "user_speech",
        "payload": { "text": "hello", "n": 1_i64 },
    };
    assert_eq!(only(&database, "events").await, event);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_session_is_a_tombstone_without_content() {
    let (store, database) = store().await;
    open(&store, "s-1").await;
    append(&store, event("s-1", "e-1", 1)).await.unwrap();
    let forget_at = DateTime::now().timestamp_millis() + 86_400_000;
    store.erase(&key("s-1"), at(forget_at)).await.unwrap();
    let tombstone = only(&database, "sessions").await;
    let fields: Vec<_> = tombstone.keys().map(String::as_str).collect();
    assert_eq!(fields, ["_id", "erased", "sweepAt", "epoch"]);
    let erased = tombstone.get_document("erased").unwrap();
    assert_eq!(
        erased.get_datetime("forgetAt").unwrap().timestamp_millis(),
        forget_at
    );
    let at = erased.get_datetime("at").unwrap().timestamp_millis();
    let sweep_at = tombstone.get_datetime("sweepAt").unwrap().timestamp_millis();
    assert_eq!(sweep_at - at, TEN_MINUTES_MS);
    assert_eq!(
        database
            .collection::<Document>("events")
            .count_documents(doc! {})
            .await
            .unwrap(),
        0
    );
}

/// What an append leaves behind that had read the session before it was erased.
async fn straggle(database: &mongodb::Database, id: &str) {
    let straggler = doc! {
        "_id": format!("ebca:default/s-1/{id}"), "session": "ebca:default/s-1", "eventId": id, "seq": 7_i64,
        "timestamp": DateTime::now(), "type": "user_speech", "payload": { "secret": true },
    };
    database.collection("events").insert_one(straggler).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lands_after_an_erasure_is_never_read_and_is_removed() {
    let (store, database) = store().await;
    let stored = database.collection::<Document>("events");
    let count = async || stored.count_documents(doc! {}).await.unwrap();
    open(&store, "s-1").await;
    let now = DateTime::now().timestamp_millis();
    let forget_at = now + 86_400_000;
    store.erase(&key("s-1"), at(forget_at)).await.unwrap();

    straggle(&database, "one").await;
    assert_eq!(store.upkeep(at(now)).await.unwrap(), Default::default());
    assert_eq!(count().await, 1, "an append may still be under way");
    let soon = now + TEN_MINUTES_MS + 60_000;
    assert_eq!(store.upkeep(at(soon)).await.unwrap().events_deleted, 1);
    assert_eq!(store.upkeep(at(soon)).await.unwrap(), Default::default());

    straggle(&database, "two").await;
    let session = Session::opened(NewSession::default(), "s-1".parse().unwrap(), at(1_000));
    assert!(
        store
            .open(&Tenant::default(), session, at(forget_at))
            .await
            .unwrap()
            .created
    );
    assert_eq!(events(&store, "s-1").await, []);
    let hidden = store.event(&key("s-1"), &"two".parse().unwrap()).await;
    assert_eq!(hidden.unwrap_err().kind(), Kind::EventNotFound);
    let again = append(&store, event("s-1", "two", 1)).await.unwrap();
    assert!(!again.replayed);
    assert_eq!(count().await, 2);
    assert_eq!(store.upkeep(at(forget_at)).await.unwrap().events_deleted, 1);
    assert_eq!(store.upkeep(at(forget_at)).await.unwrap(), Default::default());
    assert_eq!(events(&store, "s-1").await, [again.event]);
    let session = only(&database, "sessions").await;
    assert_eq!(session.get_i64("life").unwrap(), 2);
    assert!(!session.contains_key("sweepAt"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_was_cut_short_is_finished_by_upkeep() {
    let (store, database) = store().await;
    open(&store, "s-1").await;
    append(&store, event("s-1", "e-1", 1)).await.unwrap();
    // As the process leaves it that dies after the tombstone: due at once, with events.
    let now = DateTime::now();
    let forget_at = DateTime::from_millis(now.timestamp_millis() + 86_400_000);
    let tombstone = doc! { "erased": { "at": now, "forgetAt": forget_at }, "sweepAt": now };
    let id = doc! { "_id": "ebca:default/s-1" };
    database
        .collection::<Document>("sessions")
        .replace_one(id, tombstone)
        .await
        .unwrap();
    assert_eq!(
        store.session(&key("s-1")).await.unwrap_err().kind(),
        Kind::SessionErased
    );
    let done = store.upkeep(at(now.timestamp_millis() + 1)).await.unwrap();
    assert_eq!((done.events_deleted, done.tombstones_dropped), (1, 0));
    let done = store.upkeep(at(forget_at.timestamp_millis())).await.unwrap();
    assert_eq!((done.events_deleted, done.tombstones_dropped), (0, 1));
    assert_eq!(
        store.session(&key("s-1")).await.unwrap_err().kind(),
        Kind::SessionNotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_keeps_keys_that_mean_something_in_a_query() {
    let (store, _) = store().await;
    open(&store, "s-1").await;
    let patch =
        r#"{"metadata":{"$set":{"$where":"1"},"a.b":{"$inc":1},"$":[{"$gt":2}],"":{"$ref":"x","$id":1}}}"#;
    let patch = SessionPatch::read(patch.as_bytes()).unwrap();
    let patched = store.patch(&key("s-1"), &patch, &Expected::Any).await.unwrap();
    let metadata: &JsonObject = patch.metadata.as_ref().unwrap().as_ref().unwrap();
    assert_eq!(patched.metadata.as_str(), metadata.as_str());
    assert_eq!(store.session(&key("s-1")).await.unwrap(), patched);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_or_session_is_refused_by_the_server() {
    let (_, database) = store().await;
    for (collection, document) in [
        ("sessions", doc! { "_id": "x" }),
        (
            "sessions",
            doc! { "_id": "x", "tenant": "t", "sessionId": "s", "status": "gone", "metadata": {}, "startedAt": DateTime::now(), "version": 1_i64, "archived": false },
        ),
        ("sessions", doc! { "_id": "x", "erased": true }),
        ("events", doc! { "_id": "x", "session": "x" }),
        (
            "events",
            doc! { "_id": "x", "session": "x", "eventId": "e", "seq": 1.5, "timestamp": DateTime::now(), "type": "t", "payload": {} },
        ),
    ] {
        let refused = database
            .collection::<Document>(collection)
            .insert_one(&document)
            .await;
        assert!(refused.is_err(), "{document}");
    }
}
