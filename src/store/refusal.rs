//! The words in which a caller is refused, whoever finds out that it has to be.

use crate::domain::{Error, EventId, Kind, SessionId};

pub(crate) fn session_not_found(id: &SessionId) -> Error {
    Error::new(Kind::SessionNotFound, format!("there is no session {id}"))
}

pub(crate) fn session_erased(id: &SessionId) -> Error {
    Error::new(
        Kind::SessionErased,
        format!("session {id} was erased, and its id can't be used again yet"),
    )
}

pub(crate) fn session_ended(id: &SessionId) -> Error {
    Error::new(
        Kind::SessionEnded,
        format!("session {id} has ended and takes no new events"),
    )
}

pub(crate) fn session_archived(id: &SessionId) -> Error {
    Error::new(
        Kind::SessionArchived,
        format!("session {id} is archived: restore it first"),
    )
}

pub(crate) fn event_not_found(session: &SessionId, id: &EventId) -> Error {
    Error::new(
        Kind::EventNotFound,
        format!("there is no event {id} in session {session}"),
    )
}

/// The session holds an event with the greatest `seq` there is. Proposals come from a clock, so a session gets
/// here only by the fault of whoever proposed; no caller can.
pub(crate) fn seq_exhausted(id: &SessionId) -> Error {
    Error::new(
        Kind::Internal,
        format!("session {id} has no sequence number left for another event"),
    )
}
