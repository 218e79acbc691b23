//! What Colloquy talks about: sessions, events, ids, pages and the ways a request can fail.
//!
//! Everything here is pure: no I/O, no clock, no framework. A value of one of these types is valid by
//! construction, so the layers above never check it again.
//!
//! - [`id`]: the names of sessions, events, users and tenants.
//! - [`timestamp`]: an instant, to the millisecond.
//! - [`json`]: strict JSON in, compact JSON out; nothing is rounded or silently dropped.
//! - [`span`]: spans of time as people write them.
//! - [`session`], [`event`]: the two records and what a caller may say about them.
//! - [`conversation`]: a whole conversation on one line, as it is imported and exported.
//! - [`page`]: order, limits, filters and cursors.
//! - [`archive`]: the names of segments, and where in them a session's events are.
//! - [`error`]: the kinds of failure; `api::problem` turns them into status codes.

pub mod archive;
pub mod conversation;
pub mod error;
pub mod event;
pub mod id;
pub mod json;
pub mod page;
pub mod session;
pub mod span;
pub mod timestamp;

pub use archive::{Day, Pointer, SegmentName};
pub use conversation::Conversation;
pub use error::{Error, FieldError, Kind, Result};
pub use event::{Appended, Event, EventBatch, EventType, NewEvent};
pub use id::{EventId, SessionId, SessionKey, Tenant, UserId};
pub use json::JsonObject;
pub use page::{
    Cursor, EventFilter, EventPosition, EventQuery, Limit, Order, Page, SessionFilter, SessionPosition,
    SessionQuery,
};
pub use session::{
    End, EndStatus, Expected, Language, NewSession, OpenStatus, Session, SessionPatch, Status,
};
pub use span::{Span, SpanOrOff};
pub use timestamp::Timestamp;
