//! The cache of the embedded store: it answers what the store would, at that very moment.

use std::{collections::VecDeque, time::Duration};

use colloquy::{
    cache::{Begun, Cache, Change, Lookup, MemoryCache, NoCache, Place, Query, Rendered, Shape},
    domain::{EventFilter, Session, Timestamp},
};
use serde_json::json;
use tokio::task::JoinSet;

use super::*;
use crate::{
    harness::{Server, expect},
    random::Random,
};

const BYTES_MAX: usize = 1 << 20;

fn query() -> Query {
    Query::default()
}

fn session() -> Session {
    let new = NewSession::read(b"{}", "").unwrap();
    Session::opened(new, "s".parse().unwrap(), Timestamp::EPOCH)
}

fn page(version: i64) -> Rendered {
    Rendered {
        body: format!("version {version}").into(),
        version,
    }
}

async fn place(cache: &MemoryCache, id: &str) -> Place {
    match cache.read(&key(id), &query()).await {
        Lookup::Miss {
            place: Some(place), ..
        } => place,
        other => panic!("{other:?} is no place"),
    }
}

async fn is_kept(cache: &MemoryCache, id: &str) -> bool {
    matches!(cache.read(&key(id), &query()).await, Lookup::Same(_))
}

#[tokio::test]
async fn what_was_read_before_a_write_began_is_sent_to_nobody() {
    let cache = MemoryCache::new(BYTES_MAX);
    for kept_before in [true, false] {
        let old = place(&cache, "s").await;
        let begun = cache.begin(&key("s"), Wanted::default()).await;
        if kept_before {
            cache.keep(old, page(1));
            assert!(matches!(cache.read(&key("s"), &query()).await, Lookup::Bypass));
            cache.finish(begun, Change::Nothing).await;
        } else {
            cache.finish(begun, Change::Session(&session())).await;
            cache.keep(old, page(1));
        }
        assert!(!is_kept(&cache, "s").await, "{kept_before}");
    }
    let new = place(&cache, "s").await;
    cache.keep(new, page(2));
    assert!(is_kept(&cache, "s").await);
}

#[tokio::test]
async fn a_copy_is_not_sent_to_a_reader_who_wants_a_seq() {
    let cache = MemoryCache::new(BYTES_MAX);
    let found = place(&cache, "s").await;
    cache.keep(found, page(1));
    assert!(is_kept(&cache, "s").await);
    for min_seq in [i64::MIN, 0, i64::MAX] {
        let wanting = Query {
            min_seq: Some(min_seq),
            ..query()
        };
        assert!(matches!(cache.read(&key("s"), &wanting).await, Lookup::Bypass));
    }
}

#[tokio::test]
async fn a_write_that_may_yet_be_carried_out_keeps_its_session_from_the_cache() {
    let cache = MemoryCache::new(BYTES_MAX);
    let earlier = cache.begin(&key("other"), Wanted::default()).await;
    for _ in 0..3 {
        let begun = cache.begin(&key("s"), Wanted::default()).await;
        cache.finish(begun, Change::Unknown { acknowledged: false }).await;
    }
    assert!(matches!(cache.read(&key("s"), &query()).await, Lookup::Bypass));
    // Neither shows that the store has come to what was sent to it before.
    cache.finish(earlier, Change::Session(&session())).await;
    let refused = cache.begin(&key("other"), Wanted::default()).await;
    cache.finish(refused, Change::Nothing).await;
    assert!(matches!(cache.read(&key("s"), &query()).await, Lookup::Bypass));

    let later = cache.begin(&key("other"), Wanted::default()).await;
    cache.finish(later, Change::Session(&session())).await;
    let found = place(&cache, "s").await;
    cache.keep(found, page(1));
    assert!(is_kept(&cache, "s").await);
}

/// A store that carries writes out in their order, some of them after nobody waits for them any more.
#[derive(Default)]
struct Truth {
    versions: [i64; SESSIONS],
    acknowledged: [i64; SESSIONS],
    /// Each with its session and the number of its writer.
    queue: VecDeque<(usize, usize)>,
}

const SESSIONS: usize = 3;

enum Actor {
    Writer {
        nth: usize,
        session: usize,
        begun: Begun,
        version: Option<i64>,
    },
    /// It is about to ask the store.
    Reader {
        session: usize,
        place: Option<Place>,
        known: i64,
    },
    /// It is about to keep what it read.
    Keeper { place: Place, version: i64 },
}

#[tokio::test]
async fn no_order_of_steps_makes_an_answer_old() {
    let mut random = Random::seeded();
    let mut hits = 0;
    for _ in 0..200 {
        hits += play(&mut random, 300).await;
    }
    assert!(hits > 1_000, "{hits}");
}

/// Plays some steps; gives how many reads were answered by the cache.
async fn play(random: &mut Random, steps: usize) -> usize {
    let cache = MemoryCache::new(BYTES_MAX);
    let id = |session: usize| key(&format!("s{session}"));
    let (mut truth, mut actors, mut hits) = (Truth::default(), Vec::new(), 0);
    let sometimes = *random.pick(&[0, 5, 30]);
    for nth in 0..steps {
        let session = random.below(SESSIONS);
        match random.below(100) {
            0..15 => {
                let begun = cache.begin(&id(session), Wanted::default()).await;
                truth.queue.push_back((session, nth));
                actors.push(Actor::Writer {
                    nth,
                    session,
                    begun,
                    version: None,
                });
            }
            15..30 => {
                let Some((session, writer)) = truth.queue.pop_front() else {
                    continue;
                };
                truth.versions[session] += 1;
                let now = truth.versions[session];
                for actor in &mut actors {
                    if let Actor::Writer { nth, version, .. } = actor
                        && *nth == writer
                    {
                        *version = Some(now);
                    }
                }
            }
            30..60 => match cache.read(&id(session), &query()).await {
                Lookup::Same(read) => {
                    hits += 1;
                    assert_eq!(read, page(truth.versions[session]), "what the store would say");
                }
                Lookup::Miss { place, .. } => {
                    let known = truth.acknowledged[session];
                    actors.push(Actor::Reader {
                        session,
                        place,
                        known,
                    });
                }
                Lookup::Bypass => {}
                Lookup::Hit { .. } => panic!("it has no entries"),
            },
            _ if actors.is_empty() => {}
            _ => {
                let at = random.below(actors.len());
                match actors.swap_remove(at) {
                    Actor::Writer {
                        session,
                        begun,
                        version,
                        nth,
                    } => match version {
                        Some(version) => {
                            cache.finish(begun, Change::Session(&self::session())).await;
                            let known = &mut truth.acknowledged[session];
                            *known = version.max(*known);
                        }
                        // Nobody waits any longer.
                        None if random.chance(sometimes) => {
                            cache.finish(begun, Change::Unknown { acknowledged: false }).await
                        }
                        None => actors.push(Actor::Writer {
                            nth,
                            session,
                            begun,
                            version,
                        }),
                    },
                    Actor::Reader {
                        session,
                        place,
                        known,
                    } => {
                        let version = truth.versions[session];
                        assert!(version >= known);
                        actors.extend(place.map(|place| Actor::Keeper { place, version }));
                    }
                    Actor::Keeper { place, version } => cache.keep(place, page(version)),
                }
            }
        }
    }
    hits
}

/// One process on its store.
async fn embedded(house: &House) -> (Service, Service) {
    let cache = Arc::new(MemoryCache::new(BYTES_MAX));
    let cached = Service::new(Arc::clone(&house.store), cache, limits());
    let alone = Service::new(Arc::clone(&house.store), Arc::new(NoCache), limits());
    (cached, alone)
}

fn copies(service: &Service) -> u64 {
    let outcomes = service.cache_outcomes();
    outcomes.iter().find(|(name, _)| *name == "hit_copy").unwrap().1
}

/// Reads a session in every shape, twice, and compares with what the store says.
async fn assert_same(cached: &Service, alone: &Service, session: &str) {
    let only = |event_type: Option<&str>, since: Option<i64>| EventFilter {
        event_type: event_type.map(|text| text.parse().unwrap()),
        since: since.map(|ms| Timestamp::from_unix_ms(ms).unwrap()),
        until: None,
    };
    let filters = [
        only(None, None),
        only(Some("user_speech"), None),
        only(Some("system"), Some(3)),
    ];
    for filter in filters {
        for (order, limit) in [
            (Order::Ascending, 2),
            (Order::Descending, 2),
            (Order::Ascending, 50),
        ] {
            let mut cursor: Option<String> = None;
            loop {
                let query = PageQuery {
                    filter: filter.clone(),
                    order,
                    limit: Limit::at_most(limit),
                    cursor: cursor.as_deref(),
                    min_seq: None,
                };
                let expected = alone.read_events(&key(session), &query, render).await;
                let Ok(expected) = expected else {
                    let refused = cached.read_events(&key(session), &query, render).await;
                    assert_eq!(refused.unwrap_err().kind(), expected.unwrap_err().kind());
                    return;
                };
                for _ in 0..2 {
                    let read = cached.read_events(&key(session), &query, render).await.unwrap();
                    assert_eq!(read, expected, "{query:?}");
                    let whole = cached.read_session(&key(session), &query, render).await.unwrap();
                    let stored = alone.read_session(&key(session), &query, render).await.unwrap();
                    assert_eq!(whole, stored, "{query:?}");
                }
                cursor = Shown::read(&expected).next_cursor;
                if cursor.is_none() {
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn pages_of_every_shape_are_the_stores_after_every_kind_of_write() {
    let house = House::on(String::new());
    let (cached, alone) = embedded(&house).await;
    assert_same(&cached, &alone, "s").await;
    let new = |json: &str| NewSession::read(json.as_bytes(), "").unwrap();
    cached
        .open(&Tenant::default(), new(r#"{"sessionId":"s"}"#))
        .await
        .unwrap();
    assert_same(&cached, &alone, "s").await;
    for n in 0..7 {
        let event = new_event(&format!("e-{n}"), 10 - n);
        cached.append(&key("s"), event.clone()).await.unwrap();
        assert_same(&cached, &alone, "s").await;
        assert!(cached.append(&key("s"), event).await.unwrap().replayed);
        assert_same(&cached, &alone, "s").await;
    }
    let patch = SessionPatch::read(br#"{"metadata":{"a":1}}"#).unwrap();
    cached.update(&key("s"), &patch, &Expected::Any).await.unwrap();
    assert_same(&cached, &alone, "s").await;
    cached
        .open(&Tenant::default(), new(r#"{"sessionId":"s"}"#))
        .await
        .unwrap();
    assert_same(&cached, &alone, "s").await;
    cached.complete(&key("s"), &End::default()).await.unwrap();
    assert_same(&cached, &alone, "s").await;
    assert!(copies(&cached) > 100, "{}", copies(&cached));
    cached.erase(&key("s")).await.unwrap();
    assert_same(&cached, &alone, "s").await;
}

#[tokio::test]
async fn a_shape_holds_all_that_was_asked() {
    let cache = MemoryCache::new(BYTES_MAX);
    let shape = |limit| Query {
        shape: Shape {
            limit: Limit::at_most(limit),
            ..Shape::default()
        },
        ..query()
    };
    let found = match cache.read(&key("s"), &shape(1)).await {
        Lookup::Miss { place, .. } => place.unwrap(),
        other => panic!("{other:?}"),
    };
    cache.keep(found, page(1));
    assert!(matches!(cache.read(&key("s"), &shape(1)).await, Lookup::Same(_)));
    assert!(matches!(
        cache.read(&key("s"), &shape(2)).await,
        Lookup::Miss { .. }
    ));
    assert!(matches!(
        cache.read(&key("t"), &shape(1)).await,
        Lookup::Miss { .. }
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_a_read_shows_every_write_that_was_acknowledged() {
    const WRITERS: usize = 4;
    const EVENTS: usize = 60;
    let server = Arc::new(Server::start_embedded().await);
    for session in ["a", "b"] {
        expect(server.post("/v1/sessions", &json!({"sessionId": session})), 201).await;
    }
    let mut tasks = JoinSet::new();
    for nth in 0..WRITERS {
        let server = Arc::clone(&server);
        tasks.spawn(async move {
            let path = format!("/v1/sessions/{}", ["a", "b"][nth % 2]);
            for n in 0..EVENTS {
                let id = format!("e-{nth}-{n}");
                let event = json!({"eventId": id, "type": "system", "payload": {}});
                expect(server.post(&format!("{path}/events"), &event), 201).await;
                let read = expect(server.get(&format!("{path}?order=desc&limit=500")), 200).await;
                let events = read["events"].as_array().unwrap();
                assert!(events.iter().any(|event| event["eventId"] == *id), "{id}");
                let patch = json!({"metadata": {format!("w{nth}"): n}});
                let version = expect(server.patch(&path, &patch), 200).await["version"].clone();
                for _ in 0..2 {
                    let read = expect(server.get(&path), 200).await;
                    assert!(read["session"]["version"].as_i64() >= version.as_i64());
                    assert_eq!(read["session"]["metadata"][format!("w{nth}")], n);
                }
            }
        });
    }
    for session in ["a", "b"] {
        let server = Arc::clone(&server);
        tasks.spawn(async move {
            let (path, mut seen) = (format!("/v1/sessions/{session}"), 0);
            let all = WRITERS / 2 * EVENTS;
            while seen < all {
                let read = expect(server.get(&format!("{path}/events?limit=500")), 200).await;
                let shown = read["events"].as_array().unwrap().len();
                assert!(shown >= seen, "{shown} after {seen}");
                seen = shown;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let metrics = crate::talk::metrics(&server).await;
    let copies = metrics
        .lines()
        .find_map(|line| line.strip_prefix("colloquy_cache_reads_total{cause=\"copy\",outcome=\"hit\"} "));
    assert!(copies.unwrap().parse::<u64>().unwrap() > 0, "{metrics}");
}
