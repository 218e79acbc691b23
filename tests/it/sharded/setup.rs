//! `init`, `check` and `serve` through routers.

use std::time::Duration;

use futures_util::future::join_all;

use colloquy::store::settings::Ours;

use super::*;
use crate::{
    harness::{Server, expect, folder},
    random::Random,
};

/// More chunks than the first batch of a cursor has, and more than one shard.
const CHUNKS: u32 = 256;

fn options() -> MongoOptions {
    MongoOptions {
        pool_min: 0,
        ..MongoOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_set_up_at_once_agree_while_a_balancer_is_at_work() {
    let cluster = Cluster::start(Settings::default()).await;
    initialised(&cluster, 8).await;
    // It moves chunks of the first database, and then of the second as well.
    let balancer = cluster.balance(Duration::from_millis(1), Random::seeded());
    let url = with_database(&cluster.url(), "another");
    let (url, options) = (&url, &options());
    for report in join_all((0..3).map(|_| mongo::init(url, options, 8))).await {
        assert!(report.expect("it is set up").is_ready());
    }
    balancer.stop().await;
    assert!(
        mongo::check(url, options, &Ours::default())
            .await
            .unwrap()
            .is_ready()
    );
    for collection in ["sessions", "events"] {
        assert_eq!(cluster.chunks(&format!("another.{collection}")).len(), 8);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_set_up_and_served_from_through_any_of_its_routers() {
    let mut cluster = Cluster::start(Settings::default()).await;
    let url = initialised(&cluster, CHUNKS).await;
    for collection in ["sessions", "events"] {
        let chunks = cluster.chunks(&format!("colloquy.{collection}"));
        assert_eq!(chunks.len(), CHUNKS as usize, "{collection}");
        let on_first = chunks.iter().filter(|(_, shard)| *shard == 0).count();
        assert_eq!(on_first, chunks.len() / 2, "{collection}");
    }
    let options = options();
    // Of two commands in a row, as good as each second pair goes to two routers.
    for round in 0..10 {
        for report in [
            mongo::check(&url, &options, &Ours::default()).await,
            mongo::init(&url, &options, CHUNKS).await,
        ] {
            let report = report.unwrap_or_else(|error| panic!("round {round}: {error}"));
            let is_fine = |finding: &mongo::Finding| finding.state == mongo::State::Fine;
            assert!(report.0.iter().all(is_fine), "round {round}: {report}");
        }
    }
    for round in 0..12 {
        // In the last rounds with the first of them, or the second, dead.
        if round == 6 || round == 9 {
            cluster.router(usize::from(round == 9)).kill();
        }
        if round == 9 {
            cluster.router(0).start_again();
        }
        let flags = [format!("--store={url}"), "--set=cache=none".to_owned()];
        let server = Server::start_on(folder(), &flags, &[]).await;
        expect(server.get("/readyz"), 200).await;
    }
}
