//! Appending, one call at a time: outcomes, order, sequence numbers.

use colloquy::domain::{End, Event, Kind, Status};

use super::{AppendExt, Subject, all_events, append, at, event, key, kind, object, open, store_event, the};

pub async fn an_event_comes_back_as_it_was_given(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let given = event(&key, "e")
        .of_type("tool.call-2")
        .holding(r#"{"z":1,"a":[{}]}"#)
        .stamped(-5)
        .proposing(77);
    let stored = store_event(&store, given).await;
    let expected = Event {
        id: the("e"),
        session: the("s"),
        seq: 77,
        event_type: the("tool.call-2"),
        payload: object(r#"{"z":1,"a":[{}]}"#),
        timestamp: at(-5),
    };
    assert_eq!(stored, expected);
    assert_eq!(all_events(&store, &key).await, [expected]);
}

pub async fn a_replay_is_told_by_type_and_payload_alone(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let first = event(&key, "e").holding(r#"{"a":1,"b":[1.0,{"c":2,"d":3}]}"#);
    let stored = store_event(&store, first.clone()).await;
    for again in [
        first.clone(),
        first.clone().stamped(99),
        first.clone().proposing(99),
        first.clone().holding(r#"{"b":[1,{"d":3.0,"c":2e0}],"a":1.0}"#),
    ] {
        let appended = append(&store, again).await.unwrap();
        assert!(appended.replayed);
        assert_eq!(appended.event, stored);
    }
    assert_eq!(all_events(&store, &key).await, [stored]);
}

pub async fn an_id_with_another_type_or_payload_is_refused(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let first = event(&key, "e").holding(r#"{"a":[1,2]}"#);
    let stored = store_event(&store, first.clone()).await;
    for other in [
        first.clone().of_type("bot_speech"),
        first.clone().holding(r#"{"a":[2,1]}"#),
        first.clone().holding(r#"{"a":[1,2],"b":null}"#),
        first.clone().holding("{}"),
    ] {
        assert_eq!(kind(append(&store, other).await), Kind::EventIdReused);
    }
    assert_eq!(all_events(&store, &key).await, [stored]);
}

pub async fn an_append_to_no_session_is_refused(subject: &dyn Subject) {
    let store = subject.store().await;
    let appended = append(&store, event(&key("s"), "e")).await;
    assert_eq!(kind(appended), Kind::SessionNotFound);
    open(&store, &key("s")).await;
    assert_eq!(all_events(&store, &key("s")).await, []);
}

pub async fn an_ended_session_replays_but_takes_nothing_new(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let stored = store_event(&store, event(&key, "e")).await;
    let ended = store.end(&key, &End::default(), at(9)).await.unwrap();
    let replay = append(&store, event(&key, "e").stamped(7)).await.unwrap();
    assert!(replay.replayed);
    assert_eq!(replay.event, stored);
    let clash = append(&store, event(&key, "e").holding("{}")).await;
    assert_eq!(kind(clash), Kind::EventIdReused);
    let new = append(&store, event(&key, "f")).await;
    assert_eq!(kind(new), Kind::SessionEnded);
    assert_eq!(all_events(&store, &key).await, [stored]);
    assert_eq!(store.session(&key).await.unwrap(), ended);
}

pub async fn the_first_event_makes_a_session_active(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    let opened = open(&store, &key).await;
    assert_eq!(opened.status, Status::Initiated);
    // An event that is refused is not the first.
    let bad = store.append(vec![event(&super::key("missing"), "e")]).await;
    assert!(bad.unwrap()[0].is_err());
    assert_eq!(store.session(&key).await.unwrap(), opened);

    store_event(&store, event(&key, "e")).await;
    let active = store.session(&key).await.unwrap();
    assert_eq!(active.status, Status::Active);
    assert_eq!(active.version, opened.version + 1);

    store_event(&store, event(&key, "f")).await;
    append(&store, event(&key, "e")).await.unwrap();
    assert_eq!(store.session(&key).await.unwrap(), active);
}

pub async fn seq_is_the_one_proposed_unless_it_must_be_greater(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let first = event(&key, "min").proposing(i64::MIN);
    assert_eq!(store_event(&store, first).await.seq, i64::MIN);
    let negative = event(&key, "negative").proposing(-40);
    assert_eq!(store_event(&store, negative).await.seq, -40);
    let mut last = store_event(&store, event(&key, "higher").proposing(1_000)).await;
    assert_eq!(last.seq, 1_000);
    for (id, proposed) in [("equal", 1_000), ("lower", 3), ("lowest", i64::MIN)] {
        let next = store_event(&store, event(&key, id).proposing(proposed)).await;
        assert!(next.seq > last.seq, "{id}");
        last = next;
    }
    let jump = last.seq + 1_000_000;
    let next = store_event(&store, event(&key, "jump").proposing(jump)).await;
    assert_eq!(next.seq, jump);
    // Neither a replay nor a refusal changes what was given.
    let replay = append(&store, event(&key, "equal").proposing(jump + 5_000)).await;
    assert!(replay.unwrap().replayed);
    let clash = event(&key, "equal").holding("{}").proposing(jump + 6_000);
    assert_eq!(kind(append(&store, clash).await), Kind::EventIdReused);
    let next = store_event(&store, event(&key, "after").proposing(jump + 1)).await;
    assert_eq!(next.seq, jump + 1);
}

pub async fn the_last_sequence_number_is_given_once(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    store_event(&store, event(&key, "a").proposing(i64::MAX - 1)).await;
    let last = store_event(&store, event(&key, "b")).await;
    assert_eq!(last.seq, i64::MAX);
    for proposed in [0, i64::MAX] {
        let none_left = append(&store, event(&key, "c").proposing(proposed)).await;
        assert_eq!(kind(none_left), Kind::Internal);
    }
    assert_eq!(append(&store, event(&key, "b")).await.unwrap().event, last);
    let clash = append(&store, event(&key, "b").holding("{}")).await;
    assert_eq!(kind(clash), Kind::EventIdReused);
    assert_eq!(all_events(&store, &key).await.len(), 2);
}

pub async fn a_batch_has_an_outcome_for_each_event_in_order(subject: &dyn Subject) {
    let store = subject.store().await;
    let (a, b, ended, missing) = (key("a"), key("b"), key("ended"), key("missing"));
    for key in [&a, &b, &ended] {
        open(&store, key).await;
    }
    let old = store_event(&store, event(&a, "old")).await;
    store.end(&ended, &End::default(), at(9)).await.unwrap();
    let batch = vec![
        event(&a, "new"),
        event(&b, "new"),
        event(&a, "old"),
        event(&a, "old").holding("{}"),
        event(&missing, "new"),
        event(&a, "twice"),
        event(&ended, "new"),
        event(&a, "twice").stamped(1),
        event(&a, "twice").of_type("system"),
        event(&b, "last"),
    ];
    let outcomes = store.append(batch).await.unwrap();
    let told: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(appended) => Ok((
                appended.event.session.as_str(),
                appended.event.id.as_str(),
                appended.replayed,
            )),
            Err(error) => Err(error.kind()),
        })
        .collect();
    let expected = [
        Ok(("a", "new", false)),
        Ok(("b", "new", false)),
        Ok(("a", "old", true)),
        Err(Kind::EventIdReused),
        Err(Kind::SessionNotFound),
        Ok(("a", "twice", false)),
        Err(Kind::SessionEnded),
        Ok(("a", "twice", true)),
        Err(Kind::EventIdReused),
        Ok(("b", "last", false)),
    ];
    assert_eq!(told, expected);
    let at = |n: usize| &outcomes[n].as_ref().unwrap().event;
    assert_eq!(at(2), &old);
    assert_eq!(at(5), at(7));
    assert!(old.seq < at(0).seq && at(0).seq < at(5).seq);
    assert!(at(1).seq < at(9).seq);
    let stored = all_events(&store, &a).await;
    assert_eq!(stored, [old.clone(), at(0).clone(), at(5).clone()]);
    assert_eq!(all_events(&store, &b).await, [at(1).clone(), at(9).clone()]);
    for key in [&a, &b] {
        assert_eq!(store.session(key).await.unwrap().version, 2);
    }
}

pub async fn an_empty_batch_is_no_work(subject: &dyn Subject) {
    let store = subject.store().await;
    assert!(store.append(Vec::new()).await.unwrap().is_empty());
}

pub async fn a_full_batch_is_stored_in_order(subject: &dyn Subject) {
    let (store, key) = (subject.store().await, key("s"));
    open(&store, &key).await;
    let batch = (0..500).map(|n| event(&key, &format!("e-{n}")).stamped(7));
    let outcomes = store.append(batch.collect()).await.unwrap();
    let stored: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap().event)
        .collect();
    assert_eq!(stored.len(), 500);
    assert!(stored.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    assert!((0..500).all(|n| stored[n].id == the(&format!("e-{n}"))));
    // One timestamp: read back in the order in which they were accepted.
    assert_eq!(all_events(&store, &key).await, stored);
}
