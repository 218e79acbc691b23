//! What each operation can answer, as a table: name, id, shape of the body, successes, problems.

use super::{
    answer::{ETAG, Header, LOCATION, Operation, REPLAYED, Success, problems_of},
    problem::Code::{
        self, BadRequest, ContentTooLarge, EventIdReused, EventNotFound, InvalidCursor, MalformedJson,
        Overloaded, RequestTimeout, SessionEnded, SessionErased, SessionNotFound, UnsupportedMediaType,
        ValidationFailed, VersionMismatch,
    },
    shape,
};

macro_rules! operations {
    ($($name:ident $id:literal -> $body:ident {
        $($status:literal $description:literal [$($header:ident),*],)+
    } $problems:expr;)*) => {
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
        200 "There is a session with this id already; here it is, untouched." [ETAG],
    } &[BadRequest, MalformedJson, RequestTimeout, SessionErased, ContentTooLarge, UnsupportedMediaType, ValidationFailed];

    GetSession "getSession" -> SessionWithEvents {
        200 "The session and a page of its events." [ETAG],
    } &[InvalidCursor, SessionNotFound, SessionErased];

    ListSessions "listSessions" -> SessionPage {
        200 "A page of sessions." [],
    } &[InvalidCursor];

    UpdateSession "updateSession" -> Session {
        200 "The session as it is now." [ETAG],
    } &[BadRequest, MalformedJson, RequestTimeout, SessionNotFound, SessionErased, VersionMismatch, ContentTooLarge, UnsupportedMediaType, ValidationFailed];

    CompleteSession "completeSession" -> Session {
        200 "The session as the first call ended it." [ETAG],
    } &[BadRequest, MalformedJson, RequestTimeout, SessionNotFound, SessionErased, ContentTooLarge, UnsupportedMediaType, ValidationFailed];

    DeleteSession "deleteSession" -> Nothing {
        204 "The session is erased, or never was." [],
    } &[];

    AppendEvent "appendEvent" -> Event {
        201 "The event was stored." [LOCATION],
        200 "A replay: the event was there already; here it is as stored." [REPLAYED],
    } &[BadRequest, MalformedJson, RequestTimeout, SessionNotFound, SessionErased, SessionEnded, EventIdReused, ContentTooLarge, UnsupportedMediaType, ValidationFailed, Overloaded];

    AppendEvents "appendEvents" -> BatchOutcomes {
        200 "One outcome an event, in order." [],
    } &[BadRequest, MalformedJson, RequestTimeout, SessionNotFound, SessionErased, ContentTooLarge, UnsupportedMediaType, ValidationFailed, Overloaded];

    ListEvents "listEvents" -> EventPage {
        200 "A page of events." [],
    } &[InvalidCursor, SessionNotFound, SessionErased];

    GetEvent "getEvent" -> Event {
        200 "The event." [],
    } &[SessionNotFound, SessionErased, EventNotFound];

    GetHealth "getHealth" -> Health {
        200 "The process is up." [],
    } &[];

    GetReadiness "getReadiness" -> Readiness {
        200 "Requests can be served." [],
    } &[];
}
