//! A whole conversation as JSON Lines: how conversations are imported and exported.
//!
//! `{"session": {…}, "events": [{…}, …], "part": 2, "complete": {…}}`. `session`, `events` and `complete` are the bodies that
//! the API takes, but for two things: `sessionId` is required, since without it a repeated import would open a second
//! session, and `complete` may say `endedAt`. `complete` is left out while the session goes on.
//!
//! Most conversations are one line, without `part`. One that would be longer than [`LINE_BYTES_MAX`] is several lines,
//! one after the other, numbered from 1: each has the session and the next of its events, and the last has `complete`.

use std::ops::ControlFlow;

use super::{
    error::{Error, FAULTS_TOLD_MAX, FieldError, Kind, Result},
    event::{Event, NewEvent},
    id::SessionId,
    json::{Fields, ObjectWriter, for_each_element},
    session::{End, NewSession, OpenStatus, Session, Status},
};

/// Longest line that an export writes, in bytes, its end included; well below what an import takes by default.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Room on a line for what stands behind its events: a reason of 1,024 characters, each escaped, is the most of it.
const LINE_END_BYTES_MAX: usize = 8 * 1024;

/// A conversation, or a part of one, as it is imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    pub id: SessionId,
    /// Its id stands in `id`.
    pub session: NewSession,
    pub events: Vec<NewEvent>,
    pub end: Option<End>,
    /// Which part of the conversation it is, from 1; `None` of one that is whole.
    pub part: Option<u32>,
    given: Given,
}

/// Whether the line says what has a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Given {
    metadata: bool,
    end_status: bool,
}

impl Conversation {
    /// Reads one line.
    ///
    /// # Errors
    /// Any fault anywhere refuses the whole line, so that it can be mended and imported again.
    pub fn read(line: &[u8]) -> Result<Self> {
        let mut given = Given::default();
        let mut fields = Fields::split(line, "")?;
        let session = fields.required_nested("session", |text| {
            let mut session = NewSession::read(text.as_bytes(), "session.")?;
            given.metadata = Fields::split(text.as_bytes(), "")?.has("metadata");
            let id = session
                .id
                .take()
                .ok_or_else(|| fault("session.sessionId", "is required"))?;
            Ok((id, session))
        });
        let events = fields.required_nested("events", read_events);
        let part = fields.optional("part", |text| match text.parse() {
            Ok(part @ 1..) => Ok(part),
            _ => Err("must be a whole number from 1".into()),
        });
        let end = fields.nested("complete", |text| {
            let end = End::read_imported(text.as_bytes(), "complete.")?;
            given.end_status = Fields::split(text.as_bytes(), "")?.has("status");
            Ok(end)
        });
        fields.finish(|| {
            let (id, session) = session?;
            Some(Self {
                id,
                session,
                events: events?,
                end,
                part,
                given,
            })
        })
    }

    /// The fields of `session` that say other than the session that was stored already. What the line leaves out differs
    /// from nothing, nor does a status that the session has left behind.
    pub fn differs_from_opened(&self, stored: &Session) -> Vec<&'static str> {
        let new = &self.session;
        // The first event makes it active.
        let stays_initiated = stored.status == Status::Initiated && self.events.is_empty();
        let differing = [
            (
                "session.userId",
                new.user_id.is_some() && new.user_id != stored.user_id,
            ),
            (
                "session.language",
                new.language.is_some() && new.language != stored.language,
            ),
            (
                "session.metadata",
                self.given.metadata && !new.metadata.same_value(&stored.metadata),
            ),
            (
                "session.startedAt",
                new.started_at.is_some_and(|at| at != stored.started_at),
            ),
            (
                "session.status",
                new.status == OpenStatus::Active && stays_initiated,
            ),
        ];
        named(&differing)
    }

    /// The fields of `complete` that say other than the session that has ended.
    pub fn differs_from_ended(&self, stored: &Session) -> Vec<&'static str> {
        let Some(end) = &self.end else { return Vec::new() };
        let differing = [
            (
                "complete.status",
                self.given.end_status && Status::from(end.status) != stored.status,
            ),
            (
                "complete.reason",
                end.reason.is_some() && end.reason != stored.end_reason,
            ),
            (
                "complete.endedAt",
                end.ended_at.is_some() && end.ended_at != stored.ended_at,
            ),
        ];
        named(&differing)
    }
}

fn named(differing: &[(&'static str, bool)]) -> Vec<&'static str> {
    let differing = differing.iter().filter(|(_, differs)| *differs);
    differing.map(|(field, _)| *field).collect()
}

/// Reads the events one by one, so that a line of a million bad ones costs no more than the few that are told.
fn read_events(text: &str) -> Result<Vec<NewEvent>> {
    let (mut events, mut at) = (Vec::new(), 0);
    let (mut faults, mut kind) = (Vec::new(), Kind::Invalid);
    let walked = for_each_element(text, |text| {
        let place = format!("events[{at}]");
        at += 1;
        match NewEvent::read(text.as_bytes(), &format!("{place}.")) {
            Ok(event) => events.push(event),
            Err(error) => {
                if error.kind() == Kind::TooLarge {
                    kind = Kind::TooLarge;
                }
                faults.extend(error.faults_of(&place));
            }
        }
        Ok(match faults.len() {
            told if told < FAULTS_TOLD_MAX => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        })
    });
    match walked {
        Err(refusal) => Err(fault("events", &refusal.message)),
        Ok(()) if faults.is_empty() => Ok(events),
        Ok(()) => Err(Error::of_fields(kind, faults)),
    }
}

fn fault(field: &str, message: &str) -> Error {
    let fault = FieldError {
        field: field.to_owned(),
        message: message.to_owned(),
    };
    Error::of_fields(Kind::Invalid, vec![fault])
}

/// Writes the lines of one conversation, as the events come.
pub struct LineWriter<'a> {
    session: &'a Session,
    line: Vec<u8>,
    /// Which part the line is.
    part: u32,
    events_on_line: usize,
}

impl<'a> LineWriter<'a> {
    pub fn new(session: &'a Session) -> Self {
        let mut writer = Self {
            session,
            line: Vec::new(),
            part: 1,
            events_on_line: 0,
        };
        writer.begin();
        writer
    }

    fn begin(&mut self) {
        self.events_on_line = 0;
        self.line.extend_from_slice(b"{\"session\":");
        write_session(&mut self.line, self.session);
        self.line.extend_from_slice(b",\"events\":[");
    }

    /// Adds an event; gives the line before it where that is full.
    pub fn event(&mut self, event: &Event) -> Option<Vec<u8>> {
        let before = self.line.len();
        if self.events_on_line > 0 {
            self.line.push(b',');
        }
        write_event(&mut self.line, event);
        self.events_on_line += 1;
        if self.line.len() + LINE_END_BYTES_MAX <= LINE_BYTES_MAX || self.events_on_line == 1 {
            return None;
        }
        self.line.truncate(before);
        let mut full = std::mem::take(&mut self.line);
        full.extend_from_slice(format!("],\"part\":{}}}\n", self.part).as_bytes());
        self.part += 1;
        self.begin();
        write_event(&mut self.line, event);
        self.events_on_line = 1;
        Some(full)
    }

    /// How many lines of the conversation were given out.
    pub fn lines_given(&self) -> u32 {
        self.part - 1
    }

    /// The last line.
    pub fn finish(mut self) -> Vec<u8> {
        self.line.push(b']');
        if self.part > 1 {
            self.line
                .extend_from_slice(format!(",\"part\":{}", self.part).as_bytes());
        }
        if self.session.status.has_ended() {
            self.line.extend_from_slice(b",\"complete\":");
            write_end(&mut self.line, self.session);
        }
        self.line.extend_from_slice(b"}\n");
        self.line
    }
}

fn write_session(out: &mut Vec<u8>, session: &Session) {
    let mut object = ObjectWriter::new(out);
    object.plain("sessionId", session.id.as_str());
    if let Some(language) = &session.language {
        object.plain("language", language.as_str());
    }
    object.timestamp("startedAt", session.started_at);
    if let Some(user_id) = &session.user_id {
        object.text("userId", user_id.as_str());
    }
    object.raw("metadata", session.metadata.as_str());
    // An ended session was active by its events, and one that is initiated is so by default.
    if session.status == Status::Active {
        object.plain("status", session.status.as_str());
    }
    object.end();
}

fn write_event(out: &mut Vec<u8>, event: &Event) {
    let mut object = ObjectWriter::new(out);
    object.plain("eventId", event.id.as_str());
    object.plain("type", event.event_type.as_str());
    object.timestamp("timestamp", event.timestamp);
    object.raw("payload", event.payload.as_str());
    object.end();
}

fn write_end(out: &mut Vec<u8>, session: &Session) {
    let mut object = ObjectWriter::new(out);
    object.plain("status", session.status.as_str());
    object.optional_text("reason", session.end_reason.as_deref());
    if let Some(ended_at) = session.ended_at {
        object.timestamp("endedAt", ended_at);
    }
    object.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JsonObject, Timestamp};

    #[test]
    fn a_conversation_is_read_whole() {
        let line = br#"{"session":{"sessionId":"s"},"events":[{"eventId":"e","type":"system","payload":{}}],
            "complete":{"status":"failed","reason":"r","endedAt":"2026-09-01T08:00:00Z"}}"#;
        let conversation = Conversation::read(line).unwrap();
        assert_eq!(conversation.id.as_str(), "s");
        assert_eq!(conversation.events.len(), 1);
        assert!(conversation.end.unwrap().ended_at.is_some());
    }

    #[test]
    fn every_fault_is_named_where_it_stands() {
        let line =
            br#"{"session":{"language":7},"events":[{},{"eventId":"e","type":"T","payload":[]}],"more":1}"#;
        let error = Conversation::read(line).unwrap_err();
        let named: Vec<_> = error.fields().iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(
            named,
            [
                "session.language",
                "events[0].eventId",
                "events[0].type",
                "events[0].payload",
                "events[1].type",
                "events[1].payload",
                "more"
            ]
        );
        for (line, field) in [
            ("{}", "session"),
            (r#"{"session":{},"events":[]}"#, "session.sessionId"),
            (r#"{"session":{"sessionId":"s"},"events":{}}"#, "events"),
            (r#"{"session":{"sessionId":"s"},"events":[],"part":0}"#, "part"),
            (r#"{"session":{"sessionId":"s"},"events":[],"part":"1"}"#, "part"),
            (r#"{"session":{"sessionId":"s"},"events":[],"part":1.0}"#, "part"),
            (
                r#"{"session":{"sessionId":"s\ud83d"},"events":[]}"#,
                "session.sessionId",
            ),
            (
                r#"{"session":{"sessionId":"s"},"events":[{"eventId":"e","type":"t","payload":{"a":"\ud83d"}}]}"#,
                "events[0].payload",
            ),
            (r#"{"session":[],"events":[]}"#, "session"),
            (r#"{"session":{"sessionId":"s"},"events":[1]}"#, "events[0]"),
            (
                r#"{"session":{"sessionId":"s"},"events":[],"complete":null}"#,
                "complete",
            ),
        ] {
            let error = Conversation::read(line.as_bytes()).unwrap_err();
            assert_eq!(error.fields()[0].field, field, "{line}");
        }
    }

    fn stored(line: &str) -> Session {
        let read = Conversation::read(line.as_bytes()).unwrap();
        let mut session = Session::opened(read.session, read.id, Timestamp::EPOCH);
        if let Some(end) = &read.end {
            session.end(end, Timestamp::EPOCH, None);
        }
        session
    }

    #[test]
    fn what_a_line_says_otherwise_is_named_and_what_it_leaves_out_is_not() {
        let full = r#"{"session":{"sessionId":"s","userId":"u","language":"en","metadata":{"a":1,"b":2},"startedAt":"2026-01-01T00:00:00Z","status":"active"},
            "events":[],"complete":{"status":"failed","reason":"r","endedAt":"2026-01-02T00:00:00Z"}}"#;
        let differing = |line: &str, stored: &Session| {
            let line = Conversation::read(line.as_bytes()).unwrap();
            [line.differs_from_opened(stored), line.differs_from_ended(stored)].concat()
        };
        let of_full = stored(full);
        assert!(differing(full, &of_full).is_empty());
        let same = full
            .replace(r#"{"a":1,"b":2}"#, r#"{"b":2.0,"a":1}"#)
            .replace("00:00:00Z", "01:00:00.0004+01:00");
        assert!(differing(&same, &of_full).is_empty());
        let little = r#"{"session":{"sessionId":"s"},"events":[],"complete":{}}"#;
        assert!(differing(little, &of_full).is_empty());
        assert!(differing(r#"{"session":{"sessionId":"s"},"events":[]}"#, &of_full).is_empty());
        for (from, to, field) in [
            (r#""u""#, r#""v""#, "session.userId"),
            (r#""en""#, r#""de""#, "session.language"),
            (r#""a":1"#, r#""a":2"#, "session.metadata"),
            (r#"{"a":1,"b":2}"#, "{}", "session.metadata"),
            ("2026-01-01", "2026-01-03", "session.startedAt"),
            (r#""failed""#, r#""completed""#, "complete.status"),
            (r#""r""#, r#""""#, "complete.reason"),
            ("2026-01-02", "2026-01-03", "complete.endedAt"),
        ] {
            assert_eq!(differing(&full.replace(from, to), &of_full), [field]);
        }
        // The stored one has nothing of it.
        let of_little = stored(little);
        let all = [
            "session.userId",
            "session.language",
            "session.metadata",
            "session.startedAt",
            "complete.status",
            "complete.reason",
            "complete.endedAt",
        ];
        assert_eq!(differing(full, &of_little), all);
        let initiated = stored(r#"{"session":{"sessionId":"s"},"events":[]}"#);
        let active = r#"{"session":{"sessionId":"s","status":"active"},"events":[]}"#;
        assert_eq!(differing(active, &initiated), ["session.status"]);
        assert!(
            differing(
                r#"{"session":{"sessionId":"s","status":"initiated"},"events":[]}"#,
                &stored(active)
            )
            .is_empty()
        );
    }

    fn lines(session: &Session, events: &[Event]) -> Vec<Vec<u8>> {
        let mut writer = LineWriter::new(session);
        let mut lines: Vec<_> = events.iter().filter_map(|event| writer.event(event)).collect();
        assert_eq!(lines.len(), usize::try_from(writer.lines_given()).unwrap());
        lines.push(writer.finish());
        lines
    }

    /// With the longest of everything that a session and an event may have.
    #[test]
    fn no_line_is_longer_than_the_bound_and_each_reads_back() {
        let longest = |character: char, count: usize| character.to_string().repeat(count);
        let session = NewSession {
            user_id: Some(longest('u', 128).parse().unwrap()),
            metadata: JsonObject::read(
                &format!(r#"{{"m":"{}"}}"#, longest('m', 16 * 1024 - 8)),
                16 * 1024,
            )
            .unwrap(),
            ..NewSession::default()
        };
        let mut session = Session::opened(session, longest('s', 128).parse().unwrap(), Timestamp::EPOCH);
        let end = End {
            reason: Some(longest('\u{1}', 1024)),
            ..End::default()
        };
        session.end(&end, Timestamp::EPOCH, None);
        let event = |payload_bytes: usize| Event {
            id: "e".parse().unwrap(),
            session: session.id.clone(),
            seq: 0,
            event_type: longest('t', 64).parse().unwrap(),
            payload: JsonObject::read(
                &format!(r#"{{"p":"{}"}}"#, longest('p', payload_bytes - 8)),
                payload_bytes,
            )
            .unwrap(),
            timestamp: Timestamp::EPOCH,
        };
        let most = 256 * 1024;
        for (count, bytes, lines_expected) in [
            (0, 0, 1),
            (1, most, 1),
            (63, most, 1),
            (64, most, 2),
            (130, most, 3),
            (80_000, 10, 2),
        ] {
            let one = (count > 0).then(|| event(bytes));
            let of = |at: usize| Event {
                id: format!("{at:0128}").parse().unwrap(),
                ..one.clone().unwrap()
            };
            let events: Vec<Event> = (0..count).map(of).collect();
            let lines = lines(&session, &events);
            assert_eq!(lines.len(), lines_expected, "{count} of {bytes}");
            let mut read = Vec::new();
            for (at, line) in lines.iter().enumerate() {
                assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
                assert!(
                    at + 1 == lines.len() || line.len() > LINE_BYTES_MAX - 300 * 1024,
                    "lines are filled"
                );
                let line = Conversation::read(line).unwrap();
                let part = u32::try_from(at + 1).unwrap();
                assert_eq!(line.part, (lines.len() > 1).then_some(part));
                assert_eq!(line.end.is_some(), at + 1 == lines.len());
                assert!(line.differs_from_opened(&session).is_empty());
                read.extend(line.events.into_iter().map(|event| event.id));
            }
            assert!(read.iter().eq(events.iter().map(|event| &event.id)));
        }
    }
}
