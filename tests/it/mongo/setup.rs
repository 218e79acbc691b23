//! `init`, `check`, and the refusal to serve from what was not set up, on a real replica set.

use colloquy::{
    domain::Kind,
    store::{
        mongo::{self, CHUNKS_DEFAULT, Finding, MongoStore, Report, State},
        settings::Ours,
    },
};
use futures_util::future::join_all;
use mongodb::{
    IndexModel,
    bson::{Document, doc},
    options::IndexOptions,
};

use super::{database, options};
use crate::engines;

async fn init(url: &str) -> Report {
    mongo::init(url, &options(), CHUNKS_DEFAULT).await.unwrap()
}

async fn check(url: &str) -> Report {
    mongo::check(url, &options(), &Ours::default()).await.unwrap()
}

/// The one finding that is wrong.
fn only_wrong(report: &Report) -> &Finding {
    let wrong: Vec<_> = report
        .0
        .iter()
        .filter(|finding| finding.state == State::Wrong)
        .collect();
    assert_eq!(wrong.len(), 1, "{report}");
    wrong[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_from_what_was_not_set_up_is_refused_with_what_to_do() {
    let url = engines::mongodb().await;
    let refused = MongoStore::connect(&url, options()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
    assert!(refused.detail().contains("colloquy init"), "{refused}");
    assert!(
        database(&url)
            .await
            .list_collection_names()
            .await
            .unwrap()
            .is_empty(),
        "it makes nothing itself"
    );
    init(&url).await;
    MongoStore::connect(&url, options()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn init_says_what_it_did_and_then_that_nothing_was_left() {
    let url = engines::mongodb().await;
    assert!(!check(&url).await.is_ready());
    let first = init(&url).await;
    assert_eq!(
        first
            .0
            .iter()
            .filter(|finding| finding.state == State::Done)
            .count(),
        16,
        "{first}"
    );
    for again in [init(&url).await, check(&url).await] {
        assert!(
            again.0.iter().all(|finding| finding.state == State::Fine),
            "{again}"
        );
        assert_eq!(again.0.len(), first.0.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_agree() {
    let url = engines::mongodb().await;
    for report in join_all((0..8).map(|_| init(&url))).await {
        assert!(report.is_ready(), "{report}");
    }
    assert!(check(&url).await.is_ready());
}

/// What `shardCollection` asks for: an index that begins with the shard key and leaves no document out, and no unique index but
/// `_id`, or one that begins with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_indexes_are_as_the_shard_keys_need_them() {
    let url = engines::mongodb().await;
    init(&url).await;
    for (collection, shard_key) in [("sessions", "_id"), ("events", "session")] {
        let found = database(&url)
            .await
            .run_command(doc! { "listIndexes": collection })
            .await
            .unwrap();
        let found = found
            .get_document("cursor")
            .unwrap()
            .get_array("firstBatch")
            .unwrap()
            .clone();
        let indexes: Vec<&Document> = found.iter().map(|index| index.as_document().unwrap()).collect();
        let begins = |index: &&&Document| {
            let (field, direction) = index.get_document("key").unwrap().iter().next().unwrap();
            field == shard_key && direction.as_i32() == Some(1)
        };
        let whole = |index: &&&Document| {
            [
                "partialFilterExpression",
                "sparse",
                "hidden",
                "collation",
                "expireAfterSeconds",
            ]
            .iter()
            .all(|option| !index.contains_key(*option))
        };
        assert!(
            indexes.iter().any(|index| begins(&index) && whole(&index)),
            "{collection}: {indexes:?}"
        );
        let unique = indexes
            .iter()
            .filter(|index| index.get_bool("unique").unwrap_or(false));
        assert_eq!(unique.count(), 0, "{collection}: {indexes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_but_different_is_reported_and_left_alone() {
    let url = engines::mongodb().await;
    let events = database(&url).await.collection::<Document>("events");
    let other = IndexModel::builder()
        .keys(doc! { "session": 1, "timestamp": 1, "seq": 1, "type": 1 })
        .build();
    events.create_index(other).await.unwrap();
    for report in [init(&url).await, check(&url).await] {
        let wrong = only_wrong(&report);
        assert!(
            wrong.what.contains("session_1_timestamp_1_seq_1_type_1"),
            "{report}"
        );
        assert!(wrong.what.contains("drop it"), "{report}");
    }
    assert!(MongoStore::connect(&url, options()).await.is_err());
    events
        .drop_index("session_1_timestamp_1_seq_1_type_1")
        .await
        .unwrap();
    assert!(init(&url).await.is_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_validator_is_brought_up_to_date() {
    let url = engines::mongodb().await;
    init(&url).await;
    let older = doc! { "collMod": "events", "validator": { "seq": { "$exists": true } } };
    database(&url).await.run_command(older).await.unwrap();
    let outdated = check(&url).await;
    let states: Vec<_> = outdated
        .0
        .iter()
        .map(|finding| finding.state)
        .filter(|state| *state != State::Fine)
        .collect();
    assert_eq!(states, [State::Outdated], "{outdated}");
    MongoStore::connect(&url, options()).await.unwrap();
    assert_eq!(
        init(&url)
            .await
            .0
            .iter()
            .filter(|finding| finding.state == State::Done)
            .count(),
        1
    );
    assert!(
        check(&url)
            .await
            .0
            .iter()
            .all(|finding| finding.state == State::Fine)
    );
}

/// As version 0.1 left it, which had no archive.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_up_before_there_was_an_archive_is_brought_up_to_date() {
    let url = engines::mongodb().await;
    init(&url).await;
    let database = database(&url).await;
    let sessions = database.collection::<Document>("sessions");
    for index in ["end_use", "tidy", "segment", "owner", "left"] {
        sessions.drop_index(index).await.unwrap();
    }
    database
        .collection::<Document>("archive_runs")
        .drop()
        .await
        .unwrap();
    let schema = doc! { "title": "Colloquy: a session", "required": ["_id"] };
    let older = doc! { "collMod": "sessions", "validator": { "$jsonSchema": schema } };
    database.run_command(older).await.unwrap();
    let found = check(&url).await;
    let of = |report: &Report, state| report.0.iter().filter(|finding| finding.state == state).count();
    assert_eq!(
        (of(&found, State::Outdated), of(&found, State::Missing)),
        (1, 6),
        "{found}"
    );
    let refused = MongoStore::connect(&url, options()).await.unwrap_err();
    assert!(refused.detail().contains("colloquy init"), "{refused}");
    let done = init(&url).await;
    assert_eq!(of(&done, State::Done), 8, "{done}");
    assert_eq!(of(&check(&url).await, State::Fine), done.0.len());
    MongoStore::connect(&url, options()).await.unwrap();
}

/// Puts an index of the version before this one in the place of the one that superseded it.
async fn take_back(
    url: &str,
    collection: &str,
    (old, new): (&str, &str),
    key: Document,
    only: Option<Document>,
) {
    let collection = database(url).await.collection::<Document>(collection);
    collection.drop_index(new).await.unwrap();
    let options = IndexOptions::builder()
        .name(old.to_owned())
        .partial_filter_expression(only)
        .build();
    let index = IndexModel::builder().keys(key).options(options).build();
    collection.create_index(index).await.unwrap();
}

/// First `init`, then the new processes, and only then without the old indexes: processes of the version before name them.
#[tokio::test(flavor = "multi_thread")]
async fn superseded_indexes_stay_until_they_are_to_be_dropped() {
    let url = engines::mongodb().await;
    init(&url).await;
    let by_place = doc! { "session": 1, "timestamp": 1, "seq": 1 };
    take_back(
        &url,
        "events",
        ("session_order", "session_order_type"),
        by_place,
        None,
    )
    .await;
    let by_user = doc! { "tenant": 1, "userId": 1, "startedAt": -1, "sessionId": -1 };
    let users = ("tenant_user_start", "tenant_user_start_status");
    take_back(
        &url,
        "sessions",
        users,
        by_user,
        Some(doc! { "userId": { "$exists": true } }),
    )
    .await;
    let ended = doc! { "archived": false, "endedAt": { "$exists": true } };
    take_back(
        &url,
        "sessions",
        ("end", "end_use"),
        doc! { "endedAt": 1 },
        Some(ended),
    )
    .await;

    let of = |report: &Report, state| report.0.iter().filter(|finding| finding.state == state).count();
    let states = |report: &Report| {
        [State::Missing, State::Outdated, State::Done, State::Wrong].map(|state| of(report, state))
    };
    let before = check(&url).await;
    assert_eq!(states(&before), [3, 3, 0, 0], "{before}");
    let refused = MongoStore::connect(&url, options()).await.unwrap_err();
    assert!(refused.detail().contains("colloquy init"), "{refused}");
    let made = init(&url).await;
    assert_eq!(states(&made), [0, 3, 3, 0], "{made}");
    assert!(
        made.to_string().contains("colloquy init --drop-superseded"),
        "{made}"
    );
    MongoStore::connect(&url, options()).await.unwrap();
    for again in [init(&url).await, check(&url).await] {
        assert_eq!(states(&again), [0, 3, 0, 0], "{again}");
    }
    let drop = async || {
        mongo::init_and_drop_superseded(&url, &options(), CHUNKS_DEFAULT)
            .await
            .unwrap()
    };
    let dropped = drop().await;
    assert_eq!(states(&dropped), [0, 0, 3, 0], "{dropped}");
    for again in [drop().await, init(&url).await, check(&url).await] {
        assert_eq!(states(&again), [0; 4], "{again}");
    }
    MongoStore::connect(&url, options()).await.unwrap();
}

/// Without the index that is to do its work, the old one is all there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_index_stays_while_the_new_one_is_not_right() {
    let url = engines::mongodb().await;
    init(&url).await;
    let by_place = doc! { "session": 1, "timestamp": 1, "seq": 1 };
    take_back(
        &url,
        "events",
        ("session_order", "session_order_type"),
        by_place,
        None,
    )
    .await;
    let options_of = IndexOptions::builder()
        .name("session_order_type".to_owned())
        .build();
    let other = IndexModel::builder()
        .keys(doc! { "session": 1 })
        .options(options_of)
        .build();
    let events = database(&url).await.collection::<Document>("events");
    events.create_index(other).await.unwrap();
    let report = mongo::init_and_drop_superseded(&url, &options(), CHUNKS_DEFAULT)
        .await
        .unwrap();
    assert!(
        only_wrong(&report).what.contains("session_order_type"),
        "{report}"
    );
    let names = events.list_index_names().await.unwrap();
    assert!(names.iter().any(|name| name == "session_order"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collections_of_somebody_else_are_left_alone() {
    let url = engines::mongodb().await;
    let theirs = database(&url).await.collection("sessions");
    theirs.insert_one(doc! { "cookie": "x" }).await.unwrap();
    for report in [init(&url).await, check(&url).await] {
        let wrong = only_wrong(&report);
        assert!(wrong.what.contains("not Colloquy's"), "{report}");
    }
    theirs.insert_one(doc! { "cookie": "y" }).await.unwrap();
    assert_eq!(theirs.list_index_names().await.unwrap(), ["_id_"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_named_as_such_and_soon() {
    let options = mongo::MongoOptions {
        server_selection_max: std::time::Duration::from_millis(200),
        ..options()
    };
    let url = "mongodb://me:hunter2@127.0.0.1:9/colloquy";
    for error in [
        MongoStore::connect(url, options.clone()).await.unwrap_err(),
        mongo::init(url, &options, 1).await.unwrap_err(),
        mongo::check(url, &options, &Ours::default()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.detail().contains("no primary can be reached"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
