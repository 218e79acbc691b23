//! What each operation can answer, as a table: name, id, shape of the body, successes, problems.

use super::{
    answer::{ETAG, ETAG_ALONE, Header, LOCATION, Operation, REPLAYED, Success, problems_of},
    problem::Code::{
        self, ArchiveDamaged, ArchiveUnavailable, BadRequest, ContentTooLarge, Draining, EventIdReused,
        EventNotFound, InvalidCursor, MalformedJson, RequestTimeout, SessionArchived, SessionEnded,
        SessionErased, SessionNotFound, UnsupportedMediaType, ValidationFailed, VersionMismatch,
    },
    shape,
};

macro_rules! operations {
    ($($name:ident $id:literal -> $body:ident {
        $($status:literal $description:literal [$($header:ident),*],)+
    } $problems:expr, asks_store: $asks_store:literal;)*) => {
        $(
            pub struct $name;

            impl Operation for $name {
                const ID: &'static str = $id;
                type Body = shape::$body;
                const SUCCESSES: &'static [Success] = &[
                    $(Success {
                        status: $status,
                        description: $description,
                        headers: { const HEADERS: &[Header] = &[$($header),*]; HEADERS },
                    },)+
                ];
                const PROBLEMS: &'static [Code] = $problems;
                const ASKS_STORE: bool = $asks_store;
            }
        )*

        /// Every operation's id with the problems it can answer with.
        pub fn catalogue() -> Vec<(&'static str, Vec<Code>)> {
            vec![$(($id, problems_of::<$name>())),*]
        }
    };
}

operations! {
    OpenSession "openSession" -> Session {
        201 "The session was opened." [LOCATION, ETAG],
        200 "A replay: there is a session with this id already; here it is, untouched." [ETAG, REPLAYED],
    } &[BadRequest, MalformedJson, RequestTimeout, SessionErased, ContentTooLarge, UnsupportedMediaType, ValidationFailed], asks_store: true;

    GetSession "getSession" -> SessionWithEvents {
        200 "The session and a page of its events." [ETAG_ALONE],
    } &[InvalidCursor, SessionNotFound, SessionErased, ArchiveDamaged, ArchiveUnavailable], asks_store: true;

    ListSessions "listSessions" -> SessionPage {
        200 "A page of sessions." [],
    } &[InvalidCursor], asks_store: true;

    UpdateSession "updateSession" -> Session {
        200 "The session as it is now." [ETAG],
    } &[BadRequest, MalformedJson, RequestTimeout, SessionNotFound, SessionArchived, SessionErased, VersionMismatch, ContentTooLarge, UnsupportedMediaType, ValidationFailed], asks_store: true;

    CompleteSession "completeSession" -> Session {
        200 "The session as the first call ended it." [ETAG],
    } &[BadRequest, MalformedJson, RequestTimeout, SessionNotFound, SessionErased, ContentTooLarge, UnsupportedMediaType, ValidationFailed], asks_store: true;

    RestoreSession "restoreSession" -> Session {
        200 "The session, which is not archived any more." [ETAG],
    } &[SessionNotFound, SessionErased, ArchiveDamaged, ArchiveUnavailable], asks_store: true;

    DeleteSession "deleteSession" -> Nothing {
        204 "The session is erased, or never was." [],
    } &[], asks_store: true;

    AppendEvent "appendEvent" -> Event {
        201 "The event was stored." [LOCATION],
        200 "A replay: the event was there already; here it is as stored." [REPLAYED],
    } &[BadRequest, MalformedJson, RequestTimeout, SessionNotFound, SessionErased, SessionEnded, EventIdReused, ContentTooLarge, UnsupportedMediaType, ValidationFailed, ArchiveDamaged, ArchiveUnavailable], asks_store: true;

    AppendEvents "appendEvents" -> BatchOutcomes {
        200 "One outcome an event, in order." [],
    } &[BadRequest, MalformedJson, RequestTimeout, SessionNotFound, SessionErased, ContentTooLarge, UnsupportedMediaType, ValidationFailed, ArchiveDamaged, ArchiveUnavailable], asks_store: true;

    ListEvents "listEvents" -> EventPage {
        200 "A page of events." [],
    } &[InvalidCursor, SessionNotFound, SessionErased, ArchiveDamaged, ArchiveUnavailable], asks_store: true;

    GetEvent "getEvent" -> Event {
        200 "The event." [],
    } &[SessionNotFound, SessionErased, EventNotFound, ArchiveDamaged, ArchiveUnavailable], asks_store: true;

    StartArchiveRun "startArchiveRun" -> ArchiveRun {
        202 "The run has begun." [],
    } &[BadRequest, MalformedJson, RequestTimeout, ContentTooLarge, UnsupportedMediaType, ValidationFailed, ArchiveUnavailable], asks_store: true;

    ListArchiveRuns "listArchiveRuns" -> ArchiveRuns {
        200 "The newest runs, and what is left to do." [],
    } &[ArchiveUnavailable], asks_store: true;

    GetHealth "getHealth" -> Health {
        200 "The process is up." [],
    } &[], asks_store: false;

    GetReadiness "getReadiness" -> Readiness {
        200 "Requests can be served." [],
    } &[Draining], asks_store: true;
}
