//! A rough measure, not a test: `cargo test --release --test it mongo::speed -- --ignored --nocapture`.

use std::{future::Future, sync::Arc, time::Instant};

use colloquy::domain::NewEvent;
use mongodb::{
    bson::{DateTime, Document, doc},
    options::{Acknowledgment, WriteConcern},
};

use super::{key, open, profile::service, store};

const TASKS: usize = 64;
const EACH: usize = 300;
const TEXT: &str =
    "I would like to change my booking to the day after tomorrow, if that is possible at all, please.";

async fn rate<F: Future<Output = ()> + Send + 'static>(
    work: impl Fn(usize, usize) -> F + Send + Sync + 'static,
) -> f64 {
    let (work, started) = (Arc::new(work), Instant::now());
    let tasks = (0..TASKS).map(|task| {
        let work = Arc::clone(&work);
        tokio::spawn(async move {
            for n in 0..EACH {
                work(task, n).await;
            }
        })
    });
    futures_util::future::join_all(tasks)
        .await
        .into_iter()
        .for_each(Result::unwrap);
    (TASKS * EACH) as f64 / started.elapsed().as_secs_f64()
}

#[ignore = "a measure"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_against_single_inserts() {
    let (store, database) = store().await;
    let mut concern = WriteConcern::default();
    (concern.w, concern.journal) = (Some(Acknowledgment::Majority), Some(true));
    for round in 0..3 {
        let raw = database.collection::<Document>("events");
        let options = concern.clone();
        let single = rate(move |task, n| {
            let (raw, options) = (raw.clone(), options.clone());
            async move {
                let session = format!("0000:default/raw-{round}-{task}");
                let event = doc! {
                    "_id": format!("{session}/e-{n}"), "session": session, "eventId": format!("e-{n}"), "seq": n as i64,
                    "timestamp": DateTime::now(), "type": "user_speech", "payload": { "text": TEXT, "n": n as i64 },
                };
                raw.insert_one(event).write_concern(options).await.unwrap();
            }
        })
        .await;
        for task in 0..TASKS {
            open(&store, &format!("s-{round}-{task}")).await;
        }
        let service = service(store.clone());
        let appended = rate(move |task, n| {
            let service = service.clone();
            async move {
                let json = format!(
                    r#"{{"eventId":"e-{n}","type":"user_speech","payload":{{"text":"{TEXT}","n":{n}}}}}"#
                );
                let event = NewEvent::read(json.as_bytes(), "").unwrap();
                service
                    .append(&key(&format!("s-{round}-{task}")), event)
                    .await
                    .unwrap();
            }
        })
        .await;
        println!(
            "insert_one {single:.0}/s, append {appended:.0}/s, ratio {:.2}",
            appended / single
        );
    }
}
