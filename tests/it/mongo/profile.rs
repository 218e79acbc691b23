//! Every use case, as the server saw it: each statement keeps the rule of `statements`, every kind of statement was
//! seen at work, and a page costs the same at any depth.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use colloquy::{
    cache::NoCache,
    domain::{
        Conversation, End, EventFilter, EventPosition, EventQuery, Expected, NewEvent, NewSession, Order,
        Session, SessionFilter, SessionPatch, SessionPosition, SessionQuery, Tenant,
    },
    service::{GroupLimits, Limits, PageQuery, Service},
    store::{
        Store,
        catalog::{Adopted, Archived, Catalog, Claim, Commit, Written},
        mongo,
    },
};
use mongodb::bson::Document;

use crate::{
    conformance::catalog::{
        LEASE, SHORT_LEASE, archive_as, claim, claims_ended, ended, ids, pointer, restore, segment,
    },
    engines,
};

use super::{
    append, at, event, everything, key, open,
    statements::{comment, faults, seen, watch},
    store,
};

/// What each statement of the request path says of itself.
const COMMENTS: [&str; 11] = [
    "colloquy: open",
    "colloquy: session",
    "colloquy: standing",
    "colloquy: patch",
    "colloquy: end",
    "colloquy: append",
    "colloquy: last seq",
    "colloquy: events",
    "colloquy: events by id",
    "colloquy: erase",
    "colloquy: listing",
];

pub fn service(store: std::sync::Arc<dyn colloquy::store::Store>) -> Service {
    let groups = GroupLimits {
        queue_events_max: 20_000,
        queue_bytes_max: 1 << 26,
        group_events_max: 1_000,
        group_bytes_max: 1 << 23,
        flush_slots: 2,
        stalled_after: Duration::from_secs(10),
        stalled_events_max: 1_000,
    };
    let tombstone = std::time::Duration::from_hours(24);
    Service::new(
        store,
        Arc::new(NoCache),
        Limits {
            page_payload_bytes_max: 1 << 22,
            cache_fills_max: 1,
            ready_wait_max: std::time::Duration::from_secs(2),
            tombstone,
            groups,
        },
    )
}

/// Every use case, every way of asking.
async fn use_everything(service: &Service) {
    let tenant = Tenant::default();
    let conversation = |n: usize| {
        let line = format!(
            r#"{{"session":{{"sessionId":"s-{n}","userId":"u-{}"}},"events":[{{"eventId":"a","type":"system","payload":{{}}}},{{"eventId":"b","type":"system","payload":{{"n":{n}}}}}]}}"#,
            n % 2
        );
        Conversation::read(line.as_bytes()).unwrap()
    };
    let opened = (0..12).map(|n| {
        let (service, tenant, one) = (service.clone(), tenant.clone(), conversation(n));
        tokio::spawn(async move {
            let key = super::key(one.id.as_str());
            for _ in 0..2 {
                let session = NewSession {
                    id: Some(one.id.clone()),
                    ..one.session.clone()
                };
                service.open(&tenant, session).await.unwrap();
                service.append_batch(&key, one.events.clone()).await.unwrap();
            }
            for event in one.events.clone() {
                service.append(&key, event).await.unwrap();
            }
            key
        })
    });
    let keys: Vec<_> = futures_util::future::join_all(opened)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let clash = NewEvent::read(br#"{"eventId":"a","type":"user_speech","payload":{}}"#, "").unwrap();
    let filters = [
        EventFilter::default(),
        EventFilter {
            event_type: Some("system".parse().unwrap()),
            since: Some(at(0)),
            until: Some(at(i64::from(i32::MAX) * 1_000)),
        },
    ];
    for key in &keys {
        assert!(service.append(key, clash.clone()).await.is_err());
        for (filter, order) in filters
            .iter()
            .flat_map(|filter| [Order::Ascending, Order::Descending].map(|order| (filter, order)))
        {
            let query = PageQuery {
                filter: filter.clone(),
                order,
                limit: "1".parse().unwrap(),
                ..PageQuery::default()
            };
            let page = service.events(key, &query).await.unwrap();
            let next = PageQuery {
                cursor: page.next_cursor.as_deref(),
                ..query
            };
            service.events(key, &next).await.unwrap();
        }
        service
            .read_session(key, &PageQuery::default(), crate::shown::render)
            .await
            .unwrap();
        service.event(key, &"a".parse().unwrap()).await.unwrap();
        assert!(service.event(key, &"missing".parse().unwrap()).await.is_err());
        let patch = SessionPatch::read(br#"{"metadata":{"a":1},"userId":null}"#).unwrap();
        service.update(key, &patch, &Expected::Any).await.unwrap();
    }
    for key in &keys[..6] {
        service.complete(key, &End::default()).await.unwrap();
        service.complete(key, &End::default()).await.unwrap();
        assert!(service.append(key, clash.clone()).await.is_err());
        service.erase(key).await.unwrap();
        service.erase(key).await.unwrap();
        assert!(service.append(key, clash.clone()).await.is_err());
    }
    assert!(
        service
            .complete(&super::key("missing"), &End::default())
            .await
            .is_err()
    );
    for (status, user) in [
        (None, None),
        (Some("active"), None),
        (None, Some("u-1")),
        (Some("active"), Some("u-1")),
    ] {
        let filter = SessionFilter {
            status: status.map(|status| status.parse().unwrap()),
            user_id: user.map(|user| user.parse().unwrap()),
            ..SessionFilter::default()
        };
        service
            .sessions(&tenant, filter, "2".parse().unwrap(), None)
            .await
            .unwrap();
    }
    service.upkeep().await.unwrap();
    service.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_statement_of_the_request_path_names_the_shard_key() {
    let url = engines::mongodb().await;
    mongo::init(&url, &super::options(), 1).await.unwrap();
    let (store, database) = (
        super::connect(&url, super::options()).await,
        super::database(&url).await,
    );
    let other = super::connect(&url, super::options()).await;
    watch(&database).await;
    use_everything(&service(store.clone())).await;
    // Another process knows no session, and asks for the last numbers.
    append(&other, event("s-11", "other", 1)).await.unwrap();
    let statements = seen(&database).await;
    assert_eq!(faults(&statements), [""; 0]);
    let comments: BTreeSet<_> = statements.iter().map(comment).collect();
    let unseen: Vec<_> = COMMENTS
        .iter()
        .filter(|comment| !comments.contains(**comment))
        .collect();
    assert!(unseen.is_empty(), "not seen at work: {unseen:?}");
    // What an update of several sessions says of itself, the profiler leaves out.
    let activated = |statement: &&Document| {
        let said = statement.get_document("command").unwrap();
        said.get_document("q")
            .is_ok_and(|filter| filter.get_str("status").is_ok_and(|status| status == "initiated"))
    };
    assert_eq!(statements.iter().filter(activated).count(), 12);
}

/// What each statement of the archive says of itself; updates of many sessions say nothing, and are counted by what
/// they ask for.
const OF_ARCHIVE: [&str; 15] = [
    "colloquy: archive listing",
    "colloquy: idle listing",
    "colloquy: claim",
    "colloquy: standing",
    "colloquy: delete archived",
    "colloquy: hot events",
    "colloquy: bring back",
    "colloquy: restored",
    "colloquy: adopt",
    "colloquy: session",
    "colloquy: last seq",
    "colloquy: end",
    "colloquy: erase",
    "colloquy: expire",
    "colloquy: open",
];

/// Every method of the catalog, on more sessions than a planner would scan.
async fn archive_everything(catalog: &Arc<dyn Catalog>) {
    let store: Arc<dyn Store> = catalog.clone();
    let keys: Vec<_> = (0..30).map(|n| key(&format!("s-{n}"))).collect();
    for key in &keys {
        ended(&store, key).await;
    }
    let events = super::events(&store, "s-0").await;
    let owner = segment();
    let claimed = catalog.claim(&keys, Claim::Hot, &owner, LEASE).await.unwrap();
    catalog.renew(&claimed, &owner, LEASE).await.unwrap();
    catalog
        .release(&claimed[20..], &owner, Written::Nothing)
        .await
        .unwrap();
    let commits = claimed[..20].iter().map(|claimed| Commit {
        key: claimed.key.clone(),
        epoch: claimed.epoch,
        version: claimed.version,
        pointer: pointer(&owner),
    });
    catalog
        .commit(&commits.collect::<Vec<_>>(), &owner)
        .await
        .unwrap();
    assert_eq!(catalog.due(at(1_000_000), 100).await.unwrap().len(), 10);
    let untidy = catalog.untidy(100).await.unwrap();
    assert_eq!(catalog.with_hot_events(&keys).await.unwrap().len(), untidy.len());
    for archived in &untidy {
        catalog
            .delete_archived(&archived.key, archived.epoch, &ids(&events))
            .await
            .unwrap();
    }
    catalog.tidied(&untidy, None).await.unwrap();
    // One whose restore was given up is claimed when its copies are deleted.
    let given_up = segment();
    let lapsed = claim(catalog, &keys[1], Claim::Archived, &given_up, SHORT_LEASE).await;
    catalog.bring_back(&keys[1], lapsed.epoch, &events).await.unwrap();
    claims_ended(catalog, &given_up).await;
    let deleted = catalog
        .delete_archived(&keys[1], lapsed.epoch, &ids(&events))
        .await;
    assert_eq!(deleted.unwrap(), events.len());
    restore(catalog, &keys[0], &events, 20_000).await;
    assert_eq!(catalog.segments(None, 10).await.unwrap(), [(owner.clone(), 19)]);
    catalog.standings(&keys).await.unwrap();
    for key in &keys[..4] {
        store.erase(key, at(99_000)).await.unwrap();
    }
    assert_eq!(catalog.pending().await.unwrap().sessions, 4);
    assert_eq!(catalog.unmarked(10).await.unwrap().len(), 4);
    catalog.marked(&keys[..4]).await.unwrap();
    assert_eq!(catalog.known(&owner, &keys).await.unwrap().len(), keys.len());
    assert_eq!(
        catalog.pointed_to(None, Some(&owner), 10).await.unwrap(),
        std::slice::from_ref(&owner)
    );
    assert!(catalog.residual(10).await.unwrap().contains(&owner));
    assert_eq!(catalog.walk(Some(&keys[7]), 5).await.unwrap().len(), 5);
    assert!(!catalog.affected(None, 10).await.unwrap().is_empty());
    let mut expiring = catalog.archived_in(&owner, 100).await.unwrap();
    assert_eq!(expiring.len(), 16);
    expiring.retain(|archived| keys[18..20].contains(&archived.key));
    assert_eq!(catalog.expire(&expiring, at(99_000)).await.unwrap(), [true, true]);
    catalog.forget_segment(&owner).await.unwrap();
    let stub = store.session(&keys[5]).await.unwrap();
    for (n, id) in ["found", "s-5"].into_iter().enumerate() {
        let found = Archived {
            key: key(id),
            epoch: 9 + n as i64,
            pointer: pointer(&segment()),
        };
        catalog
            .adopt(
                &found,
                &Session {
                    id: id.parse().unwrap(),
                    ..stub.clone()
                },
            )
            .await
            .unwrap();
        catalog.adopt_erased(&found, at(8_000), at(9_000)).await.unwrap();
    }
    let (hot, merging) = (&keys[25], segment());
    let again = Archived {
        key: hot.clone(),
        epoch: 1,
        pointer: pointer(&segment()),
    };
    let newer = Session {
        id: hot.id.clone(),
        ..stub.clone()
    };
    assert_eq!(catalog.adopt(&again, &newer).await.unwrap(), Adopted::Moved);
    let claimed = claim(catalog, hot, Claim::Archived, &merging, LEASE).await;
    let other = Archived {
        pointer: pointer(&segment()),
        ..again
    };
    let merged = catalog.merge(&claimed, &merging, &other, &newer, true).await;
    assert!(merged.unwrap());
    let older = catalog.erase_older(hot, at(9_000_000_000_000), at(9_000)).await;
    assert!(older.unwrap());
    open(&store, "idle").await;
    append(&store, event("idle", "e", 1)).await.unwrap();
    let idle = store
        .find_idle(at(900_000), at(960_000), 10)
        .await
        .unwrap()
        .sessions;
    let ended = store.end_idle(&idle[0], "idle", at(1_000_000)).await;
    assert!(ended.unwrap().is_some());
    store.upkeep(at(1_000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_statement_of_the_archive_but_its_listings_names_the_shard_key() {
    let url = engines::mongodb().await;
    mongo::init(&url, &super::options(), 1).await.unwrap();
    let (catalog, database) = (
        super::catalog(&url, super::options()).await,
        super::database(&url).await,
    );
    watch(&database).await;
    archive_everything(&catalog).await;
    let statements = seen(&database).await;
    assert_eq!(faults(&statements), [""; 0]);
    let comments: BTreeSet<_> = statements.iter().map(comment).collect();
    let unseen: Vec<_> = OF_ARCHIVE
        .iter()
        .filter(|comment| !comments.contains(**comment))
        .collect();
    assert!(unseen.is_empty(), "not seen at work: {unseen:?}");
    // What changes one document looks for no other.
    let is_one = |statement: &&Document| {
        statement.get_str("op").is_ok_and(|op| op == "update") && comment(statement).is_empty()
    };
    for statement in statements.iter().filter(is_one) {
        let docs = statement.get("docsExamined").and_then(|docs| docs.as_i32());
        assert!(docs.is_none_or(|docs| docs <= 1), "{statement}");
    }
}

/// Nearly every session is archived in the end, and most of those that are looked at again are so later.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_not_to_be_done_now_costs_nothing() {
    let url = engines::mongodb().await;
    mongo::init(&url, &super::options(), 1).await.unwrap();
    let (catalog, database) = (
        super::catalog(&url, super::options()).await,
        super::database(&url).await,
    );
    let store: Arc<dyn Store> = catalog.clone();
    for n in 0..40 {
        let key = key(&format!("s-{n}"));
        ended(&store, &key).await;
        let archived = archive_as(&catalog, &key, Claim::Hot).await;
        catalog.tidied(&[archived], Some(LEASE)).await.unwrap();
    }
    watch(&database).await;
    assert_eq!(catalog.untidy(100).await.unwrap(), []);
    assert_eq!(catalog.due(at(1_000_000), 100).await.unwrap(), []);
    let keys = costs(&seen(&database).await)["colloquy: archive listing"];
    assert!(keys <= 1, "{keys} keys");
}

/// The greatest number of index keys that one statement with each comment looked at.
fn costs(statements: &[Document]) -> BTreeMap<String, i64> {
    let mut costs = BTreeMap::new();
    for statement in statements {
        let keys = statement
            .get("keysExamined")
            .and_then(|keys| keys.as_i64().or(keys.as_i32().map(i64::from)));
        let most = costs.entry(comment(statement)).or_insert(0);
        *most = keys.unwrap_or(0).max(*most);
    }
    costs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_page_costs_the_same_at_any_depth() {
    let (store, database) = store().await;
    open(&store, "s").await;
    // One timestamp for all, so that only the number tells where a page begins.
    for batch in 0..4 {
        let batch = (0..500).map(|n| event("s", &format!("e-{batch}-{n}"), batch * 500 + n));
        store.append(batch.collect()).await.unwrap();
    }
    for n in 0..300 {
        let session = Session::opened(NewSession::default(), format!("t-{n}").parse().unwrap(), at(7));
        store.open(&Tenant::default(), session, at(7)).await.unwrap();
    }
    let all = super::events(&store, "s").await;
    watch(&database).await;
    for order in [Order::Ascending, Order::Descending] {
        let after = all[250].clone();
        let query = EventQuery {
            after: Some(EventPosition::from(&after)),
            limit: "10".parse().unwrap(),
            ..everything(order)
        };
        assert_eq!(store.events(&key("s"), &query).await.unwrap().items.len(), 10);
    }
    let after = SessionPosition {
        started_at: at(7),
        id: "t-150".parse().unwrap(),
    };
    let query = SessionQuery {
        filter: SessionFilter::default(),
        after: Some(after),
        limit: "10".parse().unwrap(),
    };
    assert_eq!(
        store
            .sessions(&Tenant::default(), &query)
            .await
            .unwrap()
            .items
            .len(),
        10
    );
    append(&store, event("s", "one-more", 9_999)).await.unwrap();

    let costs = costs(&seen(&database).await);
    for (statement, most) in [("events", 13), ("listing", 13), ("standing", 1)] {
        let keys = costs[&format!("colloquy: {statement}")];
        assert!((1..=most).contains(&keys), "{statement}: {keys} keys");
    }
}
