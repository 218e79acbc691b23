//! Conversations made by chance, written to a segment, and what a page of them must be.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    archive::segment::{SegmentOptions, SegmentWriter, Written, memory::Memory},
    domain::{
        Event, EventPosition, EventQuery, JsonObject, Order, Page, Pointer, SegmentName, Session, SessionId,
        SessionKey, Status, Tenant, Timestamp,
    },
};

/// Chance that can be repeated: xorshift64*, from `COLLOQUY_TEST_SEED` or the clock. Prints its seed.
pub struct Random(u64);

impl Random {
    pub fn seeded() -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let given = std::env::var("COLLOQUY_TEST_SEED").ok();
        let seed = given.map_or_else(clock, |text| text.parse().unwrap());
        println!("repeat with COLLOQUY_TEST_SEED={seed}");
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from((self.next() >> 11) % end as u64).unwrap()
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

pub struct Conversation {
    pub session: Session,
    pub epoch: i64,
    pub events: Vec<Event>,
}

/// Where a day of tests begins, in milliseconds.
pub const DAY_MS: i64 = 1_788_220_800_000;

pub fn name() -> SegmentName {
    SegmentName::new(Tenant::default(), "2026-09-01".parse().unwrap())
}

pub fn key(conversation: &Conversation) -> SessionKey {
    SessionKey::new(Tenant::default(), conversation.session.id.clone())
}

pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms).unwrap()
}

pub fn session(id: &str) -> Session {
    Session {
        id: id.parse().unwrap(),
        user_id: None,
        status: Status::Completed,
        language: None,
        metadata: JsonObject::default(),
        started_at: at(DAY_MS),
        ended_at: Some(at(DAY_MS + 60_000)),
        end_reason: None,
        version: 2,
        archived: true,
    }
}

pub fn event(session: &SessionId, id: &str, ms: i64, seq: i64, event_type: &str, payload: &str) -> Event {
    Event {
        id: id.parse().unwrap(),
        session: session.clone(),
        seq,
        event_type: event_type.parse().unwrap(),
        payload: JsonObject::from_stored(payload),
        timestamp: at(ms),
    }
}

/// A conversation whose timestamps clash, whose ids are of all lengths, and whose payloads are up to `payload_bytes`.
pub fn conversation(random: &mut Random, id: &str, events: usize, payload_bytes: usize) -> Conversation {
    let session = session(id);
    let spread = 1 + random.below(events * 2 + 1);
    let mut events: Vec<_> = (0..events)
        .map(|at| {
            let ms = DAY_MS + i64::try_from(random.below(spread)).unwrap() * 1_000;
            let event_type = *random.pick(&["user_speech", "user_speech", "bot_speech", "system"]);
            let text = text(random, payload_bytes);
            let payload = format!(r#"{{"text":"{text}","n":{}}}"#, i64::MAX - at as i64);
            let id = format!("{}-{at}", "x".repeat(random.below(20)));
            event(
                &session.id,
                &id,
                ms,
                DAY_MS * 1_000 + at as i64,
                event_type,
                &payload,
            )
        })
        .collect();
    events.sort_by_key(|event| EventPosition::from(event));
    Conversation {
        session,
        epoch: 1 + random.below(9) as i64,
        events,
    }
}

/// A conversation whose events are a second apart and have payloads that can't be made much smaller.
pub fn sized(id: &str, events: usize, payload_bytes: usize) -> Conversation {
    let session = session(id);
    let mut random = Random(payload_bytes as u64 | 1);
    let events = (0..events)
        .map(|at| {
            let noise: String = (0..payload_bytes / 16)
                .map(|_| format!("{:016x}", random.next()))
                .collect();
            let event_type = ["user_speech", "bot_speech", "system"][at % 3];
            let at = i64::try_from(at).unwrap();
            let payload = format!(r#"{{"text":"{noise}"}}"#);
            event(
                &session.id,
                &format!("{:016x}", random.next()),
                DAY_MS + at * 1_000,
                at,
                event_type,
                &payload,
            )
        })
        .collect();
    Conversation {
        session,
        epoch: 1,
        events,
    }
}

fn text(random: &mut Random, bytes_max: usize) -> String {
    let length = random.below(bytes_max + 1);
    let mut text = String::new();
    while text.len() < length {
        text += *random.pick(&["dine ", "é", "😀", "\\\"", "a", "reservation ", "7", "Zürich "]);
        // Some of it can't be compressed.
        text += &format!("{:x}", random.next());
    }
    text
}

/// Small row groups and pages, so that few rows have many.
pub fn small() -> SegmentOptions {
    SegmentOptions {
        row_group_bytes: 8 << 10,
        page_rows: 7,
        page_bytes: 512,
        ..SegmentOptions::default()
    }
}

pub async fn write(
    objects: &Arc<Memory>,
    options: SegmentOptions,
    conversations: &[Conversation],
) -> (Written, Vec<Pointer>) {
    let mut writer = SegmentWriter::create(Arc::clone(objects) as _, name(), options)
        .await
        .unwrap();
    let mut pointers = Vec::new();
    for conversation in conversations {
        writer
            .begin_session(&conversation.session, conversation.epoch)
            .await
            .unwrap();
        for event in &conversation.events {
            writer.push(event).await.unwrap();
        }
        pointers.push(writer.end_session().await.unwrap());
    }
    (writer.finish().await.unwrap(), pointers)
}

/// What the page must be: the rule of [`Store::events`](crate::store::Store::events), the slow way.
pub fn page(conversation: &Conversation, query: &EventQuery) -> Page<Event> {
    let mut events = conversation.events.clone();
    if query.order == Order::Descending {
        events.reverse();
    }
    events.retain(|event| {
        let position = EventPosition::from(event);
        let filter = &query.filter;
        filter
            .event_type
            .as_ref()
            .is_none_or(|asked| *asked == event.event_type)
            && filter.since.is_none_or(|since| event.timestamp >= since)
            && filter.until.is_none_or(|until| event.timestamp < until)
            && query.after.as_ref().is_none_or(|after| match query.order {
                Order::Ascending => position > *after,
                Order::Descending => position < *after,
            })
    });
    let mut bytes = 0;
    let fits = events.iter().enumerate().take_while(|(at, event)| {
        bytes += event.payload.as_str().len();
        *at < query.limit.get() && (*at == 0 || bytes <= query.payload_bytes_max)
    });
    let count = fits.count();
    let has_more = count < events.len();
    events.truncate(count);
    Page {
        items: events,
        has_more,
    }
}
