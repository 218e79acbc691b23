//! Local copies: an answer as it was sent is sent again only while the entry is what it was made from.

use colloquy::cache::{Change, Lookup, Query, Rendered, Shape};

use super::*;

fn page() -> Query {
    Query {
        shape: Shape {
            session: true,
            ..Shape::default()
        },
        ..Query::default()
    }
}

/// A session in Redis, of which `b` has a copy.
async fn copied() -> (House, Replica, Replica) {
    let house = House::new().await;
    let (a, b) = (house.replica().await, house.replica().await);
    a.open("s", r#"{"status":"active"}"#).await;
    a.append("s", "e-1", 1).await;
    b.read_cached("s", &PageQuery::default()).await;
    let copies = b.outcome("hit_copy");
    b.read_cached("s", &PageQuery::default()).await;
    assert_eq!(b.outcome("hit_copy"), copies + 1);
    (house, a, b)
}

/// Whether a read of `b` is answered by its copy.
async fn by_copy(b: &Replica, query: &PageQuery<'_>) -> (bool, Read) {
    let copies = b.outcome("hit_copy");
    let read = b.read("s", query).await;
    (b.outcome("hit_copy") > copies, read)
}

#[tokio::test]
async fn a_copy_is_sent_until_the_entry_changes() {
    let (_house, a, b) = copied().await;
    let all = PageQuery::default();
    assert!(by_copy(&b, &all).await.0);

    a.append("s", "e-2", 2).await;
    let (copy, read) = by_copy(&b, &all).await;
    assert!(!copy && read.cached);
    assert_eq!(read.ids(), ["e-1", "e-2"]);
    assert!(by_copy(&b, &all).await.0);

    let patch = SessionPatch::read(br#"{"language":"de"}"#).unwrap();
    a.service.update(&key("s"), &patch, &Expected::Any).await.unwrap();
    let (copy, read) = by_copy(&b, &all).await;
    assert!(!copy && read.cached);
    assert_eq!(read.session["language"], "de");
    assert!(by_copy(&b, &all).await.0);

    a.service.complete(&key("s"), &End::default()).await.unwrap();
    let (copy, read) = by_copy(&b, &all).await;
    assert!(!copy);
    assert_eq!(read.session["status"], "completed");

    a.service.erase(&key("s")).await.unwrap();
    let read = b.service.read_session(&key("s"), &all, render).await;
    assert_eq!(read.unwrap_err().kind(), colloquy::domain::Kind::SessionErased);
}

#[tokio::test]
async fn a_write_that_changed_nothing_leaves_the_copies() {
    let (_house, a, b) = copied().await;
    let begun = a.cache.begin(&key("s"), Wanted::default()).await;
    assert!(!by_copy(&b, &PageQuery::default()).await.0);
    a.cache.finish(begun, Change::Nothing).await;
    assert!(by_copy(&b, &PageQuery::default()).await.0);
}

#[tokio::test]
async fn an_entry_that_was_filled_anew_has_no_copies() {
    let (house, _a, b) = copied().await;
    for part in ["state", "events"] {
        let client = redis::Client::open(house.redis.clone()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let name = format!("colloquy:{{default/s}}:{part}");
        let deleted: i64 = redis::cmd("DEL").arg(name).query(&mut connection).unwrap();
        assert_eq!(deleted, 1);
        let copies = b.outcome("hit_copy");
        assert!(!b.read("s", &PageQuery::default()).await.cached, "{part}");
        // Filled again with the same content, and found there once before it is sent as it was.
        b.read_cached("s", &PageQuery::default()).await;
        assert_eq!(b.outcome("hit_copy"), copies, "{part}");
        assert!(by_copy(&b, &PageQuery::default()).await.0, "{part}");
    }
}

#[tokio::test]
async fn a_page_of_another_shape_is_another_copy() {
    let (_house, _a, b) = copied().await;
    let shapes = [newest("1"), newest("50"), PageQuery::default()];
    for query in &shapes {
        b.read("s", query).await;
    }
    for query in &shapes {
        assert!(by_copy(&b, query).await.0, "{query:?}");
    }
    // Only the session makes the difference.
    let before = b.outcome("hit_copy");
    let events = b.service.read_events(&key("s"), &shapes[2], render).await;
    assert!(Shown::read(&events.unwrap()).session.is_empty());
    assert_eq!(b.outcome("hit_copy"), before);
}

#[tokio::test]
async fn a_copy_does_not_show_whether_it_has_the_event_that_is_wanted() {
    let (_house, a, b) = copied().await;
    let seq = a.append("s", "e-2", 2).await;
    let wanting = |min_seq| PageQuery {
        min_seq: Some(min_seq),
        ..PageQuery::default()
    };
    b.read_cached("s", &PageQuery::default()).await;
    assert!(by_copy(&b, &PageQuery::default()).await.0);
    let (copy, read) = by_copy(&b, &wanting(seq)).await;
    assert!(!copy && read.cached);
    for other in [0, i64::MAX] {
        let (copy, read) = by_copy(&b, &wanting(other)).await;
        assert!(!copy && !read.cached);
    }
    assert_eq!(b.outcome("bypass_behind"), 2);
}

#[tokio::test]
async fn a_copy_that_is_kept_late_is_sent_to_nobody() {
    let (_house, a, b) = copied().await;
    a.append("s", "e-2", 2).await;
    let Lookup::Hit {
        place: Some(place), ..
    } = b.cache.read(&key("s"), &page()).await
    else {
        panic!("no hit");
    };
    a.append("s", "e-3", 3).await;
    let stale = Rendered {
        body: "stale".into(),
        version: 1,
    };
    b.cache.keep(place, stale);
    let read = b.read("s", &PageQuery::default()).await;
    assert_eq!(read.ids(), ["e-1", "e-2", "e-3"]);
}

#[tokio::test]
async fn without_room_nothing_is_copied() {
    let house = House::new().await;
    let replica = house
        .replica_with(RedisOptions {
            pages_bytes_max: 0,
            ..options()
        })
        .await;
    replica.open("s", r#"{"status":"active"}"#).await;
    for _ in 0..3 {
        replica.read_cached("s", &PageQuery::default()).await;
    }
    assert_eq!(replica.outcome("hit_copy"), 0);
}

/// A lease that nobody uses would keep all others from filling, for as long as it lasts.
#[tokio::test]
async fn a_reader_without_room_to_fill_takes_no_lease() {
    let house = House::new().await;
    let cache = Arc::new(RedisCache::connect(house.redis.parse().unwrap(), options()).await);
    let limits = Limits {
        cache_fills_max: 0,
        ..limits()
    };
    let crowded = Replica {
        service: Service::new(Arc::clone(&house.store), cache.clone(), limits),
        cache,
    };
    crowded.open("s", r#"{"status":"active"}"#).await;
    while crowded.outcome("miss") == 0 {
        crowded.read("s", &PageQuery::default()).await;
    }
    let wanting = Query { fill: true, ..page() };
    let lookup = crowded.cache.read(&key("s"), &wanting).await;
    assert!(
        matches!(lookup, Lookup::Miss { lease: Some(_), .. }),
        "{lookup:?}"
    );
}
