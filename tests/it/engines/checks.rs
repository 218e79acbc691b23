//! The engines do what the tests of Colloquy rely on: they answer, die, come back and leave nothing behind.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mongodb::{
    Client,
    bson::{Document, doc},
};
use reqwest::{Method, StatusCode};

use super::{
    Bucket, Engine, Redis, ReplicaSet, Seaweed,
    process::{PATIENCE, binary},
};
use crate::harness::http;

#[tokio::test]
async fn mongod_keeps_across_kill_9_what_it_acknowledged_and_leaves_nothing_behind() {
    let mut set = timed("mongod, one member", ReplicaSet::start(1)).await;
    let client = client(&set.url()).await;
    let events = client.database("test").collection::<Document>("events");
    events.insert_one(doc! {"_id": 1}).await.expect("inserted");

    set.kill_primary().await;
    assert_eq!(set.primary().await, None);
    timed("mongod, restart after kill -9", set.restart(0)).await;

    let found = events.find_one(doc! {"_id": 1}).await.expect("an answer");
    assert!(found.is_some());
    events.insert_one(doc! {"_id": 2}).await.expect("inserted");
    let mongod = traces(set.member(0));
    drop(set);
    assert_gone(&mongod);
}

#[tokio::test]
async fn three_members_elect_a_new_primary_after_kill_9_of_the_first() {
    let mut set = timed("mongod, three members", ReplicaSet::start(3)).await;
    let client = client(&set.url()).await;
    let events = client.database("test").collection::<Document>("events");
    events.insert_one(doc! {"_id": 1}).await.expect("inserted");

    let killed = set.kill_primary().await;
    let elected = timed("mongod, new primary after kill -9", set.wait_primary()).await;

    assert_ne!(killed, elected);
    assert_eq!(events.count_documents(doc! {}).await.expect("an answer"), 1);
    events.insert_one(doc! {"_id": 2}).await.expect("inserted");
    timed("mongod, killed member back", set.restart(killed)).await;
    set.wait_all().await;
    let members: Vec<_> = (0..3).map(|member| traces(set.member(member))).collect();
    drop(set);
    members.iter().for_each(assert_gone);
}

#[tokio::test]
async fn a_paused_primary_is_replaced_and_follows_when_it_wakes() {
    let mut set = ReplicaSet::start(3).await;
    let paused = set.wait_primary().await;

    set.member(paused).stop_signal();
    let elected = timed("mongod, new primary after SIGSTOP", set.wait_primary()).await;
    set.member(paused).continue_signal();
    set.wait_all().await;

    assert_ne!(paused, elected);
}

#[tokio::test]
async fn a_mongod_fails_commands_on_request() {
    let mut set = ReplicaSet::start(1).await;
    let fail_once = doc! {
        "configureFailPoint": "failCommand",
        "mode": {"times": 1},
        "data": {"failCommands": ["find"], "errorCode": 11_600},
    };
    let member = set.member(0);
    member
        .command("admin", fail_once)
        .await
        .expect("the failpoint is set");

    let find = doc! {"find": "events"};
    let failed = member.command("test", find.clone()).await;

    assert!(failed.is_err_and(|error| error.to_string().contains("11600")));
    assert!(member.command("test", find).await.is_ok());
}

#[tokio::test]
async fn redis_is_empty_after_kill_9_and_leaves_nothing_behind() {
    let mut redis = timed("redis", Redis::start()).await;
    assert_eq!(redis.ask("SET key value").await.expect("an answer"), "+OK\r\n");
    assert_eq!(redis.ask("GET key").await.expect("an answer"), "$5\r\nvalue\r\n");

    redis.kill9();
    assert!(redis.ask("GET key").await.is_err());
    timed("redis, restart after kill -9", redis.restart()).await;

    assert_eq!(redis.ask("GET key").await.expect("an answer"), "$-1\r\n");
    let trace = traces(&mut redis);
    drop(redis);
    assert_gone(&trace);
}

#[tokio::test]
async fn a_paused_redis_says_nothing_until_it_is_continued() {
    let mut redis = Redis::start().await;
    redis.stop_signal();
    assert!(redis.ask("PING").await.is_err());
    redis.continue_signal();
    assert_eq!(redis.ask("PING").await.expect("an answer"), "+PONG\r\n");
}

#[tokio::test]
async fn redis_takes_options_and_ends_on_sigterm() {
    let options = ["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"];
    let mut redis = Redis::start_with(&options).await;
    let policy = redis.ask("CONFIG GET maxmemory-policy").await.expect("an answer");
    assert!(policy.contains("allkeys-lru"), "{policy}");
    assert!(redis.process().terminate().await.success());
}

#[tokio::test]
async fn seaweed_keeps_objects_across_kill_9_and_leaves_nothing_behind() {
    let mut seaweed = timed("seaweed", Seaweed::start()).await;
    let bucket = seaweed.bucket().clone();
    assert_eq!(send(&bucket, Method::PUT, "a/b").await, StatusCode::OK);
    assert_eq!(send(&bucket, Method::GET, "a/b").await, StatusCode::OK);

    seaweed.kill9();
    timed("seaweed, restart after kill -9", seaweed.restart()).await;

    assert_eq!(send(&bucket, Method::GET, "a/b").await, StatusCode::OK);
    assert_eq!(send(&bucket, Method::GET, "a/c").await, StatusCode::NOT_FOUND);
    let trace = traces(&mut seaweed);
    drop(seaweed);
    assert_gone(&trace);
}

#[tokio::test]
async fn seaweed_honours_conditions_and_refuses_wrong_signatures() {
    let bucket = super::s3().await;
    let put_new = || {
        let request = bucket.request(&http().build().unwrap(), Method::PUT, "new");
        request.header("if-none-match", "*").body("text").send()
    };
    assert_eq!(put_new().await.expect("an answer").status(), StatusCode::OK);
    let again = put_new().await.expect("an answer").status();
    assert_eq!(again, StatusCode::PRECONDITION_FAILED);

    let forged = Bucket {
        secret_key: "wrong".to_owned(),
        ..bucket
    };
    assert_eq!(send(&forged, Method::GET, "new").await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn every_test_has_places_of_its_own_on_the_shared_engines() {
    let (one, two) = (super::mongodb().await, super::mongodb().await);
    assert_ne!(one, two);
    let (one, two) = (client(&one).await, client(&two).await);
    let events = |client: &Client| {
        let database = client.default_database().expect("a database in the URL");
        database.collection::<Document>("events")
    };
    events(&one).insert_one(doc! {"_id": 1}).await.expect("inserted");
    events(&two).insert_one(doc! {"_id": 1}).await.expect("inserted");

    assert_ne!(super::redis().await, super::redis().await);
    let (one, two) = (super::s3().await, super::s3().await);
    assert_ne!(one.url(), two.url());
    assert_eq!(send(&one, Method::PUT, "x").await, StatusCode::OK);
    assert_eq!(send(&two, Method::GET, "x").await, StatusCode::NOT_FOUND);
}

#[test]
fn the_shared_engines_can_be_elsewhere() {
    for (url, with_database) in [
        ("mongodb://a:1,b:2", "mongodb://a:1,b:2/mine?"),
        ("mongodb://a:1/", "mongodb://a:1/mine?"),
        (
            "mongodb://u:p@a:1/db?replicaSet=r",
            "mongodb://u:p@a:1/mine?replicaSet=r",
        ),
    ] {
        assert_eq!(super::with_database(url, "mine"), with_database);
    }
    let bucket = super::bucket("http://key:secret@127.0.0.1:9000/tests");
    assert_eq!(bucket.endpoint, "http://127.0.0.1:9000");
    assert_eq!(
        (bucket.access_key.as_str(), bucket.secret_key.as_str()),
        ("key", "secret")
    );
    assert_eq!(bucket.bucket, "tests");
}

#[tokio::test]
async fn an_engine_whose_port_was_taken_starts_on_another() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let taken = taken.local_addr().expect("an address").port();
    let elsewhere = |url: &str| assert!(!url.contains(&format!(":{taken}")), "{url}");

    elsewhere(&Redis::start_on(taken, &[]).await.url());
    elsewhere(&ReplicaSet::start_on(taken, 1).await.url());
    elsewhere(Seaweed::start_on(taken).await.url());
}

#[test]
#[should_panic(expected = "run `make engines`")]
fn a_missing_engine_says_how_to_get_it() {
    binary(Path::new("/nowhere"), "mongod");
}

/// In a test process of its own, so that it can be killed.
#[test]
fn no_engine_outlives_a_test_run_that_was_killed() {
    let mut run = Command::new(std::env::current_exe().expect("this binary"))
        .args([
            "engines::checks::a_test_run_to_be_killed",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env("COLLOQUY_TEST_RUN_TO_BE_KILLED", "yes")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test binary starts");
    let words = BufReader::new(run.stdout.take().expect("its words"));
    let engines: Vec<Trace> = words
        .lines()
        .map(|line| line.expect("text"))
        .skip_while(|line| !line.ends_with("engines:"))
        .skip(1)
        .map_while(|line| {
            let (pid, folder) = line.split_once(' ')?;
            Some(Trace {
                pid: pid.parse().ok()?,
                folder: PathBuf::from(folder),
            })
        })
        .take(3)
        .collect();
    assert_eq!(engines.len(), 3);
    assert!(engines.iter().all(Trace::is_there));

    run.kill().expect("the test run is killed");
    run.wait().expect("the test run is gone");

    let killed = Instant::now();
    while engines.iter().any(Trace::is_there) {
        assert!(killed.elapsed() < PATIENCE, "an engine outlives its test run");
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!(
        "{:>6} ms: all gone after kill -9 of the test run",
        killed.elapsed().as_millis()
    );
}

#[tokio::test]
#[ignore = "waits to be killed by another test"]
async fn a_test_run_to_be_killed() {
    if std::env::var_os("COLLOQUY_TEST_RUN_TO_BE_KILLED").is_none() {
        return;
    }
    let (mut running, mut paused) = (Redis::start().await, Redis::start().await);
    let mut set = ReplicaSet::start(1).await;
    paused.stop_signal();
    println!("engines:");
    for trace in [traces(&mut running), traces(&mut paused), traces(set.member(0))] {
        println!("{} {}", trace.pid, trace.folder.display());
    }
    tokio::time::sleep(PATIENCE).await;
}

/// What shows that an engine is, or was, there.
struct Trace {
    pid: u32,
    folder: PathBuf,
}

impl Trace {
    fn is_there(&self) -> bool {
        // A process that was killed and that nobody waited for is gone enough: it has no command line any more.
        let command = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        !command.is_empty() || self.folder.exists()
    }
}

fn traces(engine: &mut impl Engine) -> Trace {
    let process = engine.process();
    Trace {
        pid: process.pid(),
        folder: process.folder().to_owned(),
    }
}

fn assert_gone(trace: &Trace) {
    assert!(!trace.is_there(), "{} is still there", trace.pid);
}

async fn client(url: &str) -> Client {
    Client::with_uri_str(url).await.expect("a client")
}

async fn send(bucket: &Bucket, method: Method, key: &str) -> StatusCode {
    let request = bucket.request(&http().build().unwrap(), method, key);
    request.send().await.expect("an answer").status()
}

/// Says how long it took; `cargo test -- engines --nocapture` shows it.
async fn timed<T>(what: &str, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let done = work.await;
    eprintln!("{:>6} ms: {what}", started.elapsed().as_millis());
    done
}
