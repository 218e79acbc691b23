//! Conversations of our own making, as the lines of an import; written just as an export writes them and in its order,
//! so that what comes out can be compared with what went in, byte for byte.

use colloquy::domain::Timestamp;
use serde_json::{Map, Value, json};

use crate::random::Random;

const DAY_MS: i64 = 86_400_000;
const BEGIN_MS: i64 = 1_788_220_800_000;

/// What user ids begin with.
const USERS: [&str; 4] = ["user@example.com:", "auth0|", "patients/\"1\"\\", "Zoë 日本 "];

/// What people say, and what breaks those who handle it carelessly.
const TEXTS: [&str; 12] = [
    "Hello, how can I help you?",
    "",
    "नमस्ते, मुझे मदद चाहिए",
    "👩‍👩‍👧‍👦 \u{1F1EE}\u{1F1F3}",
    "quotes \" and \\ and / and '",
    "line\nbreak\ttab\r\u{8}\u{c}",
    "\u{0}\u{1}\u{1f}\u{7f}",
    "\u{2028}\u{2029}\u{feff}\u{200f}שלום",
    "e\u{301} is not é",
    "\u{10ffff}\u{fffd}",
    "{\"looks\":\"like JSON\"}",
    "line 2: not an error",
];

/// What a conversation is made of.
#[derive(Clone, Copy)]
pub enum Shape {
    /// Some turns, at times at the same millisecond.
    Talk,
    /// No event at all.
    Silence,
    /// More events than one batch or one page takes.
    Long,
    /// More bytes than one batch or one page takes.
    Large,
    /// Some turns of many words.
    Wordy,
}

/// One line, with what an import is to count.
pub struct Line {
    pub session_id: String,
    started_ms: i64,
    pub events: usize,
    pub text: String,
}

/// Several hundred conversations of all shapes, newest first.
pub fn mixed(random: &mut Random, count: usize) -> Vec<Line> {
    let mut lines: Vec<_> = (0..count)
        .map(|at| {
            let shape = match at % 50 {
                7 => Shape::Long,
                23 if at < 50 => Shape::Large,
                9 | 19 | 29 | 39 | 49 => Shape::Silence,
                _ => Shape::Talk,
            };
            line(random, &format!("call-{at}"), shape)
        })
        .collect();
    lines.sort_by(|a, b| (b.started_ms, &b.session_id).cmp(&(a.started_ms, &a.session_id)));
    lines
}

/// The lines as one file.
pub fn file(lines: &[Line]) -> String {
    lines.iter().map(|line| format!("{}\n", line.text)).collect()
}

pub fn events(lines: &[Line]) -> usize {
    lines.iter().map(|line| line.events).sum()
}

pub fn line(random: &mut Random, id: &str, shape: Shape) -> Line {
    // Few enough days that sessions share their start, and then the id decides.
    let days = i64::try_from(random.below(40)).expect("a small number");
    let started_ms = BEGIN_MS + days * DAY_MS;
    let events = events_of(random, shape, started_ms);
    let ended = random.chance(60);
    let mut session = Map::new();
    session.insert("sessionId".to_owned(), json!(id));
    if random.chance(50) {
        session.insert(
            "language".to_owned(),
            json!(random.pick(&["en-US", "hi", "zh-Hant-TW"])),
        );
    }
    session.insert("startedAt".to_owned(), json!(timestamp(started_ms)));
    if random.chance(50) {
        session.insert(
            "userId".to_owned(),
            json!(format!("{}{}", random.pick(&USERS), random.below(20))),
        );
    }
    let metadata = match random.chance(50) {
        true => json!({}),
        false => json!({"z": random.pick(&TEXTS), "a": {"nested": [1, -2.5, null, true]}, "": "empty key"}),
    };
    session.insert("metadata".to_owned(), metadata);
    let active = if events.is_empty() {
        random.chance(50)
    } else {
        true
    };
    if active && !ended {
        session.insert("status".to_owned(), json!("active"));
    }
    let count = events.len();
    let mut conversation = Map::new();
    conversation.insert("session".to_owned(), Value::Object(session));
    conversation.insert("events".to_owned(), Value::Array(events));
    if ended {
        conversation.insert("complete".to_owned(), end(random, started_ms));
    }
    Line {
        session_id: id.to_owned(),
        started_ms,
        events: count,
        text: Value::Object(conversation).to_string(),
    }
}

fn end(random: &mut Random, started_ms: i64) -> Value {
    let mut end = Map::new();
    end.insert("status".to_owned(), json!(random.pick(&["completed", "failed"])));
    if random.chance(50) {
        end.insert("reason".to_owned(), json!(random.pick(&TEXTS)));
    }
    end.insert("endedAt".to_owned(), json!(timestamp(started_ms + DAY_MS)));
    Value::Object(end)
}

fn events_of(random: &mut Random, shape: Shape, started_ms: i64) -> Vec<Value> {
    let (count, bytes) = match shape {
        Shape::Talk => (1 + random.below(20), 0),
        Shape::Silence => (0, 0),
        Shape::Long => (501 + random.below(700), 0),
        Shape::Large => (22, 250 * 1024),
        Shape::Wordy => (100, 4 * 1024),
    };
    let mut at_ms = started_ms;
    let mut events = Vec::with_capacity(count);
    for at in 0..count {
        if random.chance(60) {
            at_ms += i64::try_from(random.below(2_000)).expect("a small number");
        }
        let said = match bytes {
            0 => (*random.pick(&TEXTS)).to_owned(),
            bytes => "x".repeat(bytes),
        };
        let payload = match random.below(4) {
            _ if bytes > 0 => json!({"text": said}),
            0 => json!({"text": said}),
            1 => json!({"text": said, "confidence": 0.1 + 0.2, "tokens": i64::MIN, "cost": 1e-300}),
            2 => json!({"b": [[], {}, [said]], "a": {"b": {"c": i64::MAX}}}),
            _ => json!({}),
        };
        events.push(json!({
            // Ids count down, so that they never are the order by accident.
            "eventId": format!("turn-{}", 100_000 - at),
            "type": random.pick(&["user_speech", "bot_speech", "system", "tool.call-2"]),
            "timestamp": timestamp(at_ms),
            "payload": payload,
        }));
    }
    events
}

fn timestamp(ms: i64) -> String {
    Timestamp::from_unix_ms(ms).expect("within range").to_string()
}
