//! An older backup of the database is restored beside a newer archive: nothing that was acknowledged is lost, whatever the
//! server does before somebody rebuilds, and what was erased stays erased.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use colloquy::store::mongo::{self, CHUNKS_DEFAULT, MongoOptions};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::{archive, turn};
use crate::{
    backends::Store,
    engines,
    harness::{Folder, Server, colloquy, expect, expect_problem, folder},
    mongo::{database, statements::watch},
    talk::{append_batch, event, events, open, session},
};

/// No chore by itself, so that the test says what happens when.
const QUIET: &str = "--set=archive_every=off";
/// A round at once, and none of what it may sweep is too young.
const ROUND: [&str; 2] = ["--set=archive_every=1h", "--set=archive_sweep_grace=0s"];

/// A store, an archive, and what has to be read there.
struct Drill {
    store: Store,
    folder: Arc<Folder>,
    /// Sessions by their ids, each with all events that were ever acknowledged.
    told: BTreeMap<String, Told>,
}

#[derive(Clone)]
struct Told {
    session: Value,
    events: Vec<Value>,
}

/// What is in the database, as a backup has it.
enum Backup {
    Files(Vec<(PathBuf, Vec<u8>)>),
    Documents(Vec<(&'static str, Vec<Document>)>),
}

impl Drill {
    fn new(store: Store) -> Self {
        Self {
            store,
            folder: folder(),
            told: BTreeMap::new(),
        }
    }

    async fn server(&self, flags: &[&str]) -> Server {
        let backends = self.store.flags(self.folder.path());
        Server::start_on(Arc::clone(&self.folder), &backends, flags).await
    }

    /// Runs `colloquy archive …` while no server does; gives what it printed, and whether it exited with 0.
    fn command(&self, words: &[&str]) -> (String, bool) {
        let flags = self.store.flags(self.folder.path());
        let output = colloquy().arg("archive").args(words).args(flags).output();
        let output = output.expect("colloquy runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (format!("{printed}{said}"), output.status.success())
    }

    fn succeed(&self, words: &[&str]) -> String {
        let (printed, good) = self.command(words);
        assert!(good, "archive {words:?}: {printed}");
        printed
    }

    /// The files of the embedded store, but for the archive.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("data")).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.is_file()).collect()
    }

    async fn back_up(&self) -> Backup {
        if self.store == Store::Embedded {
            let file = |path: PathBuf| (path.clone(), fs::read(path).expect("a file"));
            return Backup::Files(self.files().into_iter().map(file).collect());
        }
        let url = fs::read_to_string(self.folder.path().join("database-url")).expect("a URL");
        let mut collections = Vec::new();
        for name in ["sessions", "events", "archive_runs"] {
            let mut found = database(&url).await.collection(name).find(doc! {}).await.unwrap();
            let mut documents = Vec::new();
            while found.advance().await.unwrap() {
                documents.push(found.deserialize_current().unwrap());
            }
            collections.push((name, documents));
        }
        Backup::Documents(collections)
    }

    async fn bring_back(&self, backup: &Backup) {
        match backup {
            Backup::Files(files) => {
                for file in self.files() {
                    fs::remove_file(file).expect("it is gone");
                }
                for (path, bytes) in files {
                    fs::write(path, bytes).expect("it is back");
                }
            }
            Backup::Documents(collections) => {
                let url = engines::mongodb().await;
                let options = MongoOptions {
                    pool_min: 0,
                    ..MongoOptions::default()
                };
                mongo::init(&url, &options, CHUNKS_DEFAULT).await.unwrap();
                let database = database(&url).await;
                for (name, documents) in collections.iter().filter(|(_, all)| !all.is_empty()) {
                    let collection = database.collection::<Document>(name);
                    collection.insert_many(documents).await.unwrap();
                }
                watch(&database).await;
                fs::write(self.folder.path().join("database-url"), url).expect("the URL is kept");
            }
        }
    }

    /// Notes what has to be read from now on.
    async fn note(&mut self, server: &Server, ids: &[&str]) {
        for id in ids {
            let told = Told {
                session: session(server, id).await,
                events: events(server, id).await,
            };
            self.told.insert((*id).to_owned(), told);
        }
    }

    /// Every event that was ever acknowledged is read, once and as it was.
    async fn assert_events(&self, server: &Server, what: &str) {
        for (id, told) in &self.told {
            assert_eq!(events(server, id).await, told.events, "{what}: events of {id}");
            for event in &told.events {
                let path = format!("/v1/sessions/{id}/events/{}", event["eventId"].as_str().unwrap());
                assert_eq!(expect(server.get(&path), 200).await, *event, "{what}");
            }
        }
    }

    /// As [`Self::assert_events`], and the sessions are as they were.
    async fn assert_all(&self, server: &Server, what: &str) {
        self.assert_events(server, what).await;
        for (id, told) in &self.told {
            assert_eq!(session(server, id).await, told.session, "{what}: {id}");
        }
    }

    /// What is done once the database was rebuilt: late events are folded in, garbage goes, and all of it fits together.
    async fn assert_settles(&self, erased: &[&str]) {
        let server = self.server(&[QUIET]).await;
        self.assert_events(&server, "rebuilt").await;
        assert_erased(&server, erased).await;
        archive(&server).await;
        archive(&server).await;
        self.assert_events(&server, "folded").await;
        assert!(server.stop().await.success());
        self.succeed(&["rewrite"]);
        self.succeed(&["sweep", "--grace", "0s"]);
        self.succeed(&["verify"]);
        let again = self.succeed(&["rebuild"]);
        assert!(
            again.contains("sessions rebuilt: 0")
                && !again.contains("merged")
                && !again.contains("erased again"),
            "{again}"
        );
        let listed = self.succeed(&["list"]);
        assert!(listed.contains("still in the archive: 0"), "{listed}");
        let server = self.server(&[QUIET]).await;
        self.assert_events(&server, "swept").await;
        assert_erased(&server, erased).await;
        assert!(server.stop().await.success());
    }
}

async fn assert_erased(server: &Server, ids: &[&str]) {
    for id in ids {
        let read = server.get(&format!("/v1/sessions/{id}/events"));
        expect_problem(read, 410, "session-erased").await;
    }
}

async fn say(server: &Server, id: &str, turns: std::ops::Range<usize>) {
    let turns: Vec<Value> = turns.map(|at| turn(id, at)).collect();
    for outcome in append_batch(server, id, &turns).await {
        assert_eq!(outcome["outcome"], "created", "{outcome}");
    }
}

async fn end(server: &Server, id: &str) {
    expect(
        server.post(&format!("/v1/sessions/{id}/complete"), &json!({})),
        200,
    )
    .await;
}

async fn erase(server: &Server, id: &str) {
    let answer = server
        .delete(&format!("/v1/sessions/{id}"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 204);
}

async fn ended(server: &Server, id: &str, turns: usize) {
    open(server, id).await;
    say(server, id, 0..turns).await;
    end(server, id).await;
}

/// What was erased after the backup was made.
const ERASED: [&str; 2] = ["erased-hot", "erased-archived"];

/// Makes a backup, goes on, and gives the backup. At the backup a session goes on that ends later, one has ended, and some
/// are archived. After it all are archived; one is restored, changed and archived again; three are erased, and the bytes of
/// them taken out, for which others move.
async fn go_on_after_a_backup(drill: &mut Drill) -> Backup {
    let server = drill.server(&[QUIET]).await;
    for id in ["archived", "erased-archived", "neighbour"] {
        ended(&server, id, 5).await;
    }
    archive(&server).await;
    for id in ["ended", "erased-hot"] {
        ended(&server, id, 4).await;
    }
    open(&server, "goes-on").await;
    say(&server, "goes-on", 0..3).await;
    assert!(server.stop().await.success());
    let backup = drill.back_up().await;

    let server = drill.server(&[QUIET]).await;
    say(&server, "goes-on", 3..6).await;
    end(&server, "goes-on").await;
    for id in ["new", "erased-new"] {
        ended(&server, id, 3).await;
    }
    archive(&server).await;
    expect(server.post("/v1/sessions/archived/restore", &json!({})), 200).await;
    let patch = server.patch("/v1/sessions/archived", &json!({"language": "de"}));
    expect(patch, 200).await;
    archive(&server).await;
    for id in ["erased-hot", "erased-archived", "erased-new"] {
        erase(&server, id).await;
    }
    drill
        .note(&server, &["goes-on", "ended", "archived", "neighbour", "new"])
        .await;
    assert!(server.stop().await.success());
    drill.succeed(&["rewrite"]);
    drill.succeed(&["verify"]);
    backup
}

async fn a_round_and_a_rebuild_lose_nothing(store: Store) {
    let mut drill = Drill::new(store);
    let backup = go_on_after_a_backup(&mut drill).await;
    drill.bring_back(&backup).await;

    // A server of before the rebuild does its round, and says what is wrong.
    for _ in 0..2 {
        let server = drill.server(&ROUND).await;
        server.logged("sweeping the archive failed").await;
        assert!(
            server.log().contains("colloquy archive rebuild"),
            "{}",
            server.log()
        );
        assert_eq!(session(&server, "goes-on").await["status"], "active");
        assert!(server.stop().await.success());
    }
    let (swept, good) = drill.command(&["sweep", "--grace", "0s"]);
    assert!(!good && swept.contains("segments deleted: 0"), "{swept}");
    assert!(swept.contains("does not know, left alone"), "{swept}");

    for _ in 0..2 {
        drill.succeed(&["rebuild"]);
        let server = drill.server(&[QUIET]).await;
        drill.assert_all(&server, "rebuilt").await;
        assert_erased(&server, &ERASED).await;
        expect_problem(server.get("/v1/sessions/erased-new"), 404, "session-not-found").await;
        assert!(server.stop().await.success());
    }
    drill.assert_settles(&ERASED).await;
    let server = drill.server(&[QUIET]).await;
    drill.assert_all(&server, "in the end").await;
}

/// What the restored server was told, beside what its clients had told the one before.
async fn live_on(drill: &mut Drill, round: usize) {
    let server = drill.server(&[QUIET]).await;
    let later = 10 * round..10 * round + 2;
    say(&server, "goes-on", later.clone()).await;
    let later: Vec<Value> = {
        let all = events(&server, "goes-on").await;
        let ids: Vec<String> = later
            .map(|at| turn("goes-on", at)["eventId"].as_str().unwrap().to_owned())
            .collect();
        all.into_iter()
            .filter(|event| ids.iter().any(|id| event["eventId"] == **id))
            .collect()
    };
    end(&server, "goes-on").await;
    let told = &mut drill.told.get_mut("goes-on").expect("a session").events;
    told.extend(later);
    told.sort_by_key(|event| {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        (text("timestamp"), event["seq"].as_i64(), text("eventId"))
    });
    // It is taken for another one, by a store that has never heard of what was erased.
    open(&server, "erased-new").await;
    let other = event(&format!("after-{round}"));
    append_batch(&server, "erased-new", &[other]).await;
    end(&server, "erased-new").await;
    archive(&server).await;
    drill.note(&server, &["erased-new"]).await;
    assert!(server.stop().await.success());
    for words in [
        ["sweep", "--grace", "0s"].as_slice(),
        &["rewrite"],
        &["sweep", "--grace", "0s"],
    ] {
        drill.command(words);
    }
}

async fn a_server_that_lives_on_before_the_rebuild_loses_nothing(store: Store) {
    let mut drill = Drill::new(store);
    let backup = go_on_after_a_backup(&mut drill).await;
    for round in 1..=2 {
        // The second time, what the first one did is what the backup has never heard of.
        drill.bring_back(&backup).await;
        live_on(&mut drill, round).await;
        drill.succeed(&["rebuild"]);
        if round == 2 {
            // Of the two sessions that had this id one after the other, both are kept.
            let server = drill.server(&[QUIET]).await;
            drill.note(&server, &["erased-new"]).await;
            let ids: Vec<_> = drill.told["erased-new"]
                .events
                .iter()
                .map(|event| event["eventId"].clone())
                .collect();
            assert!(
                ids.contains(&json!("after-1")) && ids.contains(&json!("after-2")),
                "{ids:?}"
            );
            assert!(server.stop().await.success());
        }
        drill.assert_settles(&ERASED).await;
    }
}

macro_rules! on_each_store {
    ($($test:ident, $on_mongodb:ident: $drill:ident;)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                $drill(Store::Embedded).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $on_mongodb() {
                $drill(Store::MongoDb).await;
            }
        )+
    };
}

on_each_store! {
    an_older_backup_loses_nothing, an_older_backup_loses_nothing_on_mongodb: a_round_and_a_rebuild_lose_nothing;
    an_older_backup_that_was_written_to_loses_nothing, an_older_backup_that_was_written_to_loses_nothing_on_mongodb:
        a_server_that_lives_on_before_the_rebuild_loses_nothing;
}
