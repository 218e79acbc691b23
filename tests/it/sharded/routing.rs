//! What a router does with what it is sent, by MongoDB's manual.

use std::time::{Duration, Instant};

use mongodb::bson::{Bson, DateTime, Document, doc};

use super::*;
use crate::engines::Engine;

const DATABASE: &str = "d";
const NAMESPACE: &str = "d.things";

/// A cluster with a collection that is sharded by `k`: keys from "m" on are on the second shard.
async fn things(settings: Settings) -> Cluster {
    let mut cluster = Cluster::start(settings).await;
    say(&mut cluster, doc! { "create": "things" }).await;
    let index = doc! { "key": { "k": 1, "n": 1 }, "name": "k" };
    say(
        &mut cluster,
        doc! { "createIndexes": "things", "indexes": [index] },
    )
    .await;
    let router = cluster.router(0);
    for change in [
        doc! { "shardCollection": NAMESPACE, "key": { "k": 1 } },
        doc! { "split": NAMESPACE, "middle": { "k": "m" } },
        doc! { "moveChunk": NAMESPACE, "find": { "k": "x" }, "to": "shard1" },
    ] {
        router.command("admin", change).await.unwrap();
    }
    cluster
}

/// What the first router answers to a command that it must do.
async fn say(cluster: &mut Cluster, command: Document) -> Document {
    let answer = cluster.router(0).command(DATABASE, command).await;
    answer.unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn thing(id: &str, key: &str, n: i32) -> Bson {
    doc! { "_id": id, "k": key, "n": n }.into()
}

fn batch(reply: &Document) -> Vec<Document> {
    let cursor = reply.get_document("cursor").unwrap();
    let batch = cursor
        .get_array("firstBatch")
        .or_else(|_| cursor.get_array("nextBatch"));
    let batch = batch.unwrap().iter();
    batch.map(|item| item.as_document().unwrap().clone()).collect()
}

fn id(reply: &Document) -> i64 {
    reply.get_document("cursor").unwrap().get_i64("id").unwrap()
}

fn ids(reply: &Document) -> Vec<String> {
    let ids = batch(reply)
        .into_iter()
        .map(|item| item.get_str("_id").unwrap().to_owned());
    ids.collect()
}

fn indexes(reply: &Document) -> Vec<(i32, i32)> {
    let errors = reply.get_array("writeErrors").into_iter().flatten();
    let errors = errors.map(|error| error.as_document().unwrap());
    errors
        .map(|error| (error.get_i32("index").unwrap(), error.get_i32("code").unwrap()))
        .collect()
}

fn number(reply: &Document, field: &str) -> i32 {
    reply.get_i32(field).unwrap_or_else(|_| panic!("{reply}"))
}

/// A member of a shard, asked past the routers.
async fn count_on(cluster: &mut Cluster, shard: usize) -> i32 {
    let member = cluster.shard(shard).member(0);
    let count = member
        .command(DATABASE, doc! { "count": "things", "query": {} })
        .await;
    count.unwrap().get_i32("n").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_go_where_their_keys_are_and_their_results_come_together() {
    let mut cluster = things(Settings::default()).await;
    let cluster = &mut cluster;
    let documents = vec![
        thing("1", "a", 5),
        thing("2", "x", 4),
        thing("3", "b", 3),
        thing("4", "y", 2),
        thing("5", "z", 1),
    ];
    let inserted = say(
        cluster,
        doc! { "insert": "things", "documents": documents, "ordered": false },
    )
    .await;
    assert_eq!(inserted, doc! { "n": 5, "ok": 1.0 });
    assert_eq!((count_on(cluster, 0).await, count_on(cluster, 1).await), (2, 3));

    let taken = vec![
        thing("6", "c", 0),
        thing("2", "x", 0),
        thing("1", "a", 0),
        thing("7", "w", 0),
    ];
    let inserted = say(
        cluster,
        doc! { "insert": "things", "documents": taken.clone(), "ordered": false },
    )
    .await;
    assert_eq!(
        (number(&inserted, "n"), indexes(&inserted)),
        (2, vec![(1, 11000), (2, 11000)])
    );
    let again = say(
        cluster,
        doc! { "insert": "things", "documents": taken, "ordered": true },
    )
    .await;
    assert_eq!((number(&again, "n"), indexes(&again)), (0, vec![(0, 11000)]));
    let keyless = say(
        cluster,
        doc! { "insert": "things", "documents": [doc! { "_id": "8" }] },
    )
    .await;
    assert_eq!(indexes(&keyless), [(0, 61)]);

    // Sorted by what is not shown, limited as a whole, in batches that end in the middle of a shard's.
    let find = doc! {
        "find": "things", "filter": {}, "sort": { "n": -1, "_id": 1 }, "projection": { "_id": 1 }, "limit": 6, "batchSize": 2,
        "comment": "all",
    };
    let mut reply = say(cluster, find).await;
    let mut found = ids(&reply);
    assert_eq!(batch(&reply)[0], doc! { "_id": "1" });
    while id(&reply) != 0 {
        let more = doc! { "getMore": id(&reply), "collection": "things", "batchSize": 2 };
        reply = say(cluster, more).await;
        assert!(ids(&reply).len() <= 2);
        found.extend(ids(&reply));
    }
    assert_eq!(found, ["1", "2", "3", "4", "5", "6"]);
    let one = say(
        cluster,
        doc! { "find": "things", "filter": { "k": { "$in": ["a", "x"] } }, "comment": "two" },
    )
    .await;
    assert_eq!(batch(&one).len(), 2);

    let groups = doc! { "$group": { "_id": null, "all": { "$sum": 1_i64 }, "least": { "$min": "$n" }, "most": { "$max": "$n" } } };
    let sums = say(
        cluster,
        doc! { "aggregate": "things", "pipeline": [groups], "cursor": {} },
    )
    .await;
    assert_eq!(
        batch(&sums),
        [doc! { "_id": null, "all": 7_i64, "least": 0, "most": 5 }]
    );
    let distinct = say(cluster, doc! { "distinct": "things", "key": "n" }).await;
    assert_eq!(distinct.get_array("values").unwrap().len(), 6);

    let updates = [
        doc! { "q": { "k": "x", "_id": "2" }, "u": { "$inc": { "n": 10 } } },
        doc! { "q": { "k": "q", "_id": "q" }, "u": { "$set": { "n": 7 } }, "upsert": true },
        doc! { "q": { "k": "a", "_id": "none" }, "u": { "$set": { "n": 7 } } },
    ];
    let updated = say(
        cluster,
        doc! { "update": "things", "updates": updates.to_vec(), "ordered": false },
    )
    .await;
    assert_eq!((number(&updated, "n"), number(&updated, "nModified")), (2, 1));
    assert_eq!(
        updated.get_array("upserted").unwrap()[0].as_document().unwrap(),
        &doc! { "index": 1, "_id": "q" }
    );
    let deletes = [doc! { "q": { "n": 0 }, "limit": 0 }];
    let deleted = say(
        cluster,
        doc! { "delete": "things", "deletes": deletes.to_vec(), "comment": "every" },
    )
    .await;
    assert_eq!(number(&deleted, "n"), 2);
    let keyless =
        doc! { "findAndModify": "things", "query": { "_id": "1" }, "update": { "$set": { "n": 1 } } };
    assert_eq!(
        number(
            &cluster.router(0).command(DATABASE, keyless).await.unwrap_err(),
            "code"
        ),
        61
    );
    let broadcasts = cluster.asked().into_iter().filter(|asked| asked.is_broadcast);
    let broadcasts: Vec<_> = broadcasts.map(|asked| (asked.command, asked.comment)).collect();
    let expected = [
        ("aggregate", ""),
        ("delete", "every"),
        ("distinct", ""),
        ("find", "all"),
    ];
    assert_eq!(
        broadcasts,
        expected.map(|(command, comment)| (command.to_owned(), comment.to_owned()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_share_the_chunks_but_neither_cursors_nor_clocks() {
    let mut cluster = things(Settings::default()).await;
    let documents: Vec<_> = (0..300)
        .map(|n| thing(&n.to_string(), ["a", "x"][n as usize % 2], n))
        .collect();
    say(&mut cluster, doc! { "insert": "things", "documents": documents }).await;
    let hello = cluster
        .router(1)
        .command("admin", doc! { "hello": 1 })
        .await
        .unwrap();
    assert_eq!(hello.get_str("msg").unwrap(), "isdbgrid");

    // One chunk stays on the second shard, which is therefore asked for all documents.
    let split = doc! { "split": NAMESPACE, "middle": { "k": "y" } };
    cluster.router(0).command("admin", split).await.unwrap();
    // The second router knows the chunks as they were.
    let first = doc! { "find": "things", "filter": { "k": "x" }, "limit": 1 };
    cluster.router(1).command(DATABASE, first).await.unwrap();
    let reply = say(
        &mut cluster,
        doc! { "find": "things", "filter": {}, "sort": { "n": 1 } },
    )
    .await;
    assert_eq!(ids(&reply).len(), 101);
    let more = doc! { "getMore": id(&reply), "collection": "things" };
    let refused = cluster
        .router(1)
        .command(DATABASE, more.clone())
        .await
        .unwrap_err();
    assert_eq!(number(&refused, "code"), 43);

    // A cursor that was open when a chunk moved reads on, where the chunk was.
    let moving = cluster.move_chunk(NAMESPACE, "x", 0);
    let reading = async {
        while cluster.owner(NAMESPACE, "x") != 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The documents stay on the donor until then, but count once.
        let all = doc! { "find": "things", "filter": {}, "batchSize": 1000 };
        for router in &cluster.routers {
            let found = router.command(DATABASE, all.clone()).await.unwrap();
            assert_eq!(ids(&found).len(), 300);
        }
        cluster.routers[0].command(DATABASE, more).await.unwrap()
    };
    let (moved, rest) = tokio::join!(moving, reading);
    moved.unwrap();
    assert_eq!((ids(&rest).len(), id(&rest)), (199, 0));
    assert_eq!(
        (count_on(&mut cluster, 0).await, count_on(&mut cluster, 1).await),
        (300, 0)
    );
    let found = doc! { "find": "things", "filter": { "k": "x" }, "batchSize": 1000 };
    let found = cluster.router(1).command(DATABASE, found).await.unwrap();
    assert_eq!(ids(&found).len(), 150);
    assert_eq!(cluster.router(1).refreshed(), 1, "it had the chunks as they were");

    let hour = 3_600_000;
    cluster.router(1).set_clock(hour);
    let began = DateTime::now().timestamp_millis();
    let now = vec![doc! { "$set": { "at": "$$NOW" } }];
    let update = doc! { "update": "things", "updates": [{ "q": { "k": "a", "_id": "0" }, "u": now }] };
    cluster.router(1).command(DATABASE, update).await.unwrap();
    let later = doc! { "find": "things", "filter": { "k": "a", "$expr": { "$gt": ["$at", "$$NOW"] } } };
    let found = say(&mut cluster, later.clone()).await;
    let at = batch(&found)[0].get_datetime("at").unwrap().timestamp_millis();
    assert!(at >= began + hour, "{at}");
    let found = cluster.router(1).command(DATABASE, later).await.unwrap();
    assert_eq!(ids(&found), [""; 0], "its own clock");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_batch_is_recognised_however_it_is_split() {
    let mut cluster = things(Settings::default()).await;
    let session = doc! { "id": Bson::Binary(mongodb::bson::Binary {
        subtype: mongodb::bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16],
    }) };
    let increments = |keys: &[&str]| {
        let one =
            |key: &&str| Bson::from(doc! { "q": { "k": *key, "_id": *key }, "u": { "$inc": { "n": 1 } } });
        doc! {
            "update": "things", "updates": keys.iter().map(one).collect::<Vec<_>>(), "lsid": session.clone(), "txnNumber": 1_i64,
        }
    };
    let documents: Vec<_> = ["a", "x", "b", "y"].map(|key| thing(key, key, 0)).into();
    say(&mut cluster, doc! { "insert": "things", "documents": documents }).await;
    let update = increments(&["a", "x", "b", "y"]);
    for router in [0, 1, 0] {
        let updated = cluster
            .router(router)
            .command(DATABASE, update.clone())
            .await
            .unwrap();
        assert_eq!(number(&updated, "n"), 4);
    }
    let once = say(&mut cluster, doc! { "find": "things", "filter": { "n": 1 } }).await;
    assert_eq!(ids(&once).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_without_a_primary_fails_what_it_was_to_do_and_nothing_else() {
    let settings = Settings {
        find_host_max: Duration::from_millis(500),
        ..Settings::default()
    };
    let mut cluster = things(settings).await;
    let cluster = &mut cluster;
    say(
        cluster,
        doc! { "insert": "things", "documents": [thing("1", "a", 0), thing("2", "x", 0)] },
    )
    .await;
    cluster.shard(1).member(0).kill9();
    let inserts = vec![thing("3", "a", 0), thing("4", "x", 0), thing("5", "b", 0)];
    let inserted = say(
        cluster,
        doc! { "insert": "things", "documents": inserts, "ordered": false },
    )
    .await;
    let errors = indexes(&inserted);
    assert_eq!((number(&inserted, "n"), errors.len(), errors[0].0), (2, 1, 1));
    assert!([6, 133].contains(&errors[0].1), "{inserted}");
    let find = |key: &str| doc! { "find": "things", "filter": { "k": key } };
    assert_eq!(ids(&say(cluster, find("a")).await), ["1", "3"]);
    for broken in [find("x"), doc! { "find": "things", "filter": {} }] {
        let refused = cluster.router(1).command(DATABASE, broken).await.unwrap_err();
        assert_eq!(number(&refused, "code"), 133, "{refused}");
        assert!(!refused.contains_key("errorLabels"), "{refused}");
    }
    cluster.shard(1).restart(0).await;
    let back = Instant::now();
    while cluster.router(0).command(DATABASE, find("x")).await.is_err() {
        assert!(
            back.elapsed() < Duration::from_secs(30),
            "the shard is not found again"
        );
    }
    cluster.shard(1).member(0).stop_signal();
    let mut in_time = find("x");
    in_time.insert("maxTimeMS", 300);
    let refused = cluster.router(0).command(DATABASE, in_time).await.unwrap_err();
    assert!([50, 133].contains(&number(&refused, "code")), "{refused}");
    assert_eq!(ids(&say(cluster, find("a")).await), ["1", "3"]);
    cluster.shard(1).member(0).continue_signal();
}
