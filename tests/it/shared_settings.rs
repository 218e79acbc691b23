//! Settings that all processes on a database share: a process with another one does not start, and says which.

use std::{path::Path, process::Output};

use colloquy::store::{
    mongo::{self, CHUNKS_DEFAULT, Init, MongoOptions, Report, State},
    settings::{Leave, Ours},
};
use futures_util::future::join_all;
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::{
    engines,
    harness::{Server, colloquy, expect, folder},
    mongo::database,
};

/// Runs the command on this database to its end; gives its exit code, and all that it wrote.
fn run(words: &[&str], url: &str, flags: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = colloquy()
        .args(words)
        .args([
            "--listen",
            "127.0.0.1:0",
            "--store",
            url,
            "--set=mongo_pool_min=0",
        ])
        .args(flags)
        .output()
        .expect("colloquy runs");
    let told = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
    (status.code(), told.concat())
}

fn init(url: &str, flags: &[&str]) -> (Option<i32>, String) {
    run(&["init"], url, flags)
}

async fn recorded(url: &str) -> Document {
    let settings = database(url).await.collection::<Document>("settings");
    let found = settings.find_one(doc! { "_id": "shared" }).await.expect("read");
    found.expect("recorded by init")
}

/// Flags of the servers here. Nothing answers at this address, and nothing needs to.
const OURS: [&str; 3] = [
    "--set=cache=redis://me:hunter2@127.0.0.1:9/3",
    "--set=cache_prefix=ours",
    "--set=mongo_clocks_apart_ms_max=100",
];

async fn server(url: &str, flags: &[&str]) -> Server {
    let store = [format!("--store={url}"), "--set=mongo_pool_min=0".to_owned()];
    Server::start_on(folder(), &store, flags).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_with_another_setting_does_not_start_and_names_it_with_both_values() {
    let url = engines::mongodb().await;
    let (code, said) = init(&url, &OURS);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("done      shared setting cache = 127.0.0.1:9/3"),
        "{said}"
    );
    // Other credentials, and another way to write the same, are no other Redis.
    let same = [
        &OURS[1..],
        &["--set=cache=redis://you:other@127.0.0.1:9/3?protocol=resp3"],
    ]
    .concat();
    let (code, said) = run(&["export"], &url, &same);
    assert_eq!(code, Some(0), "{said}");

    let file = folder();
    let line = file.path().join("none.jsonl");
    std::fs::write(&line, "").expect("written");
    let import = ["import", Path::to_str(&line).expect("a name")];
    let commands: [&[&str]; 5] = [
        &["serve"],
        &["export"],
        &import,
        &["archive", "list"],
        &["archive", "sweep"],
    ];
    for (n, (other, says)) in [
        (
            "cache=redis://127.0.0.1:10/3",
            "cache is 127.0.0.1:10/3 here, and 127.0.0.1:9/3 for all",
        ),
        (
            "cache=redis://127.0.0.1:9/4",
            "cache is 127.0.0.1:9/4 here, and 127.0.0.1:9/3 for all",
        ),
        ("cache=none", "cache is none here, and 127.0.0.1:9/3 for all"),
        (
            "cache_prefix=theirs",
            "cache_prefix is theirs here, and ours for all",
        ),
        ("cache_lease_ms=500", "cache_lease_ms is 500 here, and 80 for all"),
        (
            "cache_absence_ms_max=9000",
            "cache_absence_ms_max is 9000 here, and 10000 for all",
        ),
        (
            "mongo_append_settle_ms=5",
            "mongo_append_settle_ms is 5 here, and 2000 for all",
        ),
        (
            "mongo_clocks_apart_ms_max=7",
            "mongo_clocks_apart_ms_max is 7 here, and 100 for all",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let set = format!("--set={other}");
        let flags = [&OURS[..], &[set.as_str()]].concat();
        // Every command with one of them, and the others with one.
        for command in &commands[..if n == 0 { commands.len() } else { 1 }] {
            let (code, said) = run(command, &url, &flags);
            assert_eq!(code, Some(1), "{command:?} {other}: {said}");
            assert!(said.contains(says), "{command:?} {other}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        for command in &["check", "init"][..if n == 0 { 2 } else { 1 }] {
            let (code, said) = run(&[command], &url, &flags);
            assert_eq!(code, Some(1), "{command} {other}: {said}");
            assert!(
                said.contains(&format!("WRONG     shared setting {says}")),
                "{command}: {said}"
            );
        }
    }
    let values = recorded(&url).await;
    assert!(!values.to_string().contains("hunter2"), "{values}");
    let (code, said) = run(&["check"], &url, &OURS);
    // The cache does not answer, and the store is as it was.
    assert!(
        said.contains("ok        shared settings: cache = 127.0.0.1:9/3, "),
        "{code:?} {said}"
    );
    let server = server(&url, &OURS).await;
    expect(server.post("/v1/sessions", &json!({"sessionId": "s"})), 201).await;
    assert!(server.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_is_changed_for_all_on_purpose_and_while_no_server_runs() {
    let url = engines::mongodb().await;
    init(&url, &OURS);
    let running = server(&url, &OURS).await;
    let changed = [&OURS[..], &["--set=cache_lease_ms=500"]].concat();
    // It takes the leases of its chores at its start.
    let leases = database(&url).await.collection::<Document>("leases");
    while leases.count_documents(doc! {}).await.expect("counted") == 0 {
        tokio::task::yield_now().await;
    }
    let change = [&changed[..], &["--change-settings"]].concat();
    let (code, said) = init(&url, &change);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("stop all of them before shared settings are changed"),
        "{said}"
    );
    assert!(running.stop().await.success());

    let (code, said) = init(&url, &change);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("done      shared setting cache_lease_ms = 500; it was 80"),
        "{said}"
    );
    assert!(
        !said.contains("cache_prefix"),
        "what was alike stays unsaid: {said}"
    );
    let (code, said) = run(&["export"], &url, &OURS);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("cache_lease_ms is 80 here, and 500 for all"),
        "{said}"
    );
    assert!(server(&url, &changed).await.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_recorded_is_recorded_by_the_next_init_and_no_reason_to_stop() {
    let url = engines::mongodb().await;
    init(&url, &OURS);
    // As a version left it that did not share this setting yet.
    let settings = database(&url).await.collection::<Document>("settings");
    let forget = doc! { "$unset": { "values.cache_prefix": "" } };
    settings.update_one(doc! {}, forget).await.expect("changed");
    let (code, said) = run(&["export"], &url, &OURS);
    assert_eq!(code, Some(0), "{said}");
    let (_, said) = run(&["check"], &url, &OURS);
    assert!(
        said.contains("outdated  shared setting cache_prefix = ours is not recorded yet"),
        "{said}"
    );
    let (code, said) = init(&url, &OURS);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("done      shared setting cache_prefix = ours"),
        "{said}"
    );
    // Without any record at all, a database is not prepared.
    settings.delete_many(doc! {}).await.expect("deleted");
    let (code, said) = run(&["export"], &url, &OURS);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("run `colloquy init`"), "{said}");
    let (code, said) = run(&["check"], &url, &OURS);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("missing   the settings that all processes share"),
        "{said}"
    );
}

/// An `init` of a version that speaks these protocols.
async fn init_of(url: &str, speaks: std::ops::RangeInclusive<u32>, narrow: bool) -> Report {
    let options = MongoOptions {
        pool_min: 0,
        ..MongoOptions::default()
    };
    let init = Init {
        chunks: CHUNKS_DEFAULT,
        drop_superseded: narrow,
        ours: Ours {
            speaks,
            ..Ours::default()
        },
        leave: Leave {
            change: false,
            narrow,
        },
    };
    mongo::initialise(url, &options, &init)
        .await
        .expect("initialised")
}

/// The binary here is the old version, and speaks protocol 1. The new one speaks 1 and 2.
#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_is_upgraded_without_stopping_all() {
    let url = engines::mongodb().await;
    init(&url, &OURS);
    let old = server(&url, &OURS).await;
    let both = init_of(&url, 1..=2, false).await;
    assert!(both.is_ready(), "{both}");
    assert!(both.to_string().contains("protocol = 1 to 2; it was 1"), "{both}");
    // Old processes go on, and may be started again, as in a rollback; their `init` takes nothing back.
    expect(old.post("/v1/sessions", &json!({"sessionId": "s"})), 201).await;
    let another = server(&url, &OURS).await;
    let (code, said) = init(&url, &OURS);
    assert_eq!(code, Some(0), "{said}");
    let again = init_of(&url, 1..=2, false).await;
    assert!(
        again.0.iter().all(|finding| finding.state == State::Fine),
        "{again}"
    );
    for server in [old, another] {
        assert!(server.stop().await.success());
    }
    let new_alone = init_of(&url, 1..=2, true).await;
    assert!(
        new_alone.to_string().contains("protocol = 2; it was 1 to 2"),
        "{new_alone}"
    );
    for command in [&["serve"][..], &["export"], &["init"], &["check"]] {
        let (code, said) = run(command, &url, &OURS);
        assert_eq!(code, Some(1), "{command:?}: {said}");
        assert!(
            said.contains("protocol is 1 here, and 2 for all"),
            "{command:?}: {said}"
        );
    }
    assert!(init_of(&url, 1..=2, false).await.is_ready());
    assert!(init_of(&url, 2..=3, false).await.is_ready());
    assert!(
        !init_of(&url, 4..=4, false).await.is_ready(),
        "it speaks what nobody else does"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_inits_at_once_agree_on_one_record() {
    let url = engines::mongodb().await;
    let of = |n: usize| {
        let url = url.clone();
        async move {
            let options = MongoOptions {
                pool_min: 0,
                ..MongoOptions::default()
            };
            let init = Init {
                chunks: CHUNKS_DEFAULT,
                ours: Ours {
                    values: [("cache_prefix", format!("p-{n}"))].into(),
                    ..Ours::default()
                },
                ..Init::default()
            };
            (
                n,
                mongo::initialise(&url, &options, &init)
                    .await
                    .expect("initialised"),
            )
        }
    };
    let reports = join_all((0..8).map(of)).await;
    let recorded = recorded(&url).await;
    let prefix = recorded
        .get_document("values")
        .expect("values")
        .get_str("cache_prefix")
        .expect("a value");
    for (n, report) in reports {
        assert_eq!(
            report.is_ready(),
            prefix == format!("p-{n}"),
            "{n} of {prefix}: {report}"
        );
    }
}
