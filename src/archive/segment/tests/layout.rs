//! How sessions lie in row groups, and how much of them is in memory.

use std::sync::Arc;

use super::model::{Conversation, Random, conversation, name, session, sized, small, write};
use crate::{
    archive::segment::{SegmentOptions, SegmentWriter, events_path, footer::Footer, memory::Memory, schema},
    domain::{Kind, Pointer},
};

/// Where the row groups of the events file begin, and how many rows there are.
async fn starts(objects: &Memory, pointer: &Pointer) -> Vec<u64> {
    let (name, path) = (&pointer.segment, events_path(&pointer.segment));
    let footer = Footer::load(objects, name, &path, &schema::events())
        .await
        .unwrap();
    footer.row_group_starts
}

/// How many row groups the session lies in.
pub async fn row_groups(objects: &Memory, pointer: &Pointer) -> usize {
    let (first, end) = (pointer.first_row, pointer.first_row + pointer.rows);
    let starts = starts(objects, pointer).await;
    starts
        .windows(2)
        .filter(|group| group[0] < end && first < group[1])
        .count()
}

#[tokio::test]
async fn a_session_smaller_than_a_row_group_lies_in_one() {
    let mut random = Random::seeded();
    let objects = Arc::new(Memory::default());
    let made: Vec<_> = (0..120)
        .map(|at| {
            let events = random.below(12);
            conversation(&mut random, &format!("s-{at:03}"), events, 300)
        })
        .collect();
    let (_, pointers) = write(&objects, small(), &made).await;
    let starts = starts(&objects, &pointers[0]).await;
    assert!(starts.len() > 5, "there are several row groups");
    for pointer in pointers.iter().filter(|pointer| pointer.rows > 0) {
        assert_eq!(
            row_groups(&objects, pointer).await,
            1,
            "{pointer:?} in {starts:?}"
        );
    }
}

#[tokio::test]
async fn a_session_larger_than_a_row_group_begins_one() {
    let objects = Arc::new(Memory::default());
    let made = [sized("a", 3, 100), sized("b", 400, 300), sized("c", 3, 100)];
    let (_, pointers) = write(&objects, small(), &made).await;
    let starts = starts(&objects, &pointers[0]).await;
    assert!(starts.contains(&pointers[1].first_row), "{starts:?}");
    assert!(row_groups(&objects, &pointers[1]).await > 3);
}

#[tokio::test]
async fn what_is_held_does_not_grow_with_the_session() {
    let options = SegmentOptions {
        row_group_bytes: 64 << 10,
        ..SegmentOptions::default()
    };
    let mut held = Vec::new();
    for events in [2_000, 8_000] {
        let objects = Arc::new(Memory::default());
        write(&objects, options, &[sized("a", events, 200)]).await;
        held.push(objects.written_bytes_max());
    }
    assert!(held[1] < 3 * options.row_group_bytes, "{held:?}");
}

#[tokio::test]
async fn the_writer_refuses_what_is_out_of_order() {
    let objects = Arc::new(Memory::default());
    let begun = async |id: &str| {
        let options = SegmentOptions::default();
        let writer = SegmentWriter::create(Arc::clone(&objects) as _, name(), options).await;
        let mut writer = writer.unwrap();
        writer.begin_session(&session(id), 1).await.unwrap();
        writer
    };
    let refused = |outcome: crate::domain::Result<()>| {
        assert_eq!(outcome.unwrap_err().kind(), Kind::Internal);
    };
    let Conversation { events, .. } = sized("b", 2, 10);

    let mut writer = begun("b").await;
    refused(writer.begin_session(&session("c"), 1).await);
    writer.end_session().await.unwrap();
    refused(writer.begin_session(&session("b"), 1).await);
    refused(writer.begin_session(&session("a"), 1).await);
    refused(writer.push(&events[0]).await);
    refused(writer.end_session().await.map(drop));

    let mut writer = begun("b").await;
    writer.push(&events[1]).await.unwrap();
    refused(writer.push(&events[0]).await);
    let mut writer = begun("b").await;
    writer.push(&events[0]).await.unwrap();
    refused(writer.push(&events[0]).await);
    refused(begun("a").await.push(&events[0]).await);
    refused(begun("b").await.finish().await.map(drop));
}
