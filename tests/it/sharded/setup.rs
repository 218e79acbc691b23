//! `init`, `check` and `serve` through routers.

use super::*;
use crate::harness::{Server, expect, folder};

/// More chunks than the first batch of a cursor has, and more than one shard.
const CHUNKS: u32 = 256;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_set_up_and_served_from_through_any_of_its_routers() {
    let cluster = Cluster::start(Settings::default()).await;
    let url = initialised(&cluster, CHUNKS).await;
    for collection in ["sessions", "events"] {
        let chunks = cluster.chunks(&format!("colloquy.{collection}"));
        assert_eq!(chunks.len(), CHUNKS as usize, "{collection}");
        let on_first = chunks.iter().filter(|(_, shard)| *shard == 0).count();
        assert_eq!(on_first, chunks.len() / 2, "{collection}");
    }
    let options = MongoOptions {
        pool_min: 0,
        ..MongoOptions::default()
    };
    // Of two commands in a row, as good as each second pair goes to two routers.
    for round in 0..10 {
        for report in [
            mongo::check(&url, &options).await,
            mongo::init(&url, &options, CHUNKS).await,
        ] {
            let report = report.unwrap_or_else(|error| panic!("round {round}: {error}"));
            let is_fine = |finding: &mongo::Finding| finding.state == mongo::State::Fine;
            assert!(report.0.iter().all(is_fine), "round {round}: {report}");
        }
    }
    for _ in 0..8 {
        let flags = [format!("--store={url}"), "--set=cache=none".to_owned()];
        let server = Server::start_on(folder(), &flags, &[]).await;
        expect(server.get("/readyz"), 200).await;
    }
}
