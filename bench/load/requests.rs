//! The requests: each is made beforehand as bytes, and only the ids in it are written when it is sent.

use std::path::Path;

use serde_json::{Value, json};

use crate::Failure;

pub const EVENTS_OF_BATCH: usize = 100;
pub const EVENTS_OF_SESSION: usize = 50;
const ID_DIGITS: usize = 12;
const SESSION_PLACE: &str = "ssssssssssss";
const EVENT_PLACE: &str = "eeeeeeeeeeee";

/// Events and sessions as people have them, taken in turn from a file of conversations.
pub struct Bodies {
    events: Vec<(String, Value)>,
    sessions: Vec<Value>,
}

impl Bodies {
    /// Reads JSON Lines, as `colloquy import` does.
    ///
    /// # Errors
    /// The file is not there, a line is no conversation, or there is no event in any.
    pub fn read(file: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let (mut events, mut sessions) = (Vec::new(), Vec::new());
        for (number, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let at = |what: &str| format!("{}, line {}: {what}", file.display(), number + 1);
            let mut conversation: Value =
                serde_json::from_str(line).map_err(|error| at(&error.to_string()))?;
            let mut session = conversation["session"].take();
            let fields = session.as_object_mut().ok_or_else(|| at("no session"))?;
            fields.remove("startedAt");
            sessions.push(session);
            for event in conversation["events"].as_array_mut().into_iter().flatten() {
                let kind = event["type"]
                    .as_str()
                    .ok_or_else(|| at("an event without a type"))?;
                events.push((kind.to_owned(), event["payload"].take()));
            }
        }
        match events.is_empty() {
            true => Err(format!("{} has no events", file.display()).into()),
            false => Ok(Self { events, sessions }),
        }
    }

    fn event(&self, nth: usize) -> Value {
        let (kind, payload) = &self.events[nth % self.events.len()];
        json!({"eventId": format!("e-{EVENT_PLACE}"), "type": kind, "payload": payload})
    }

    /// The payloads, and their types, for who writes to a database directly.
    pub fn events(&self) -> &[(String, Value)] {
        &self.events
    }

    /// Single events, one request for each that the file has.
    pub fn appends(&self, sessions: &Sessions) -> Vec<Template> {
        let path = format!("/v1/sessions/{}/events", sessions.place());
        (0..self.events.len())
            .map(|nth| Template::post(&path, &self.event(nth).to_string(), 201))
            .collect()
    }

    /// Batches of so many events, beginning with each that the file has in turn.
    pub fn batches(&self, sessions: &Sessions, events: usize) -> Vec<Template> {
        let path = format!("/v1/sessions/{}/events/batch", sessions.place());
        let batch =
            |from: usize| -> Vec<Value> { (from..from + events).map(|nth| self.event(nth)).collect() };
        let starts = self.events.len().min(8);
        (0..starts)
            .map(|from| Template::post(&path, &json!({"events": batch(from)}).to_string(), 200))
            .collect()
    }

    /// Opens with the language, user and metadata of each session in the file.
    pub fn opens(&self, sessions: &Sessions) -> Vec<Template> {
        let open = |session: &Value| {
            let mut session = session.clone();
            session["sessionId"] = json!(sessions.place());
            Template::post("/v1/sessions", &session.to_string(), 201)
        };
        self.sessions.iter().map(open).collect()
    }
}

/// The context of a conversation that goes on: its newest 50 events.
pub fn reads(sessions: &Sessions) -> Vec<Template> {
    let path = format!(
        "/v1/sessions/{}?order=desc&limit={EVENTS_OF_SESSION}",
        sessions.place()
    );
    vec![Template::new(
        &format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n"),
        200,
    )]
}

pub fn completes(sessions: &Sessions) -> Vec<Template> {
    let path = format!("/v1/sessions/{}/complete", sessions.place());
    vec![Template::post(&path, r#"{"status":"completed"}"#, 200)]
}

/// Sessions whose ids begin alike.
#[derive(Clone, Copy)]
pub struct Sessions {
    pub prefix: &'static str,
    pub count: u64,
}

impl Sessions {
    fn place(self) -> String {
        format!("{}-{SESSION_PLACE}", self.prefix)
    }
}

/// A request with places for ids, which are always as long.
#[derive(Clone)]
pub struct Template {
    bytes: Vec<u8>,
    sessions: Vec<usize>,
    events: Vec<usize>,
    /// The status of the answer that counts.
    pub status: u16,
}

impl Template {
    fn new(text: &str, status: u16) -> Self {
        let places = |what: &str| text.match_indices(what).map(|(at, _)| at).collect();
        Self {
            sessions: places(SESSION_PLACE),
            events: places(EVENT_PLACE),
            bytes: text.as_bytes().to_vec(),
            status,
        }
    }

    fn post(path: &str, body: &str, status: u16) -> Self {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n");
        Self::new(&format!("{head}content-length: {length}\r\n\r\n{body}"), status)
    }

    /// How many events it has.
    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// Writes it with a session, and with events numbered from `event`.
    pub fn write(&self, session: u64, event: u64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        for at in &self.sessions {
            write_digits(&mut out[*at..*at + ID_DIGITS], session);
        }
        for (nth, at) in (0..).zip(&self.events) {
            write_digits(&mut out[*at..*at + ID_DIGITS], event + nth);
        }
    }
}

fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        // A remainder of ten fits.
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
