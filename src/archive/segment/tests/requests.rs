//! How many requests a read takes: what a reader pays for, in money and in time.

use std::sync::Arc;

use super::model::{Conversation, DAY_MS, at, key, page, sized, write};
use crate::{
    archive::segment::{SegmentOptions, SegmentReader, memory::Memory},
    domain::{EventFilter, EventId, EventPosition, EventQuery, Limit, Order, Pointer},
};

const FOOTERS_BYTES_MAX: usize = 16 << 20;

fn query(order: Order, limit: u16, after: Option<EventPosition>) -> EventQuery {
    EventQuery {
        filter: EventFilter::default(),
        order,
        after,
        limit: Limit::at_most(limit),
        payload_bytes_max: 1 << 20,
    }
}

struct Archive {
    objects: Arc<Memory>,
    reader: SegmentReader,
    conversation: Conversation,
    pointer: Pointer,
}

/// A session between two others, in row groups so large that what lies between columns is not worth fetching.
async fn archive(events: usize, row_group_bytes: usize, payload_bytes: usize) -> Archive {
    let options = SegmentOptions {
        row_group_bytes,
        ..SegmentOptions::default()
    };
    archive_of(events, options, payload_bytes).await
}

async fn archive_of(events: usize, options: SegmentOptions, payload_bytes: usize) -> Archive {
    let objects = Arc::new(Memory::default());
    let conversations =
        ["a", "b", "c"].map(|id| sized(id, if id == "b" { events } else { 40 }, payload_bytes));
    let (_, pointers) = write(&objects, options, &conversations).await;
    let reader = SegmentReader::new(Arc::clone(&objects) as _, FOOTERS_BYTES_MAX);
    Archive {
        objects,
        reader,
        conversation: Vec::from(conversations).swap_remove(1),
        pointer: pointers[1].clone(),
    }
}

impl Archive {
    /// Reads the page, holds it to the model and gives the number of requests.
    async fn gets(&self, query: &EventQuery) -> usize {
        self.objects.take_gets();
        let given = self
            .reader
            .page(&key(&self.conversation), &self.pointer, query)
            .await;
        assert_eq!(given.unwrap(), page(&self.conversation, query), "{query:?}");
        self.objects.take_gets()
    }

    async fn find_gets(&self, ids: &[EventId]) -> usize {
        self.objects.take_gets();
        let found = self
            .reader
            .find(&key(&self.conversation), &self.pointer, ids)
            .await
            .unwrap();
        for (id, found) in ids.iter().zip(found) {
            let stored = self.conversation.events.iter().find(|event| event.id == *id);
            assert_eq!(found.as_ref(), stored);
        }
        self.objects.take_gets()
    }

    fn ids(&self, rows: &[usize]) -> Vec<EventId> {
        let ids = rows.iter().map(|&row| self.conversation.events[row].id.clone());
        ids.chain(["nobody".parse().unwrap()]).collect()
    }
}

#[tokio::test]
async fn a_read_of_a_session_in_one_row_group_takes_three_requests() {
    let archive = archive(20_000, 8 << 20, 32).await;
    let first = archive.gets(&query(Order::Ascending, 50, None)).await;
    assert!((2..=4).contains(&first), "one more for the footer, not {first}");
    let mut most = 0;
    for order in [Order::Ascending, Order::Descending] {
        for row in [0, 9_999, 19_999] {
            let after = Some(EventPosition::from(&archive.conversation.events[row]));
            for limit in [1, 500] {
                let mut query = query(order, limit, after.clone());
                most = most.max(archive.gets(&query).await);
                query.filter.event_type = Some("system".parse().unwrap());
                most = most.max(archive.gets(&query).await);
                query.filter.since = Some(at(DAY_MS + 3_000_000));
                query.filter.until = Some(at(DAY_MS + 12_000_000));
                most = most.max(archive.gets(&query).await);
                query.after = None;
                most = most.max(archive.gets(&query).await);
            }
        }
        most = most.max(archive.gets(&query(order, 500, None)).await);
    }
    most = most.max(archive.find_gets(&archive.ids(&[0, 12_345, 19_999])).await);
    assert_eq!(most, 3, "fewer would mean that this test shows nothing");
}

#[tokio::test]
async fn a_page_across_the_border_of_row_groups_takes_three_requests_too() {
    let archive = archive(6_000, 1 << 20, 800).await;
    let mut most = 0;
    for row in (0..6_000).step_by(150) {
        let after = Some(EventPosition::from(&archive.conversation.events[row]));
        for order in [Order::Ascending, Order::Descending] {
            most = most.max(archive.gets(&query(order, 151, after.clone())).await);
        }
    }
    assert_eq!(most, 3);
}

#[tokio::test]
async fn a_find_in_many_row_groups_takes_three_requests_for_each() {
    let archive = archive(6_000, 1 << 20, 800).await;
    let gets = archive.find_gets(&archive.ids(&[5, 3_000, 5_999])).await;
    let row_groups = super::layout::row_groups(&archive.objects, &archive.pointer).await;
    assert!(row_groups >= 3);
    assert!(
        gets <= 3 * row_groups + 1,
        "{gets} for {row_groups} row groups and the footer"
    );
}

#[tokio::test]
async fn a_footer_is_read_once_until_it_is_forgotten() {
    let archive = archive(10, 8 << 20, 400).await;
    let query = query(Order::Ascending, 50, None);
    let first = archive.gets(&query).await;
    assert_eq!(archive.gets(&query).await, first - 1);
    archive.reader.clone().forget(&archive.pointer.segment);
    assert_eq!(archive.gets(&query).await, first);

    let nothing_is_kept = SegmentReader::new(Arc::clone(&archive.objects) as _, 0);
    let archive = Archive {
        reader: nothing_is_kept,
        ..archive
    };
    assert_eq!(archive.gets(&query).await, first);
    assert_eq!(archive.gets(&query).await, first);
}

#[tokio::test]
async fn a_footer_larger_than_is_asked_for_at_first_takes_more_requests() {
    let many_pages = SegmentOptions {
        page_rows: 1,
        ..SegmentOptions::default()
    };
    let many_row_groups = SegmentOptions {
        row_group_bytes: 8 << 10,
        ..SegmentOptions::default()
    };
    for (options, more) in [(many_pages, 1), (many_row_groups, 2)] {
        let archive = archive_of(2_000, options, 800).await;
        let query = query(Order::Ascending, 10, None);
        let first = archive.gets(&query).await;
        assert_eq!(first, 1 + more + archive.gets(&query).await, "{options:?}");
    }
}

#[tokio::test]
async fn readers_that_come_at_once_share_the_footer() {
    let archive = archive(10, 8 << 20, 400).await;
    let query = query(Order::Ascending, 50, None);
    let alone = archive.gets(&query).await;
    archive.reader.forget(&archive.pointer.segment);
    archive.objects.take_gets();
    let key = key(&archive.conversation);
    let reads = (0..10).map(|_| archive.reader.page(&key, &archive.pointer, &query));
    let read = futures_util::future::join_all(reads).await;
    assert!(read.iter().all(Result::is_ok));
    assert_eq!(archive.objects.take_gets(), 1 + 10 * (alone - 1));
}
