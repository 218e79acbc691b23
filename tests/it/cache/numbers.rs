//! Sequence numbers that Redis reserves, step by step.

use colloquy::cache::{Change, Numbers, Reserve};

use super::*;

/// The first of the numbers that a write of `count` events begins with.
async fn reserved(replica: &Replica, wanted: Wanted) -> Option<i64> {
    let begun = replica.cache.begin(&key("s"), wanted).await;
    let numbers = begun.numbers;
    replica.cache.finish(begun, Change::Nothing).await;
    match numbers {
        Numbers::Reserved(first) => Some(first),
        Numbers::AboveStore => None,
        Numbers::Own => panic!("Redis answers"),
    }
}

async fn above(replica: &Replica, wanted: Wanted, above: Option<i64>) -> i64 {
    let write = Reserve {
        key: key("s"),
        wanted,
        above,
    };
    let mut first = replica.cache.reserve_all(&[write]).await;
    first.remove(0).expect("Redis answers")
}

/// A replica's own clock, so far ahead.
fn ahead(count: usize, by: Duration) -> Wanted {
    let mut wanted = wanted(count);
    wanted.own_us += i64::try_from(by.as_micros()).unwrap();
    wanted
}

fn now_us() -> i64 {
    wanted(0).own_us
}

fn forget(house: &House, command: &str, arguments: &[&str]) {
    let client = redis::Client::open(house.redis.as_str()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut command = redis::cmd(command);
    command.arg("colloquy:{default/s}:numbers").arg(arguments);
    command.exec(&mut connection).unwrap();
}

const YEAR: Duration = Duration::from_hours(365 * 24);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_reserved_for_one_write_is_reserved_for_no_other() {
    let house = House::new().await;
    let (a, b) = (house.replica().await, house.replica().await);
    a.open("s", "{}").await;
    let writes = (0..200).map(|n| {
        let replica = if n % 2 == 0 { &a } else { &b };
        let count = [1, 7, 200][n % 3];
        async move { (reserved(replica, wanted(count)).await.unwrap(), count as i64) }
    });
    let mut ranges = futures_util::future::join_all(writes).await;
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
    }
}

#[tokio::test]
async fn the_store_is_asked_where_redis_does_not_know_what_it_has() {
    let house = House::new().await;
    let replica = house.replica().await;
    // Nobody announced its opening.
    assert_eq!(reserved(&replica, wanted(1)).await, None);
    // Nor does a write know that wants no number.
    let patch = replica.cache.begin(&key("s"), Wanted::default()).await;
    assert_eq!(patch.numbers, Numbers::Own);
    replica.cache.finish(patch, Change::Nothing).await;
    assert_eq!(reserved(&replica, wanted(1)).await, None);

    let stored = now_us() + 5_000_000;
    assert_eq!(above(&replica, wanted(200), Some(stored)).await, stored + 1);
    assert_eq!(reserved(&replica, wanted(3)).await, Some(stored + 201));
    assert_eq!(reserved(&replica, wanted(1)).await, Some(stored + 204));
    // Another one that asked the store at the same time comes after them.
    assert_eq!(above(&replica, wanted(1), Some(stored)).await, stored + 205);
}

#[tokio::test]
async fn a_session_that_was_opened_needs_no_look_at_the_store() {
    let house = House::new().await;
    let replica = house.replica().await;
    replica.open("s", "{}").await;
    let session = house.store.session(&key("s")).await.unwrap();
    let first = reserved(&replica, wanted(1)).await.expect("a number");
    assert!(first >= session.started_at.unix_ms() * 1_000);
    assert!(first <= now_us());
}

#[tokio::test]
async fn a_start_given_by_a_clock_that_is_ahead_comes_before_all_numbers() {
    let house = House::new().await;
    let replica = house.replica().await;
    let started_at = now_us() + 2_000_000;
    let begun = replica.cache.begin(&key("s"), Wanted::default()).await;
    let opened = Change::Opened {
        seq_min: Some(started_at),
    };
    replica.cache.finish(begun, opened).await;
    assert_eq!(reserved(&replica, wanted(1)).await, Some(started_at));
}

/// Numbers that a replica gave by its own clock are known to Redis from the store alone.
#[tokio::test]
async fn numbers_given_without_redis_make_the_next_writer_ask_the_store() {
    let house = House::new().await;
    let replica = house.replica().await;
    replica.open("s", "{}").await;
    let last = reserved(&replica, wanted(1)).await.expect("a number");
    // Twice forgotten, as `forget.lua` does.
    forget(&house, "APPEND", &["?"]);
    forget(&house, "APPEND", &["?"]);
    assert_eq!(reserved(&replica, wanted(1)).await, None);
    let first = above(&replica, wanted(1), Some(last - 1_000)).await;
    assert!(first > last);
    let stored = now_us() + 3_000_000;
    forget(&house, "APPEND", &["?"]);
    assert_eq!(above(&replica, wanted(1), Some(stored)).await, stored + 1);
    assert_eq!(reserved(&replica, wanted(1)).await, Some(stored + 2));
}

/// It has what the other one had some time ago.
#[tokio::test]
async fn another_process_of_redis_is_not_believed_to_know_the_greatest_number() {
    let house = House::new().await;
    let replica = house.replica().await;
    replica.open("s", "{}").await;
    let last = reserved(&replica, wanted(1)).await.expect("a number");
    forget(
        &house,
        "SET",
        &[&format!("{} 0123456789abcdef", last - 5_000_000)],
    );
    assert_eq!(reserved(&replica, wanted(1)).await, None);
    assert!(above(&replica, wanted(1), Some(last)).await > last);
    assert!(reserved(&replica, wanted(1)).await.is_some());
    // As an older version of the service left it.
    forget(&house, "SET", &[&last.to_string()]);
    assert_eq!(reserved(&replica, wanted(1)).await, None);
}

#[tokio::test]
async fn a_redis_whose_clock_is_wrong_moves_no_number() {
    let house = House::new().await;
    let replica = house.replica().await;
    replica.open("s", "{}").await;
    let mut last = 0;
    // By as much as the replica's is right.
    for wrong in [Duration::from_mins(6), YEAR] {
        let right = ahead(10, wrong);
        let first = reserved(&replica, right).await.expect("a number");
        assert!(
            first > last && (first - right.own_us).abs() < 1_000_000,
            "{first}"
        );
        last = first + 9;
    }
    // Within the limit, Redis's clock is the one that counts. The numbers of a year ahead are not believed.
    assert_eq!(reserved(&replica, wanted(1)).await, None);
    let near = ahead(1, Duration::from_mins(4));
    let first = above(&replica, near, Some(now_us() - 1_000_000)).await;
    assert!((first - now_us()).abs() < 1_000_000, "{first}");
    assert_eq!(
        reserved(&replica, wanted(1)).await.map(|next| next > first),
        Some(true)
    );
}

/// A session that did get events by a wrong clock goes on behind them.
#[tokio::test]
async fn numbers_go_on_behind_what_was_stored_by_a_wrong_clock() {
    let house = House::new().await;
    let replica = house.replica().await;
    replica.open("s", "{}").await;
    let wrong = ahead(10, YEAR);
    let stored = reserved(&replica, wrong).await.expect("a number") + 9;
    assert_eq!(reserved(&replica, wanted(1)).await, None);
    assert_eq!(above(&replica, wanted(5), Some(stored - 4)).await, stored + 1);
    // Two that ask at the same time get different ones, though neither clock is near.
    assert_eq!(above(&replica, wanted(5), Some(stored - 4)).await, stored + 6);
}

#[tokio::test]
async fn numbers_go_on_behind_those_that_were_lost() {
    let house = House::new().await;
    let replica = house.replica().await;
    replica.open("s", "{}").await;
    let stored = now_us();
    let mut last = 0;
    // A burst: far more than the clock has microseconds for.
    for _ in 0..6 {
        last = reserved(&replica, wanted(1_000)).await.expect("a number") + 999;
    }
    forget(&house, "DEL", &[]);
    assert_eq!(reserved(&replica, wanted(1)).await, None);
    assert!(above(&replica, wanted(1), Some(stored)).await > last);
    // A session that was not used for longer than the key lives lost none.
    forget(&house, "DEL", &[]);
    let long_ago = now_us() - 3_600_000_000;
    assert!(above(&replica, wanted(1), Some(long_ago)).await <= now_us());
    forget(&house, "DEL", &[]);
    assert!(above(&replica, wanted(1), None).await <= now_us());
}

#[tokio::test]
async fn a_number_that_lua_can_not_count_is_not_reserved() {
    let house = House::new().await;
    let replica = house.replica().await;
    for (own_us, stored) in [(now_us(), i64::MAX - 3), (i64::MAX, 5), (i64::MIN, 5)] {
        let wanted = Wanted { count: 1, own_us };
        let write = Reserve {
            key: key("s"),
            wanted,
            above: Some(stored),
        };
        assert_eq!(replica.cache.reserve_all(&[write]).await, [None]);
    }
    let begun = replica
        .cache
        .begin(
            &key("s"),
            Wanted {
                count: 1,
                own_us: i64::MAX,
            },
        )
        .await;
    assert_eq!(begun.numbers, Numbers::Own);
    replica.cache.finish(begun, Change::Nothing).await;
}
