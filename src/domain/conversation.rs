//! A whole conversation on one line of JSON: how conversations are imported and exported.
//!
//! `{"session": {…}, "events": [{…}, …], "complete": {…}}`, where `complete` is left out while the session goes on.
//! `session`, `events` and `complete` are the bodies that the API takes, but for two things: `sessionId` is
//! required, since without it a repeated import would open a second session, and `complete` may say `endedAt`.

use std::ops::ControlFlow;

use super::{
    error::{Error, FAULTS_TOLD_MAX, FieldError, Kind, Result},
    event::{Event, NewEvent},
    id::SessionId,
    json::{Fields, ObjectWriter, for_each_element},
    session::{End, NewSession, Session, Status},
};

/// A conversation as it is imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    pub id: SessionId,
    /// Its id stands in `id`.
    pub session: NewSession,
    pub events: Vec<NewEvent>,
    pub end: Option<End>,
}

impl Conversation {
    /// Reads one line.
    ///
    /// # Errors
    /// Any fault anywhere refuses the whole line, so that it can be mended and imported again.
    pub fn read(line: &[u8]) -> Result<Self> {
        let mut fields = Fields::split(line, "")?;
        let session = fields.required_nested("session", |text| {
            let mut session = NewSession::read(text.as_bytes(), "session.")?;
            let id = session
                .id
                .take()
                .ok_or_else(|| fault("session.sessionId", "is required"))?;
            Ok((id, session))
        });
        let events = fields.required_nested("events", read_events);
        let end = fields.nested("complete", |text| {
            End::read_imported(text.as_bytes(), "complete.")
        });
        fields.finish(|| {
            let (id, session) = session?;
            Some(Self {
                id,
                session,
                events: events?,
                end,
            })
        })
    }
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

/// Appends the `session` object of an exported conversation.
pub fn write_session(out: &mut Vec<u8>, session: &Session) {
    let mut object = ObjectWriter::new(out);
    object.plain("sessionId", session.id.as_str());
    if let Some(language) = &session.language {
        object.plain("language", language.as_str());
    }
    object.timestamp("startedAt", session.started_at);
    if let Some(user_id) = &session.user_id {
        object.plain("userId", user_id.as_str());
    }
    object.raw("metadata", session.metadata.as_str());
    // An ended session was active by its events, and one that is initiated is so by default.
    if session.status == Status::Active {
        object.plain("status", session.status.as_str());
    }
    object.end();
}

/// Appends one element of the `events` array of an exported conversation.
pub fn write_event(out: &mut Vec<u8>, event: &Event) {
    let mut object = ObjectWriter::new(out);
    object.plain("eventId", event.id.as_str());
    object.plain("type", event.event_type.as_str());
    object.timestamp("timestamp", event.timestamp);
    object.raw("payload", event.payload.as_str());
    object.end();
}

/// Appends the `complete` object of an exported conversation, for a session that has ended.
pub fn write_end(out: &mut Vec<u8>, session: &Session) {
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
}
