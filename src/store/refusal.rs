//! The words in which a store refuses a caller.

use crate::domain::{Error, EventId, Kind, SessionId};

pub(super) fn session_not_found(id: &SessionId) -> Error {
    Error::new(Kind::SessionNotFound, format!("there is no session {id}"))
}

pub(super) fn session_erased(id: &SessionId) -> Error {
    Error::new(
        Kind::SessionErased,
        format!("session {id} was erased, and its id can't be used again yet"),
    )
}

pub(super) fn session_ended(id: &SessionId) -> Error {
    Error::new(
        Kind::SessionEnded,
        format!("session {id} has ended and takes no new events"),
    )
}

pub(super) fn session_archived(id: &SessionId) -> Error {
    Error::new(
        Kind::SessionArchived,
        format!("session {id} is archived: restore it first"),
    )
}

pub(super) fn event_not_found(session: &SessionId, id: &EventId) -> Error {
    Error::new(
        Kind::EventNotFound,
        format!("there is no event {id} in session {session}"),
    )
}

pub(super) fn event_id_reused(session: &SessionId, id: &EventId) -> Error {
    Error::new(
        Kind::EventIdReused,
        format!("session {session} has an event {id} already, with another type or payload"),
    )
}

/// The session holds an event with the greatest `seq` there is. Proposals come from a clock, so a session gets
/// here only by the fault of whoever proposed; no caller can.
pub(super) fn seq_exhausted(id: &SessionId) -> Error {
    Error::new(
        Kind::Internal,
        format!("session {id} has no sequence number left for another event"),
    )
}
