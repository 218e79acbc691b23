//! Set-up against the scripted [`mongos`](super::mongos).

use mongodb::bson::doc;

use super::{
    CHUNKS_MAX, Mode, Report, SetupError, State,
    mongos::{Collection, DATABASE, Mongos},
    run, schema, sharding,
};

const INIT: Mode = init_of(8);

const fn init_of(chunks: u32) -> Mode {
    Mode::Init {
        chunks,
        drop_superseded: false,
    }
}

impl Mongos {
    async fn init(&self) -> Report {
        run(self, DATABASE, INIT).await.unwrap()
    }
}

fn states(report: &Report) -> Vec<State> {
    report.0.iter().map(|finding| finding.state).collect()
}

#[tokio::test]
async fn a_cluster_is_sharded_and_its_chunks_are_dealt_out() {
    let mongos = Mongos::with_shards(&["a", "b", "c"]);
    let report = mongos.init().await;
    assert!(report.is_ready(), "{report}");
    for (name, key) in [("sessions", "_id"), ("events", "session")] {
        let collection = &mongos.collections()[name];
        assert_eq!(collection.shard_key, Some(doc! { key: 1 }));
        let chunks: Vec<_> = collection
            .chunks
            .iter()
            .map(|(min, shard)| (min.as_deref(), shard.as_str()))
            .collect();
        let expected = [
            (None, "a"),
            (Some("2000"), "b"),
            (Some("4000"), "c"),
            (Some("6000"), "a"),
            (Some("8000"), "b"),
            (Some("a000"), "c"),
            (Some("c000"), "a"),
            (Some("e000"), "b"),
        ];
        assert_eq!(chunks, expected);
    }
    let records = &mongos.collections()["archive_runs"];
    assert!(records.shard_key.is_none(), "too few to be spread");
}

#[tokio::test]
async fn doing_it_again_changes_nothing() {
    let mongos = Mongos::with_shards(&["a", "b"]);
    mongos.init().await;
    let (after, changes) = (mongos.collections(), mongos.cluster().changes.len());
    let again = mongos.init().await;
    assert!(
        states(&again).iter().all(|state| *state == State::Fine),
        "{again}"
    );
    let check = run(&mongos, DATABASE, Mode::Check).await.unwrap();
    assert!(
        states(&check).iter().all(|state| *state == State::Fine),
        "{check}"
    );
    assert_eq!(mongos.collections(), after);
    assert_eq!(mongos.cluster().changes.len(), changes);
}

#[tokio::test]
async fn an_init_that_was_cut_off_anywhere_is_finished_by_the_next() {
    let whole = Mongos::with_shards(&["a", "b", "c"]);
    whole.init().await;
    for commands in 0.. {
        let mongos = Mongos::with_shards(&["a", "b", "c"]);
        mongos.cluster().commands_left = Some(commands);
        let cut_off = run(&mongos, DATABASE, INIT).await;
        mongos.cluster().commands_left = None;
        if cut_off.is_ok() {
            assert!(commands > 40, "{commands}");
            break;
        }
        mongos.init().await;
        assert_eq!(
            mongos.collections(),
            whole.collections(),
            "cut off after {commands}"
        );
    }
}

#[tokio::test]
async fn two_at_once_agree() {
    let (whole, mongos) = (Mongos::with_shards(&["a", "b"]), Mongos::with_shards(&["a", "b"]));
    whole.init().await;
    let (one, other) = tokio::join!(run(&mongos, DATABASE, INIT), run(&mongos, DATABASE, INIT));
    assert!(one.unwrap().is_ready() && other.unwrap().is_ready());
    assert_eq!(mongos.collections(), whole.collections());
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_can_not_be_moved_now_is_moved_later() {
    let (whole, mongos) = (Mongos::with_shards(&["a", "b"]), Mongos::with_shards(&["a", "b"]));
    whole.init().await;
    mongos.cluster().busy_moves = 30;
    assert!(mongos.init().await.is_ready());
    assert_eq!(mongos.collections(), whole.collections());
    let never = Mongos::with_shards(&["a", "b"]);
    never.cluster().busy_moves = usize::MAX;
    let refused = run(&never, DATABASE, INIT).await.unwrap_err().to_string();
    assert!(
        refused.starts_with("moving a chunk of sessions: Unable"),
        "{refused}"
    );
}

#[tokio::test]
async fn more_chunks_may_be_asked_for_later_and_fewer_change_nothing() {
    let mongos = Mongos::with_shards(&["a"]);
    mongos.init().await;
    for (chunks, expected) in [(16, 16), (4, 16), (1, 16), (3, 18)] {
        run(&mongos, DATABASE, init_of(chunks)).await.unwrap();
        assert_eq!(mongos.collections()["events"].chunks.len(), expected);
    }
}

#[tokio::test]
async fn chunks_with_data_are_left_to_the_balancer() {
    let mongos = Mongos::with_shards(&["a"]);
    mongos.init().await;
    for collection in mongos.cluster().collections.values_mut() {
        collection.has_data = true;
    }
    mongos.cluster().shards.push("b");
    let report = mongos.init().await;
    assert!(report.is_ready());
    let moved = |collection: &Collection| collection.chunks.values().any(|shard| shard == "b");
    assert!(!mongos.collections().values().any(moved));
}

#[tokio::test]
async fn another_shard_key_is_reported_and_left_alone() {
    let mongos = Mongos::with_shards(&["a", "b"]);
    mongos.init().await;
    mongos.cluster().collections.get_mut("events").unwrap().shard_key = Some(doc! { "_id": "hashed" });
    let before = mongos.collections();
    for mode in [INIT, Mode::Check] {
        let report = run(&mongos, DATABASE, mode).await.unwrap();
        let problems: Vec<_> = report.problems().collect();
        assert_eq!(problems.len(), 1, "{report}");
        assert_eq!(problems[0].state, State::Wrong);
        assert!(problems[0].what.starts_with("events is sharded"), "{report}");
    }
    assert_eq!(mongos.collections(), before);
}

#[tokio::test]
async fn a_check_says_what_is_missing_and_makes_none_of_it() {
    let mongos = Mongos::with_shards(&["a", "b"]);
    let nothing = run(&mongos, DATABASE, Mode::Check).await.unwrap();
    assert_eq!(
        nothing.problems().count(),
        schema::collections().len(),
        "{nothing}"
    );
    mongos.init().await;
    let events = |mongos: &Mongos, change: fn(&mut Collection)| {
        change(mongos.cluster().collections.get_mut("events").unwrap());
    };
    events(&mongos, |events| {
        events.shard_key = None;
        events.chunks.clear();
    });
    let unsharded = run(&mongos, DATABASE, Mode::Check).await.unwrap();
    assert_eq!(
        unsharded.problems().next().unwrap().what,
        "events is sharded by session"
    );
    events(&mongos, |events| events.indexes.truncate(1));
    let unindexed = run(&mongos, DATABASE, Mode::Check).await.unwrap();
    let problem = unindexed.problems().next().unwrap();
    assert_eq!(
        (problem.state, problem.what.contains("session_order")),
        (State::Missing, true)
    );
    assert!(mongos.init().await.is_ready());
}

#[tokio::test]
async fn what_is_superseded_is_dropped_from_a_cluster_when_asked_for() {
    let mongos = Mongos::with_shards(&["a", "b"]);
    mongos.init().await;
    let whole = mongos.collections();
    let old = doc! { "v": 2, "name": "session_order", "key": { "session": 1, "timestamp": 1, "seq": 1 } };
    mongos
        .cluster()
        .collections
        .get_mut("events")
        .unwrap()
        .indexes
        .push(old);
    let kept = mongos.init().await;
    let outdated: Vec<_> = kept
        .0
        .iter()
        .filter(|finding| finding.state == State::Outdated)
        .collect();
    assert_eq!(outdated.len(), 1, "{kept}");
    assert!(outdated[0].what.contains("session_order"), "{kept}");
    let dropping = Mode::Init {
        chunks: 8,
        drop_superseded: true,
    };
    for _ in 0..2 {
        assert!(run(&mongos, DATABASE, dropping).await.unwrap().is_ready());
        assert_eq!(mongos.collections(), whole);
    }
}

#[tokio::test]
async fn what_a_server_refuses_is_told_with_what_was_tried() {
    let mongos = Mongos::with_shards(&["a"]);
    mongos.cluster().commands_left = Some(2);
    let error = run(&mongos, DATABASE, INIT).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "creating the collection sessions: The server is in quiesce mode and will shut down"
    );
}

#[tokio::test]
async fn a_number_of_chunks_has_limits() {
    let mongos = Mongos::with_shards(&["a"]);
    for chunks in [0, CHUNKS_MAX + 1] {
        let refused = run(&mongos, DATABASE, init_of(chunks)).await;
        assert!(matches!(refused, Err(SetupError::Chunks)));
    }
    assert!(mongos.collections().is_empty());
}

#[test]
fn split_points_are_in_order_and_distinct_for_any_number_of_chunks() {
    for chunks in (1..300).chain([1_000, 4_096, CHUNKS_MAX]) {
        let points: Vec<_> = sharding::split_points(chunks).collect();
        assert_eq!(points.len(), chunks as usize - 1);
        assert!(points.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(
            points
                .iter()
                .all(|point| point.len() == 4 && point.as_str() > "0000")
        );
    }
}
