//! Damaged segments: a read gives what was written or says that it can't, never anything else.

use std::sync::Arc;

use super::model::{Conversation, Random, conversation, key, name, page, small, write};
use crate::{
    archive::segment::{SegmentOptions, SegmentReader, events_path, memory::Memory},
    domain::{Error, EventFilter, EventPosition, EventQuery, Kind, Limit, Order, Pointer, SessionKey},
};

/// Some queries of every kind.
fn queries(conversation: &Conversation) -> Vec<EventQuery> {
    let middle = &conversation.events[conversation.events.len() / 2];
    let mut queries = Vec::new();
    for order in [Order::Ascending, Order::Descending] {
        let whole = EventQuery {
            filter: EventFilter::default(),
            order,
            after: None,
            limit: Limit::at_most(5),
            payload_bytes_max: 1 << 20,
        };
        let mut cursor = whole.clone();
        cursor.after = Some(EventPosition::from(middle));
        let mut filtered = whole.clone();
        filtered.filter.event_type = Some(middle.event_type.clone());
        let mut bounded = whole.clone();
        bounded.filter.since = Some(middle.timestamp);
        let mut early = whole.clone();
        early.filter.until = Some(middle.timestamp);
        queries.extend([whole, cursor, filtered, bounded, early]);
    }
    queries
}

/// Reads a session in a few ways.
async fn read_some(
    random: &mut Random,
    objects: &Arc<Memory>,
    conversations: &[Conversation],
    pointers: &[Pointer],
) -> usize {
    let at = random.below(conversations.len());
    let mut queries = queries(&conversations[at]);
    let first = random.below(queries.len());
    queries.rotate_left(first);
    read(objects, &conversations[at], &pointers[at], &queries[..3]).await
}

/// Reads every session in every way; says how often damage was found. Anything else than damage or the truth fails.
async fn read_all(objects: &Arc<Memory>, conversations: &[Conversation], pointers: &[Pointer]) -> usize {
    let mut found = 0;
    for (conversation, pointer) in conversations.iter().zip(pointers) {
        found += read(objects, conversation, pointer, &queries(conversation)).await;
    }
    found
}

async fn read(
    objects: &Arc<Memory>,
    conversation: &Conversation,
    pointer: &Pointer,
    queries: &[EventQuery],
) -> usize {
    let reader = SegmentReader::new(Arc::clone(objects) as _, 1 << 20);
    let mut found = 0;
    let mut damaged = |error: Error| {
        assert_eq!(error.kind(), Kind::ArchiveDamaged, "{error}");
        found += 1;
    };
    for query in queries {
        match reader.page(&key(conversation), pointer, query).await {
            Ok(given) => assert_eq!(given, page(conversation, query), "{query:?}"),
            Err(error) => damaged(error),
        }
    }
    let ids: Vec<_> = conversation.events.iter().map(|event| event.id.clone()).collect();
    match reader.find(&key(conversation), pointer, &ids).await {
        Ok(given) => assert!(given.iter().flatten().eq(&conversation.events)),
        Err(error) => damaged(error),
    }
    found
}

async fn archive(
    random: &mut Random,
    options: SegmentOptions,
) -> (Arc<Memory>, Vec<Conversation>, Vec<Pointer>) {
    let objects = Arc::new(Memory::default());
    let conversations = vec![
        conversation(random, "a", 12, 60),
        conversation(random, "b", 45, 60),
        conversation(random, "c", 3, 60),
    ];
    let (_, pointers) = write(&objects, options, &conversations).await;
    (objects, conversations, pointers)
}

#[tokio::test]
async fn a_flipped_bit_is_damage_or_does_no_harm() {
    let mut random = Random::seeded();
    for options in [small(), SegmentOptions::default()] {
        let (objects, conversations, pointers) = archive(&mut random, options).await;
        let path = events_path(&pointers[0].segment);
        let sound = objects.bytes(&path);
        let mut found = 0;
        for _ in 0..150 {
            let mut bytes = sound.to_vec();
            let (at, bit) = (random.below(bytes.len()), random.below(8));
            bytes[at] ^= 1 << bit;
            objects.replace(&path, bytes);
            println!("bit {bit} of byte {at} of {}", sound.len());
            found += usize::from(read_some(&mut random, &objects, &conversations, &pointers).await > 0);
        }
        assert!(found > 30, "most bits matter, {found} did");
    }
}

#[tokio::test]
async fn a_file_that_was_cut_off_is_damaged() {
    let mut random = Random::seeded();
    let (objects, conversations, pointers) = archive(&mut random, small()).await;
    let path = events_path(&pointers[0].segment);
    let sound = objects.bytes(&path);
    for _ in 0..20 {
        let length = random.below(sound.len());
        objects.replace(&path, sound.slice(..length));
        assert!(
            read_all(&objects, &conversations, &pointers).await > 0,
            "{length}"
        );
    }
}

#[tokio::test]
async fn a_segment_that_is_gone_is_damaged_and_read_again_once_it_is_back() {
    let mut random = Random::seeded();
    let (objects, conversations, pointers) = archive(&mut random, small()).await;
    let path = events_path(&pointers[0].segment);
    let sound = objects.bytes(&path);
    let reader = SegmentReader::new(Arc::clone(&objects) as _, 1 << 20);
    let (conversation, pointer) = (&conversations[0], &pointers[0]);
    let query = &queries(conversation)[0];
    objects.remove(&path);
    let error = reader.page(&key(conversation), pointer, query).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ArchiveDamaged);
    assert!(error.detail().contains("missing"), "{error}");
    objects.replace(&path, sound);
    let given = reader.page(&key(conversation), pointer, query).await.unwrap();
    assert_eq!(given, page(conversation, query));
}

#[tokio::test]
async fn a_pointer_that_leads_elsewhere_is_found_out() {
    let mut random = Random::seeded();
    let (objects, conversations, pointers) = archive(&mut random, small()).await;
    let reader = SegmentReader::new(Arc::clone(&objects) as _, 1 << 20);
    let conversation = &conversations[1];
    let mut query = queries(conversation)[0].clone();
    query.limit = Limit::MAX;
    let refused = async |key: &SessionKey, pointer: &Pointer| {
        let error = reader.page(key, pointer, &query).await.unwrap_err();
        assert_eq!(error.kind(), Kind::ArchiveDamaged, "{pointer:?}");
    };
    for (first, rows) in [
        (1, 0),
        (-1, 0),
        (0, 1),
        (0, -1),
        (-1, 1),
        (1, -1),
        (100, 0),
        (0, i64::MAX),
    ] {
        let pointer = Pointer {
            first_row: pointers[1].first_row.saturating_add_signed(first),
            rows: pointers[1].rows.saturating_add_signed(rows),
            ..pointers[1].clone()
        };
        refused(&key(conversation), &pointer).await;
    }
    refused(&key(&conversations[0]), &pointers[1]).await;
    let stranger = SessionKey::new("other".parse().unwrap(), conversation.session.id.clone());
    refused(&stranger, &pointers[1]).await;

    let elsewhere = Pointer {
        segment: name(),
        ..pointers[1].clone()
    };
    let bytes = objects.bytes(&events_path(&pointers[1].segment));
    objects.replace(&events_path(&elsewhere.segment), bytes);
    refused(&key(conversation), &elsewhere).await;
}
