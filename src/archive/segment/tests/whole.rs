//! Segments read whole: what was written comes back, and is compared with what the writer knows.

use std::sync::Arc;

use super::model::{Conversation, Random, conversation, name, small, write};
use crate::{
    archive::{
        objects::Objects,
        segment::{
            SegmentOptions, SegmentReader, Written, events_path, manifest_path, memory::Memory, sessions_path,
        },
    },
    domain::{Event, JsonObject, Kind, Pointer, SegmentName},
};

struct Archive {
    objects: Arc<Memory>,
    reader: SegmentReader,
    conversations: Vec<Conversation>,
    pointers: Vec<Pointer>,
    written: Written,
}

async fn archive(random: &mut Random, options: SegmentOptions) -> Archive {
    let mut conversations: Vec<_> = [0, 5, 300, 1, 0, 40]
        .into_iter()
        .enumerate()
        .map(|(at, events)| conversation(random, &format!("s-{at}"), events, 300))
        .collect();
    let session = &mut conversations[1].session;
    session.user_id = Some("auth0|Zoë \"日本\"".parse().unwrap());
    session.language = Some("de-CH".parse().unwrap());
    session.metadata = JsonObject::from_stored(r#"{"grüße":["😀"]}"#);
    session.end_reason = Some(String::from("hung up"));
    session.version = i64::MAX;
    let objects = Arc::new(Memory::default());
    let (written, pointers) = write(&objects, options, &conversations).await;
    Archive {
        reader: SegmentReader::new(Arc::clone(&objects) as _, 1 << 20),
        objects,
        conversations,
        pointers,
        written,
    }
}

impl Archive {
    fn objects(&self) -> Arc<dyn Objects> {
        Arc::clone(&self.objects) as _
    }

    fn name(&self) -> &SegmentName {
        &self.written.manifest.segment
    }

    async fn events(&self) -> Vec<Event> {
        let mut rows = self.reader.events(self.name()).await.unwrap();
        let mut events = Vec::new();
        while let Some((session, event)) = rows.next().await.unwrap() {
            assert_eq!(session, event.session);
            events.push(event);
        }
        events
    }
}

#[tokio::test]
async fn what_was_written_comes_back() {
    let mut random = Random::seeded();
    let archive = archive(&mut random, small()).await;
    let mut rows = archive.reader.sessions(archive.name()).await.unwrap();
    for (conversation, pointer) in archive.conversations.iter().zip(&archive.pointers) {
        let row = rows.next().await.unwrap().unwrap();
        assert_eq!(
            (&row.session, row.epoch, &row.pointer),
            (&conversation.session, conversation.epoch, pointer)
        );
    }
    assert_eq!(rows.next().await.unwrap(), None);
    let written: Vec<_> = archive.conversations.iter().flat_map(|one| &one.events).collect();
    assert_eq!(archive.events().await.iter().collect::<Vec<_>>(), written);
}

#[tokio::test]
async fn the_same_input_makes_the_same_rows_whatever_the_layout() {
    let mut random = Random::seeded();
    let archive = archive(&mut random, small()).await;
    let objects = Arc::new(Memory::default());
    let (written, pointers) = write(&objects, SegmentOptions::default(), &archive.conversations).await;
    let again = Archive {
        reader: SegmentReader::new(Arc::clone(&objects) as _, 1 << 20),
        objects,
        conversations: Vec::new(),
        pointers: Vec::new(),
        written,
    };
    assert_eq!(archive.events().await, again.events().await);
    let rows = |pointers: &[Pointer]| -> Vec<_> {
        pointers
            .iter()
            .map(|pointer| (pointer.first_row, pointer.rows))
            .collect()
    };
    assert_eq!(rows(&archive.pointers), rows(&pointers));
}

#[tokio::test]
async fn a_verified_segment_is_sealed_and_checked() {
    let mut random = Random::seeded();
    let archive = archive(&mut random, small()).await;
    let missing = archive.reader.check(archive.name()).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::ArchiveDamaged, "there is no manifest yet");
    archive.written.verify(&archive.objects()).await.unwrap();
    let sealed = archive.written.seal(&archive.objects()).await.unwrap();
    assert_eq!(archive.written.seal(&archive.objects()).await.unwrap(), sealed);
    assert_eq!(archive.reader.manifest(archive.name()).await.unwrap(), sealed);
    assert_eq!(archive.reader.check(archive.name()).await.unwrap(), sealed);
    assert_eq!(sealed.counts.sessions, 6);
    assert_eq!(sealed.counts.events, 346);
}

#[tokio::test]
async fn sessions_without_events_make_a_segment_too() {
    let mut random = Random::seeded();
    for sessions in [0, 2] {
        let objects = Arc::new(Memory::default());
        let names = ["a", "b"].into_iter().take(sessions);
        let empty: Vec<_> = names.map(|id| conversation(&mut random, id, 0, 0)).collect();
        let (written, pointers) = write(&objects, small(), &empty).await;
        let shared: Arc<dyn Objects> = objects;
        written.verify(&shared).await.unwrap();
        written.seal(&shared).await.unwrap();
        let reader = SegmentReader::new(shared, 1 << 20);
        let manifest = reader.check(&written.manifest.segment).await.unwrap();
        assert_eq!(manifest.counts.sessions, sessions as u64);
        assert!(pointers.iter().all(|pointer| pointer.rows == 0));
    }
}

#[tokio::test]
async fn every_byte_of_a_segment_counts() {
    let mut random = Random::seeded();
    let archive = archive(&mut random, small()).await;
    archive.written.seal(&archive.objects()).await.unwrap();
    for path in [sessions_path(archive.name()), events_path(archive.name())] {
        let sound = archive.objects.bytes(&path);
        for _ in 0..40 {
            let mut bytes = sound.to_vec();
            let (at, bit) = (random.below(bytes.len()), random.below(8));
            bytes[at] ^= 1 << bit;
            archive.objects.replace(&path, bytes);
            let place = format!("bit {bit} of byte {at} of {path}");
            let outcome = archive.reader.check(archive.name()).await;
            assert_eq!(outcome.expect_err(&place).kind(), Kind::ArchiveDamaged, "{place}");
            let outcome = archive.written.verify(&archive.objects()).await;
            assert_eq!(outcome.expect_err(&place).kind(), Kind::ArchiveDamaged, "{place}");
        }
        let mut longer = sound.to_vec();
        longer.insert(0, 0);
        archive.objects.replace(&path, longer);
        archive.reader.check(archive.name()).await.unwrap_err();
        archive.objects.replace(&path, sound);
    }
    archive.reader.check(archive.name()).await.unwrap();
}

#[tokio::test]
async fn a_file_that_holds_other_than_was_given_is_not_verified() {
    let mut random = Random::seeded();
    let archive = archive(&mut random, small()).await;
    let mut other = archive.written.clone();
    let (tampered, _) = write(&archive.objects, small(), &archive.conversations[1..]).await;
    other.manifest = tampered.manifest;
    let error = other.verify(&archive.objects()).await.unwrap_err();
    assert!(
        error.detail().contains("session s-1 is not what was written"),
        "{error}"
    );
}

#[tokio::test]
async fn a_manifest_of_another_version_or_segment_is_refused() {
    let mut random = Random::seeded();
    let archive = archive(&mut random, small()).await;
    archive.written.seal(&archive.objects()).await.unwrap();
    let path = manifest_path(archive.name());
    let text = String::from_utf8(archive.objects.bytes(&path).to_vec()).unwrap();
    let read = async |text: String| {
        archive.objects.replace(&path, text);
        archive.reader.manifest(archive.name()).await
    };
    let newer = read(text.replace(r#""format":1"#, r#""format":2"#))
        .await
        .unwrap_err();
    assert_eq!(newer.kind(), Kind::ArchiveDamaged);
    assert!(newer.detail().contains("a newer colloquy wrote it"), "{newer}");
    let added = read(text.replace(r#""format":1"#, r#""format":1,"added":{}"#)).await;
    assert_eq!(added.unwrap(), archive.written.manifest);
    for bad in [
        String::new(),
        text[..text.len() - 1].to_owned(),
        text.replace(r#""format":1,"#, ""),
        text.replace(&archive.name().to_string(), &name().to_string()),
        text.replace("payloadBytes", "payloads"),
        text.replace(r#""sessions":6"#, r#""sessions":"6""#),
    ] {
        let error = read(bad.clone()).await.expect_err(&bad);
        assert_eq!(error.kind(), Kind::ArchiveDamaged, "{bad}");
    }
}
