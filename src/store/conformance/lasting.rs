//! What is stored stays: apart from other tenants', byte for byte, and after a restart.

use std::sync::Arc;

use colloquy::{
    domain::{End, Kind, Session, SessionFilter, SessionKey, Tenant, event::PAYLOAD_BYTES_MAX},
    store::Store,
};

use super::{
    AppendExt, Subject, all_events, append, at, event, everything, key, kind, listing, object, open, session,
    store_event, the,
};

pub async fn tenants_never_meet(subject: &dyn Subject) {
    let store = subject.store().await;
    // Names that would run together in a key made without care.
    let ours = SessionKey::new(the("a"), the("s"));
    let others = [("b", "s"), ("a-", "s"), ("a.s", "s"), ("a", "a.s"), ("A", "s")];
    let others = others.map(|(tenant, id)| SessionKey::new(the(tenant), the(id)));
    open(&store, &ours).await;
    store_event(&store, event(&ours, "e")).await;
    for theirs in &others {
        assert_untouched(&store, theirs).await;
    }
    for theirs in &others {
        open(&store, theirs).await;
        assert_eq!(all_events(&store, theirs).await, []);
        let clash = event(theirs, "e").holding(r#"{"theirs":true}"#);
        store_event(&store, clash).await;
        let patch = colloquy::domain::SessionPatch {
            user_id: Some(Some(the("theirs"))),
            ..Default::default()
        };
        let patched = store.patch(theirs, &patch, &Default::default()).await;
        patched.unwrap();
        store.end(theirs, &End::default(), at(9)).await.unwrap();
        store.erase(theirs, at(99_000)).await.unwrap();
    }
    assert_eq!(all_events(&store, &ours).await.len(), 1);
    assert_eq!(store.session(&ours).await.unwrap().version, 2);
    store_event(&store, event(&ours, "f")).await;
    let listed = listing::walk(&store, &the("a"), &SessionFilter::default(), the("1")).await;
    assert_eq!(listed.len(), 1);
}

async fn assert_untouched(store: &Arc<dyn Store>, key: &SessionKey) {
    let not_found = Kind::SessionNotFound;
    assert_eq!(kind(store.session(key).await), not_found);
    assert_eq!(kind(store.events(key, &everything()).await), not_found);
    let both = store.session_with_events(key, &everything()).await;
    assert_eq!(kind(both), not_found);
    assert_eq!(kind(store.event(key, &the("e")).await), not_found);
    assert_eq!(kind(append(store, event(key, "e")).await), not_found);
    store.erase(key, at(99_000)).await.unwrap();
    if key.tenant != the("a") {
        let filter = SessionFilter::default();
        let listed = listing::walk(store, &key.tenant, &filter, the("500")).await;
        assert_eq!(listed, []);
    }
}

const AWKWARD: &[&str] = &[
    "{}",
    r#"{"":""}"#,
    r#"{"z":1,"a":2,"m":{"z":1,"a":2},"10":1,"9":2}"#,
    r#"{"$set":{"$where":1},"a.b":1,".":2,"$":3,"_id":4,"__proto__":5}"#,
    r#"{"nul":"a\u0000b","controls":"\u0001\u001f\u007f","quotes":"\"\\/"}"#,
    r#"{"unicode":"é ü 漢字 🙂 \u2028 \u202e א","é🙂":"e\u0301"}"#,
    r#"{"max":9223372036854775807,"min":-9223372036854775808,"2^53+1":9007199254740993}"#,
    r#"{"floats":[0.1,-0.0,1e308,5e-324,1.7976931348623157e308,1.0,3.141592653589793]}"#,
    r#"{"small":[0,-1,2147483647,2147483648,-2147483649,4294967296]}"#,
    r#"{"nothing":[null,true,false,[],{},[[]],[{}]]}"#,
    r#"{"dates":"2026-01-01T00:00:00Z","oid":{"$oid":"507f1f77bcf86cd799439011"}}"#,
    r#"{"typed":{"$numberLong":"1"},"d":{"$date":0},"n":{"$numberDouble":"NaN"}}"#,
];

pub async fn what_is_stored_comes_back_byte_for_byte(subject: &dyn Subject) {
    let store = subject.store().await;
    for (n, text) in AWKWARD.iter().enumerate() {
        let key = key(&format!("s-{n}"));
        let given = object(text);
        let new = Session {
            metadata: given.clone(),
            ..session(key.id.as_str())
        };
        store.open(&key.tenant, new, at(1)).await.unwrap();
        let metadata = store.session(&key).await.unwrap().metadata;
        assert_eq!(metadata.as_str(), given.as_str());

        let one = event(&key, "e").holding(text);
        let stored = store_event(&store, one.clone()).await;
        let read = store.event(&key, &the("e")).await.unwrap().event.unwrap();
        assert_eq!(stored.payload.as_str(), given.as_str());
        assert_eq!(read.payload.as_str(), given.as_str());
        assert_eq!(all_events(&store, &key).await, std::slice::from_ref(&read));
        let replay = append(&store, one).await.unwrap();
        assert!(replay.replayed);
        assert_eq!(replay.event.payload.as_str(), given.as_str());
    }
}

pub async fn the_largest_payload_and_the_deepest_fit(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let frame = r#"{"text":""}"#.len();
    let largest = format!(r#"{{"text":"{}"}}"#, "x".repeat(PAYLOAD_BYTES_MAX - frame));
    let deepest = format!("{}1{}", r#"{"a":"#.repeat(64), "}".repeat(64));
    let arrays = format!(r#"{{"a":{}{}}}"#, "[".repeat(63), "]".repeat(63));
    for (id, text) in [("large", &largest), ("deep", &deepest), ("arrays", &arrays)] {
        let stored = store_event(&store, event(&key, id).holding(text)).await;
        assert_eq!(stored.payload.as_str(), text);
        let read = store.event(&key, &the(id)).await.unwrap().event.unwrap();
        assert_eq!(read, stored);
        assert!(
            append(&store, event(&key, id).holding(text))
                .await
                .unwrap()
                .replayed
        );
    }
    assert_eq!(all_events(&store, &key).await.len(), 3);
}

pub async fn a_closed_store_is_unavailable(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    store.close().await;
    let unavailable = Kind::Unavailable;
    let opened = store.open(&key.tenant, session("t"), at(1)).await;
    assert_eq!(kind(opened), unavailable);
    assert_eq!(kind(store.session(&key).await), unavailable);
    let listed = store
        .sessions(
            &key.tenant,
            &colloquy::domain::SessionQuery {
                filter: SessionFilter::default(),
                after: None,
                limit: the("1"),
            },
        )
        .await;
    assert_eq!(kind(listed), unavailable);
    let patched = store.patch(&key, &Default::default(), &Default::default()).await;
    assert_eq!(kind(patched), unavailable);
    let ended = store.end(&key, &End::default(), at(1)).await;
    assert_eq!(kind(ended), unavailable);
    assert_eq!(kind(store.erase(&key, at(1)).await), unavailable);
    assert_eq!(kind(append(&store, event(&key, "e")).await), unavailable);
    assert_eq!(kind(store.events(&key, &everything()).await), unavailable);
    let both = store.session_with_events(&key, &everything()).await;
    assert_eq!(kind(both), unavailable);
    assert_eq!(kind(store.event(&key, &the("e")).await), unavailable);
    assert_eq!(kind(store.ping().await), unavailable);
    assert_eq!(kind(store.upkeep(at(1)).await), unavailable);
    store.close().await;
}

pub async fn what_was_acknowledged_is_there_after_reopening(subject: &dyn Subject) {
    let store = subject.store().await;
    for id in ["live", "ended", "erased"] {
        open(&store, &key(id)).await;
        for n in 0..10 {
            store_event(&store, event(&key(id), &format!("e-{n}"))).await;
        }
    }
    store.end(&key("ended"), &End::default(), at(9)).await.unwrap();
    store.erase(&key("erased"), at(10_000)).await.unwrap();
    let events = all_events(&store, &key("live")).await;
    let ended = store.session(&key("ended")).await.unwrap();
    // Some while it closes: told that it is stored, or told that it is not.
    let racing = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                match append(&store, event(&key("live"), &format!("late-{n}"))).await {
                    Ok(appended) => acknowledged.push(appended.event),
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Unavailable);
                        return acknowledged;
                    }
                }
            }
            acknowledged
        })
    };
    store.close().await;
    let acknowledged = racing.await.unwrap();

    let store = subject.store().await;
    let read = all_events(&store, &key("live")).await;
    assert!(events.iter().all(|event| read.contains(event)));
    assert!(acknowledged.iter().all(|event| read.contains(event)));
    assert_eq!(store.session(&key("ended")).await.unwrap(), ended);
    assert_eq!(kind(store.session(&key("erased")).await), Kind::SessionErased);
    let replay = append(&store, event(&key("ended"), "e-3")).await.unwrap();
    assert!(replay.replayed);
    let next = store_event(&store, event(&key("live"), "next")).await;
    assert!(read.iter().all(|event| event.seq < next.seq));
    let filter = SessionFilter::default();
    let listed = listing::walk(&store, &Tenant::default(), &filter, the("500")).await;
    assert_eq!(listed.len(), 2);
}

pub async fn a_store_in_service_answers_a_ping(subject: &dyn Subject) {
    let store = subject.store().await;
    store.ping().await.unwrap();
}
