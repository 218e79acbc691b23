//! The reckoning: once all is quiet, every session that ended is in the archive and reads as the ledger says; nothing
//! is left over, neither events nor objects; and the archive alone is enough to read all of it in a store that is new.

use std::{collections::BTreeMap, sync::Arc};

use colloquy::{
    archive::segment::{EVENTS_PREFIX, MANIFESTS_PREFIX, SESSIONS_PREFIX},
    store::catalog::CATALOG_BATCH_MAX,
};
use serde_json::Value;

use super::{Fleet, Place, remains::hot_copies, until};
use crate::{
    archive::succeed,
    backends::Store,
    harness::{Folder, Server, expect, expect_problem, folder},
    ledger::{Facts, Ledger},
};

/// What a reader gets, byte by byte, page by page.
type Pages = Vec<String>;

/// Checks all of it, and says in words how much there was.
pub async fn reckon(fleet: Fleet, ledger: &Ledger) -> String {
    let server = fleet.living().next().expect("a server");
    let sessions = ledger.sessions();
    for (id, facts) in sessions.iter().filter(|(_, facts)| is_to_be_archived(facts)) {
        until(&format!("{id} is archived: {facts:?}"), async || {
            let path = format!("/v1/sessions/{id}?limit=1");
            expect(server.get(&path), 200).await["session"]["archived"] == true
        })
        .await;
    }
    let mut archived = BTreeMap::new();
    for (id, facts) in &sessions {
        let pages = check_session(server, ledger, id, facts).await;
        if is_to_be_archived(facts) {
            archived.insert(id.clone(), pages);
        }
    }
    let folder = fleet.stop().await;
    tidy_up(&folder, ledger).await;
    let segments = check_objects(&folder, archived.len()).await;
    rebuild(folder, &sessions, &archived).await;
    let events: usize = sessions.values().map(|facts| facts.events.len()).sum();
    format!(
        "{} sessions with {events} events sent, {} archived in {segments} segments",
        sessions.len(),
        archived.len()
    )
}

fn is_to_be_archived(facts: &Facts) -> bool {
    facts.has_ended() && !facts.erased
}

/// Checks a session against all that was acknowledged; gives its pages.
async fn check_session(server: &Server, ledger: &Ledger, id: &str, facts: &Facts) -> Pages {
    let path = format!("/v1/sessions/{id}");
    if facts.erased || !facts.opened {
        let (status, code) = match facts.erased {
            true => (410, "session-erased"),
            false => (404, "session-not-found"),
        };
        expect_problem(server.get(&path), status, code).await;
        expect_problem(server.get(&format!("{path}/events")), status, code).await;
        expect_problem(server.get(&format!("{path}/events/e-1")), status, code).await;
        return Vec::new();
    }
    let pages = read(server, id).await;
    let mut seen = Vec::new();
    for page in &pages {
        let mut page: Value = serde_json::from_str(page).expect("JSON");
        ledger.sees_session(facts, &page["session"]);
        if let Value::Array(events) = page["events"].take() {
            seen.extend(events);
        }
    }
    ledger.sees_all_events(facts, id, &seen);
    pages
}

async fn read(server: &Server, id: &str) -> Pages {
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = server.get(&format!("/v1/sessions/{id}?limit=100{cursor}")).send();
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), 200, "{id}");
        pages.push(answer.text().await.expect("a body"));
        let page: Value = serde_json::from_str(&pages[pages.len() - 1]).expect("JSON");
        match page["pagination"]["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return pages,
        }
    }
}

/// Lets the commands do what deaths and late events left to do.
async fn tidy_up(folder: &Folder, ledger: &Ledger) {
    until("archived sessions have no hot events", async || {
        let again = "--set=archive_tidy_again_after=0s";
        let words = succeed(folder, &["run", "--older-than", "0s", again]);
        let place = Place::open(folder).await;
        let hot = hot_copies(&place, ledger).await;
        let standings = place.catalog.standings(&hot).await.expect("the store");
        let untidy = place.catalog.untidy(CATALOG_BATCH_MAX).await.expect("the store");
        place.close().await;
        if !hot.is_empty() {
            println!("hot events are left of {standings:?}, to be looked at {untidy:?}, after {words}");
        }
        hot.is_empty()
    })
    .await;
    succeed(folder, &["sweep", "--grace", "0s"]);
    assert_good(&succeed(folder, &["verify"]));
    let rewritten = succeed(folder, &["rewrite"]);
    assert!(rewritten.contains("still there: 0"), "{rewritten}");
}

fn assert_good(verified: &str) {
    assert!(verified.contains("; faults: 0"), "{verified}");
}

/// Every object belongs to a segment that is whole and that pointers lead to, those of all archived sessions. Gives how many
/// segments there are.
async fn check_objects(folder: &Folder, archived: usize) -> usize {
    let place = Place::open(folder).await;
    let pointers = place.pointers().await;
    for prefix in [MANIFESTS_PREFIX, SESSIONS_PREFIX, EVENTS_PREFIX] {
        let segments: Vec<_> = place.segments(prefix).await.into_iter().collect();
        let pointed: Vec<_> = pointers.keys().cloned().collect();
        assert_eq!(segments, pointed, "{prefix}");
    }
    place.close().await;
    assert_eq!(pointers.values().sum::<u64>(), archived as u64);
    let verified = succeed(folder, &["verify"]);
    assert_good(&verified);
    let found = format!("segments: {}; sessions: {archived}; ", pointers.len());
    assert!(verified.contains(&found), "{verified}");
    pointers.len()
}

/// Rebuilds the store from the archive alone, and reads all sessions there.
async fn rebuild(
    folder: Arc<Folder>,
    sessions: &BTreeMap<String, Facts>,
    archived: &BTreeMap<String, Pages>,
) {
    let empty = emptied(folder);
    let words = succeed(&empty, &["rebuild"]);
    let rebuilt = format!("sessions rebuilt: {};", archived.len());
    assert!(words.contains(&rebuilt), "{words}");
    assert!(words.contains("; faults: 0"), "{words}");
    let server = Server::start_in(empty, &["--set=archive_every=off"]).await;
    for id in sessions.keys() {
        match archived.get(id) {
            Some(pages) => assert_eq!(read(&server, id).await, *pages, "{id}"),
            None => {
                let path = format!("/v1/sessions/{id}");
                expect_problem(server.get(&path), 404, "session-not-found").await;
            }
        }
    }
}

/// The archive of this folder, with a store that knows nothing.
fn emptied(lost: Arc<Folder>) -> Arc<Folder> {
    if Store::chosen() == Store::Embedded {
        for file in std::fs::read_dir(lost.path().join("data")).expect("the data") {
            let path = file.expect("a file").path();
            if path.is_file() {
                std::fs::remove_file(path).expect("it is lost");
            }
        }
        return lost;
    }
    let new = folder();
    std::fs::copy(lost.path().join("archive-url"), new.path().join("archive-url")).expect("a copy");
    new
}
