//! Pages and events by id, against the model; and how many requests they take.

use std::sync::Arc;

use super::model::{Conversation, Random, at, conversation, key, page, small, write};
use crate::{
    archive::segment::{SegmentReader, memory::Memory},
    domain::{EventFilter, EventPosition, EventQuery, Limit, Order, Pointer},
};

const FOOTERS_BYTES_MAX: usize = 1 << 20;

/// A query by chance; bounds and cursors lie on events, between them and beyond them.
fn query(random: &mut Random, conversation: &Conversation) -> EventQuery {
    let some = |random: &mut Random| {
        let event = random.pick(&conversation.events);
        let ms = event.timestamp.unix_ms() + [-1, 0, 0, 1][random.below(4)];
        EventPosition {
            timestamp: at(ms),
            ..EventPosition::from(event)
        }
    };
    let mut maybe = |percent| random.chance(percent).then(|| some(random));
    let (since, until, after) = (maybe(25), maybe(25), maybe(50));
    EventQuery {
        filter: EventFilter {
            event_type: random.chance(30).then(|| "bot_speech".parse().unwrap()),
            since: since.map(|position| position.timestamp),
            until: until.map(|position| position.timestamp),
        },
        order: *random.pick(&[Order::Ascending, Order::Descending]),
        after,
        limit: Limit::at_most([1, 2, 7, 50, 500][random.below(5)]),
        payload_bytes_max: [0, 100, 1_000, 5_000, 1 << 20][random.below(5)],
    }
}

/// Sessions of all sizes: empty ones, small ones, and one over many row groups.
fn conversations(random: &mut Random) -> Vec<Conversation> {
    let sizes = [0, 1, 3, 40, 400, 0, 2, 15, 60, 1];
    let mut made = Vec::new();
    for (at, events) in sizes.into_iter().enumerate() {
        let payload_bytes = [10, 200, 2_000][random.below(3)];
        made.push(conversation(random, &format!("s-{at:02}"), events, payload_bytes));
    }
    made
}

#[tokio::test]
async fn a_page_is_what_the_store_would_give() {
    let mut random = Random::seeded();
    for _ in 0..4 {
        let objects = Arc::new(Memory::default());
        let conversations = conversations(&mut random);
        let (_, pointers) = write(&objects, small(), &conversations).await;
        let reader = SegmentReader::new(Arc::clone(&objects) as _, FOOTERS_BYTES_MAX);
        for (conversation, pointer) in conversations.iter().zip(&pointers) {
            for _ in 0..if conversation.events.is_empty() { 0 } else { 60 } {
                let query = query(&mut random, conversation);
                let given = reader.page(&key(conversation), pointer, &query).await.unwrap();
                assert_eq!(
                    given,
                    page(conversation, &query),
                    "{} {query:?}",
                    conversation.session.id
                );
            }
        }
    }
}

fn whole(order: Order, limit: u16) -> EventQuery {
    EventQuery {
        filter: EventFilter::default(),
        order,
        after: None,
        limit: Limit::at_most(limit),
        payload_bytes_max: 1 << 20,
    }
}

async fn walk(reader: &SegmentReader, conversation: &Conversation, pointer: &Pointer, mut query: EventQuery) {
    let mut walked = Vec::new();
    loop {
        let page = reader.page(&key(conversation), pointer, &query).await.unwrap();
        query.after = page.items.last().map(EventPosition::from);
        walked.extend(page.items);
        if !page.has_more {
            break;
        }
    }
    if query.order == Order::Descending {
        walked.reverse();
    }
    assert_eq!(walked, conversation.events);
}

#[tokio::test]
async fn a_walk_gives_every_event_once_whatever_the_page_size() {
    let mut random = Random::seeded();
    let objects = Arc::new(Memory::default());
    let conversations = conversations(&mut random);
    let (_, pointers) = write(&objects, small(), &conversations).await;
    let reader = SegmentReader::new(Arc::clone(&objects) as _, FOOTERS_BYTES_MAX);
    for (conversation, pointer) in conversations.iter().zip(&pointers) {
        for limit in [1, 3, 50, 500] {
            walk(&reader, conversation, pointer, whole(Order::Ascending, limit)).await;
            walk(&reader, conversation, pointer, whole(Order::Descending, limit)).await;
        }
    }
}
