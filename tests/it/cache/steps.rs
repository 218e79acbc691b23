//! The protocol step by step, in the orders that matter: what a reader gets between the steps of a writer.

use colloquy::cache::{Change, Found, Lease, Lookup, Query, Shape, Wanted};

use super::*;

fn page() -> Query {
    Query {
        shape: Shape {
            limit: Limit::MAX,
            session: true,
            ..Shape::default()
        },
        min_seq: None,
        fill: true,
    }
}

/// A sequence number is wanted.
fn one() -> Wanted {
    super::wanted(1)
}

/// A word of each replica lasts longer than a busy machine holds one up.
fn options() -> RedisOptions {
    RedisOptions {
        lease: Duration::from_secs(2),
        ..super::options()
    }
}

/// Two replicas that believe Redis: the first one doubts it for a moment when the second joins.
async fn two_replicas(options: RedisOptions) -> (House, Replica, Replica) {
    let house = House::new().await;
    let a = house.replica_with(options.clone()).await;
    let b = house.replica_with(options).await;
    for replica in [&a, &b] {
        while let Lookup::Bypass = replica.cache.read(&key("nobody"), &page()).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    (house, a, b)
}

/// What the cache says to a read of the whole session.
async fn look(replica: &Replica) -> Lookup {
    replica.cache.read(&key("s"), &page()).await
}

async fn lease(replica: &Replica) -> Lease {
    match look(replica).await {
        Lookup::Miss {
            lease: Some(lease), ..
        } => lease,
        other => panic!("{other:?} is no lease"),
    }
}

/// Fills in what the store has now.
async fn fill(house: &House, replica: &Replica, lease: Lease) {
    let query = colloquy::domain::EventQuery {
        filter: Default::default(),
        order: Order::Descending,
        after: None,
        limit: Limit::MAX,
        payload_bytes_max: usize::MAX,
    };
    let page = house.store.events(&key("s"), &query).await.unwrap();
    let session = house.store.session(&key("s")).await.unwrap();
    let found = Found {
        session: &session,
        events: &page.items,
        complete: !page.has_more,
    };
    replica.cache.fill(lease, found).await;
}

/// Two replicas, and an active session in the cache.
async fn cached(options: RedisOptions) -> (House, Replica, Replica) {
    let (house, a, b) = two_replicas(options).await;
    a.open("s", r#"{"status":"active"}"#).await;
    b.read_cached("s", &PageQuery::default()).await;
    (house, a, b)
}

#[tokio::test]
async fn while_a_write_is_announced_readers_ask_the_store_and_fill_nothing() {
    let (_house, a, b) = cached(options()).await;
    let begun = a.cache.begin(&key("s"), one()).await;
    assert!(matches!(look(&b).await, Lookup::Bypass));
    let other = b.cache.begin(&key("s"), one()).await;
    a.cache.finish(begun, Change::Nothing).await;
    assert!(
        matches!(look(&a).await, Lookup::Bypass),
        "the other is still there"
    );
    b.cache.finish(other, Change::Nothing).await;
    assert!(matches!(look(&a).await, Lookup::Hit { .. }));
    assert_eq!(b.outcome("bypass_pending"), 1);
}

#[tokio::test]
async fn a_fill_that_a_write_overtook_is_refused() {
    for finished in [false, true] {
        let (house, a, b) = two_replicas(options()).await;
        a.open("s", r#"{"status":"active"}"#).await;
        let lease = lease(&b).await;
        let begun = a.cache.begin(&key("s"), one()).await;
        if finished {
            a.cache.finish(begun, Change::Nothing).await;
            fill(&house, &b, lease).await;
        } else {
            fill(&house, &b, lease).await;
            a.cache.finish(begun, Change::Nothing).await;
        }
        assert!(
            matches!(look(&b).await, Lookup::Miss { lease: Some(_), .. }),
            "{finished}"
        );
    }
}

#[tokio::test]
async fn one_reader_at_a_time_fills() {
    let (house, a, b) = two_replicas(options()).await;
    a.open("s", r#"{"status":"active"}"#).await;
    let lease = lease(&a).await;
    assert!(matches!(look(&b).await, Lookup::Miss { lease: None, .. }));
    fill(&house, &a, lease).await;
    assert!(matches!(look(&b).await, Lookup::Hit { .. }));
}

#[tokio::test]
async fn of_many_readers_at_once_one_fills() {
    let (house, a, b) = two_replicas(options()).await;
    a.open("s", r#"{"status":"active"}"#).await;
    let looks = futures_util::future::join_all((0..40).map(|at| look(if at < 20 { &a } else { &b })));
    let mut leases: Vec<Lease> = looks
        .await
        .into_iter()
        .filter_map(|found| match found {
            Lookup::Miss { lease, .. } => lease,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(leases.len(), 1);
    fill(&house, &a, leases.remove(0)).await;
    let looks = futures_util::future::join_all((0..40).map(|_| look(&b))).await;
    for found in looks {
        assert!(matches!(found, Lookup::Hit { .. }), "{found:?}");
    }
}

#[tokio::test]
async fn a_writer_that_died_takes_the_entry_with_it() {
    let (house, a, b) = cached(RedisOptions {
        write_time_max: Duration::from_millis(30),
        ..options()
    })
    .await;
    let dead = a.cache.begin(&key("s"), one()).await;
    assert!(matches!(look(&b).await, Lookup::Bypass));
    let lease = loop {
        match look(&b).await {
            Lookup::Bypass => tokio::time::sleep(Duration::from_millis(5)).await,
            Lookup::Miss {
                lease: Some(lease), ..
            } => break lease,
            other => panic!("{other:?}"),
        }
    };
    // It was only slow: its change may be what the lease's holder did not see.
    a.cache.finish(dead, Change::Events(&[])).await;
    fill(&house, &b, lease).await;
    assert!(matches!(look(&b).await, Lookup::Miss { .. }));
}

#[tokio::test]
async fn redis_may_forget_any_key_between_any_two_steps() {
    for part in ["state", "events", "pending", "fill", "numbers"] {
        let (house, a, b) = cached(options()).await;
        a.append("s", "e-1", 1).await;
        let (redis, database) = house.redis.rsplit_once('/').unwrap();
        let client = redis::Client::open(format!("{redis}/{database}")).unwrap();
        let mut connection = client.get_connection().unwrap();
        let mut evict = || {
            let name = format!("colloquy:{{default/s}}:{part}");
            redis::cmd("DEL").arg(name).query::<i64>(&mut connection).unwrap();
        };
        evict();
        assert_eq!(b.read("s", &PageQuery::default()).await.ids(), ["e-1"], "{part}");
        // In the midst of a write, whose marks may be gone then, while a reader wants to fill.
        let begun = a.cache.begin(&key("s"), one()).await;
        evict();
        let lease = match look(&b).await {
            Lookup::Miss { lease, .. } => lease,
            _ => None,
        };
        let late = match lease {
            Some(lease) => {
                // It reads now, and fills when the write is done.
                let session = house.store.session(&key("s")).await.unwrap();
                Some((lease, session))
            }
            None => None,
        };
        let event = a.append_stored(&house, "e-2", 2).await;
        a.cache.finish(begun, Change::Events(&[&event])).await;
        if let Some((lease, session)) = late {
            let found = Found {
                session: &session,
                events: &[],
                complete: true,
            };
            b.cache.fill(lease, found).await;
        }
        assert_eq!(
            b.read("s", &PageQuery::default()).await.ids(),
            ["e-1", "e-2"],
            "{part}"
        );
    }
}

impl Replica {
    /// Stores an event without a word to the cache.
    pub async fn append_stored(
        &self,
        house: &House,
        id: &str,
        timestamp_ms: i64,
    ) -> colloquy::domain::Appended {
        let event = new_event(id, timestamp_ms);
        let append = colloquy::store::Append {
            key: key("s"),
            event,
            seq: i64::from(u32::MAX) * 1_000_000,
            reserved: false,
        };
        house.store.append(vec![append]).await.unwrap().remove(0).unwrap()
    }
}

/// More than go with one command, and one of them can't be marked.
#[tokio::test]
async fn a_session_that_cannot_be_marked_spoils_no_other() {
    let (house, a, _b) = two_replicas(options()).await;
    let sessions: Vec<_> = (0..80).map(|nth| (key(&format!("s-{nth}")), one())).collect();
    let bad = 40;
    let pending = format!(
        "colloquy:{{{}/{}}}:pending",
        sessions[bad].0.tenant, sessions[bad].0.id
    );
    let client = redis::Client::open(house.redis.as_str()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut set = redis::cmd("SET");
    set.arg(pending)
        .arg("not a sorted set")
        .exec(&mut connection)
        .unwrap();

    let begun = a.cache.begin_all(&sessions).await;
    let mut pending = || -> Vec<String> {
        let mut keys = redis::cmd("KEYS");
        keys.arg("colloquy:*:pending").query(&mut connection).unwrap()
    };
    assert_eq!(pending().len(), sessions.len());
    a.cache
        .finish_all(begun.into_iter().map(|begun| (begun, Change::Nothing)).collect())
        .await;
    assert_eq!(pending().len(), 1, "but for the one that is no token");
}
