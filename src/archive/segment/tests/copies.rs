//! Sessions that are copied from one segment to another: what a reader finds there is what it found before, and no row that
//! is not what was written gets across.

use std::sync::Arc;

use super::model::{Conversation, Random, conversation, event, key, name, session, sized, small, write};
use crate::{
    archive::segment::{SegmentOptions, SegmentReader, SegmentWriter, Written, events_path, memory::Memory},
    domain::{Error, Event, EventFilter, EventQuery, Kind, Limit, Order, Pointer, SegmentName},
};

fn reader(objects: &Arc<Memory>) -> SegmentReader {
    SegmentReader::new(Arc::clone(objects) as _, 1 << 20)
}

/// Copies those of the sessions that are `wanted` to a new segment, each under the next epoch.
async fn copy(
    objects: &Arc<Memory>,
    from: &SegmentName,
    options: SegmentOptions,
    wanted: impl Fn(&str) -> bool,
) -> Result<(Written, Vec<Pointer>), Error> {
    let reader = reader(objects);
    let mut sessions = reader.sessions(from).await?;
    let mut events = reader.raw_events(from).await?;
    let mut writer = SegmentWriter::create(Arc::clone(objects) as _, name(), options).await?;
    let mut pointers = Vec::new();
    while let Some(row) = sessions.next().await? {
        if wanted(row.session.id.as_str()) {
            pointers.push(writer.copy_session(&row, row.epoch + 1, &mut events).await?);
        }
    }
    Ok((writer.finish().await?, pointers))
}

async fn everything(objects: &Arc<Memory>, of: &Conversation, pointer: &Pointer) -> Vec<Event> {
    let mut query = EventQuery {
        filter: EventFilter::default(),
        order: Order::Ascending,
        after: None,
        limit: Limit::MAX,
        payload_bytes_max: 1 << 20,
    };
    let (reader, mut all) = (reader(objects), Vec::new());
    loop {
        let page = reader.page(&key(of), pointer, &query).await.unwrap();
        all.extend(page.items);
        match all.last().filter(|_| page.has_more) {
            Some(last) => query.after = Some(last.into()),
            None => return all,
        }
    }
}

#[tokio::test]
async fn a_copy_reads_as_what_it_was_copied_from() {
    let mut random = Random::seeded();
    for options in [small(), SegmentOptions::default()] {
        let conversations: Vec<_> = (0..40)
            .map(|at| {
                // None at all, a few, and more than a small row group holds.
                let events = *random.pick(&[0, 1, 3, 12, 12, 400]);
                conversation(&mut random, &format!("s-{at:02}"), events, 200)
            })
            .collect();
        let objects = Arc::new(Memory::default());
        let (written, _) = write(&objects, options, &conversations).await;
        let percent = *random.pick(&[5, 50, 95, 100]);
        let kept: Vec<_> = conversations.iter().filter(|_| random.chance(percent)).collect();
        let is_kept = |id: &str| kept.iter().any(|kept| kept.session.id.as_str() == id);
        let from = &written.manifest.segment;
        let (copied, pointers) = copy(&objects, from, small(), is_kept).await.unwrap();

        let shared: Arc<dyn crate::archive::objects::Objects> = Arc::clone(&objects) as _;
        copied.verify(&shared).await.unwrap();
        copied.seal(&shared).await.unwrap();
        let manifest = reader(&objects).check(&copied.manifest.segment).await.unwrap();
        assert_eq!(manifest.counts.sessions, kept.len() as u64);
        let events: usize = kept.iter().map(|kept| kept.events.len()).sum();
        assert_eq!(manifest.counts.events, events as u64);
        let mut rows = reader(&objects).sessions(&copied.manifest.segment).await.unwrap();
        for (kept, pointer) in kept.iter().zip(&pointers) {
            let row = rows.next().await.unwrap().unwrap();
            assert_eq!((&row.session, &row.pointer), (&kept.session, pointer));
            assert_eq!(row.epoch, kept.epoch + 1);
            assert_eq!(everything(&objects, kept, pointer).await, kept.events);
        }
        assert_eq!(rows.next().await.unwrap(), None);
    }
}

/// As [`SegmentWriter`] lays out sessions that are pushed, so that a copy is read in as few requests.
#[tokio::test]
async fn a_copied_session_lies_in_one_row_group_if_it_fits_and_is_written_in_pieces_if_not() {
    let conversations: Vec<_> = (0..60)
        .map(|at| sized(&format!("s-{at:02}"), if at == 30 { 3_000 } else { 5 }, 200))
        .collect();
    let objects = Arc::new(Memory::default());
    let (written, _) = write(&objects, SegmentOptions::default(), &conversations).await;
    let (copied, pointers) = copy(&objects, &written.manifest.segment, small(), |_| true)
        .await
        .unwrap();
    let path = events_path(&copied.manifest.segment);
    let bytes = objects.bytes(&path);
    let footer = parquet::file::metadata::ParquetMetaDataReader::new()
        .parse_and_finish(&bytes)
        .unwrap();
    let mut starts = vec![0];
    for group in footer.row_groups() {
        starts.push(starts.last().unwrap() + u64::try_from(group.num_rows()).unwrap());
    }
    assert!(starts.len() > 20, "row groups are small: {starts:?}");
    for (at, pointer) in pointers.iter().enumerate() {
        let (first, last) = (pointer.first_row, pointer.first_row + pointer.rows - 1);
        let group = |row| starts.partition_point(|start| *start <= row);
        match at {
            30 => assert!(group(last) > group(first) + 10, "{at}"),
            _ => assert_eq!(group(first), group(last), "{at}"),
        }
    }
}

#[tokio::test]
async fn pushed_and_copied_sessions_share_a_segment() {
    let mut random = Random::seeded();
    let conversations = ["a", "c", "e"].map(|id| conversation(&mut random, id, 9, 100));
    let pushed = ["b", "d"].map(|id| conversation(&mut random, id, 9, 100));
    let objects = Arc::new(Memory::default());
    let (written, _) = write(&objects, small(), &conversations).await;
    let reader = reader(&objects);
    let from = &written.manifest.segment;
    let mut sessions = reader.sessions(from).await.unwrap();
    let mut events = reader.raw_events(from).await.unwrap();
    let mut writer = SegmentWriter::create(Arc::clone(&objects) as _, name(), SegmentOptions::default())
        .await
        .unwrap();
    let mut pointers = Vec::new();
    for at in 0..3 {
        let row = sessions.next().await.unwrap().unwrap();
        pointers.push(writer.copy_session(&row, 7, &mut events).await.unwrap());
        let Some(pushed) = pushed.get(at) else { continue };
        writer.begin_session(&pushed.session, 1).await.unwrap();
        for event in &pushed.events {
            writer.push(event).await.unwrap();
        }
        pointers.push(writer.end_session().await.unwrap());
    }
    let done = writer.finish().await.unwrap();
    let shared: Arc<dyn crate::archive::objects::Objects> = Arc::clone(&objects) as _;
    done.verify(&shared).await.unwrap();
    let all = [
        &conversations[0],
        &pushed[0],
        &conversations[1],
        &pushed[1],
        &conversations[2],
    ];
    for (one, pointer) in all.into_iter().zip(&pointers) {
        assert_eq!(everything(&objects, one, pointer).await, one.events);
    }
}

/// Every byte of the file, one at a time: the copy fails, or it is right.
#[tokio::test]
async fn damage_is_not_copied() {
    let mut random = Random::seeded();
    let conversations: Vec<_> = (0..6)
        .map(|at| conversation(&mut random, &format!("s-{at}"), 20, 60))
        .collect();
    let objects = Arc::new(Memory::default());
    let (written, _) = write(&objects, small(), &conversations).await;
    let from = &written.manifest.segment;
    let path = events_path(from);
    let whole = objects.bytes(&path);
    let mut found = 0;
    for _ in 0..300 {
        let mut bytes = whole.to_vec();
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
        objects.replace(&path, bytes);
        match copy(&objects, from, small(), |id| id != "s-3").await {
            Ok((copied, pointers)) => {
                let kept = conversations
                    .iter()
                    .filter(|one| one.session.id.as_str() != "s-3");
                for (kept, pointer) in kept.zip(&pointers) {
                    assert_eq!(everything(&objects, kept, pointer).await, kept.events);
                }
                let shared: Arc<dyn crate::archive::objects::Objects> = Arc::clone(&objects) as _;
                copied.verify(&shared).await.unwrap();
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::ArchiveDamaged, "byte {at}: {error:?}");
                found += 1;
            }
        }
    }
    assert!(found > 150, "{found} of 300");
}

#[tokio::test]
async fn a_copy_keeps_to_the_order_of_the_writer() {
    let mut random = Random::seeded();
    let conversations = ["a", "b"].map(|id| conversation(&mut random, id, 3, 50));
    let objects = Arc::new(Memory::default());
    let (written, _) = write(&objects, small(), &conversations).await;
    let reader = reader(&objects);
    let from = &written.manifest.segment;
    let rows = reader.sessions(from).await.unwrap().next_some(2).await.unwrap();
    let mut writer = SegmentWriter::create(Arc::clone(&objects) as _, name(), small())
        .await
        .unwrap();
    writer.begin_session(&session("0"), 1).await.unwrap();
    let early = event(&session("0").id, "e", 5, 5, "system", "{}");
    writer.push(&early).await.unwrap();
    let mut events = reader.raw_events(from).await.unwrap();
    let open = writer.copy_session(&rows[0], 2, &mut events).await;
    assert_eq!(
        open.unwrap_err().kind(),
        Kind::Internal,
        "another session is open"
    );
    writer.end_session().await.unwrap();
    writer.copy_session(&rows[1], 2, &mut events).await.unwrap();
    let before = writer.copy_session(&rows[0], 2, &mut events).await;
    assert_eq!(
        before.unwrap_err().kind(),
        Kind::Internal,
        "it comes before the last"
    );
}
