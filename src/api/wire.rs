//! How the objects of the API are written as JSON; their shapes are in [`shape`](super::shape).
//!
//! Payloads and metadata are kept as compact JSON, so an answer is put together by copying, not by serialising.

use super::problem::{Code, Problem};
use crate::{
    domain::{Appended, Error, EventId, JsonObject, Limit, Session, Timestamp, json::ObjectWriter},
    service::{ReadPage, SessionsPage},
};

fn write_pagination(object: &mut ObjectWriter<'_>, limit: Limit, next_cursor: Option<&str>) {
    object.object("pagination", |pagination| {
        pagination.integer("limit", limit.get());
        pagination.boolean("hasMore", next_cursor.is_some());
        if let Some(cursor) = next_cursor {
            pagination.plain("nextCursor", cursor);
        }
    });
}

/// A page of events, with the session where it was asked for.
pub fn write_read_page(out: &mut Vec<u8>, page: &ReadPage, limit: Limit) {
    let mut object = ObjectWriter::new(out);
    if page.has_session() {
        object.value("session", |out| page.write_session(out));
    }
    object.value("events", |out| {
        out.push(b'[');
        page.write_events(out);
        out.push(b']');
    });
    write_pagination(&mut object, limit, page.next_cursor.as_deref());
    object.end();
}

/// A session in the form of a page, without its events. There is no walk, so it says that nothing follows.
pub fn write_session_alone(out: &mut Vec<u8>, session: &Session) {
    let mut object = ObjectWriter::new(out);
    object.value("session", |out| session.write_json(out));
    object.raw("events", "[]");
    object.object("pagination", |pagination| {
        pagination.integer("limit", 0);
        pagination.boolean("hasMore", false);
    });
    object.end();
}

pub fn write_session_page(out: &mut Vec<u8>, page: &SessionsPage, limit: Limit) {
    let mut object = ObjectWriter::new(out);
    object.array("sessions", &page.sessions, |out, session| session.write_json(out));
    write_pagination(&mut object, limit, page.next_cursor.as_deref());
    object.end();
}

pub fn write_readiness(out: &mut Vec<u8>, cache: &str, archive: &str) {
    let mut object = ObjectWriter::new(out);
    object.plain("status", "ready");
    object.object("backends", |backends| {
        backends.plain("store", "ok");
        backends.plain("cache", cache);
        backends.plain("archive", archive);
    });
    object.end();
}

/// One outcome: the event's id where it could be read, and what became of it.
pub type Outcome = (Option<EventId>, Result<Appended, Error>);

/// Appends the runs of the archiver, each of which is JSON already, and what is left to do.
pub fn write_runs(
    out: &mut Vec<u8>,
    runs: &[JsonObject],
    oldest_due: Option<Timestamp>,
    erasures_pending: u64,
) {
    let mut object = ObjectWriter::new(out);
    object.array("runs", runs, |out, run| {
        out.extend_from_slice(run.as_str().as_bytes())
    });
    if let Some(ended_at) = oldest_due {
        object.timestamp("oldestDueEndedAt", ended_at);
    }
    object.integer(
        "erasuresPending",
        i64::try_from(erasures_pending).unwrap_or(i64::MAX),
    );
    object.end();
}

pub fn write_outcomes(out: &mut Vec<u8>, outcomes: Vec<Outcome>, request_id: &str) {
    let mut object = ObjectWriter::new(out);
    object.array("outcomes", outcomes, |out, (id, outcome)| {
        let mut object = ObjectWriter::new(out);
        if let Some(id) = id {
            object.plain("eventId", id.as_str());
        }
        match outcome {
            Ok(appended) => {
                object.plain("outcome", if appended.replayed { "replayed" } else { "created" });
                object.integer("seq", appended.event.seq);
                object.timestamp("timestamp", appended.event.timestamp);
            }
            Err(error) => {
                let problem = Problem::from(error);
                let conflict = problem.code == Code::EventIdReused;
                object.plain("outcome", if conflict { "conflict" } else { "rejected" });
                object.value("problem", |out| problem.write(out, request_id));
            }
        }
        object.end();
    });
    object.end();
}
