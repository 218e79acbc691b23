//! The operations: the table of contents of the API.

use poem::{http::StatusCode, web::Data};
use poem_openapi::{OpenApi, Tags};

use super::{
    answer::{Answer, ETAG, ETAG_ALONE, LOCATION, Operation, REPLAYED},
    body::Body,
    draining::Draining,
    envelope::RequestContext,
    extract::{CursorText, EventLimit, IfMatch, MinSeq, Path, Query},
    operations::{
        AppendEvent, AppendEvents, CompleteSession, DeleteSession, GetEvent, GetHealth, GetReadiness,
        GetSession, ListEvents, ListSessions, OpenSession, RestoreSession, UpdateSession,
    },
    problem::Problem,
    wire,
};
use crate::{
    domain::{
        End, Error, EventBatch, EventFilter, EventId, EventType, Limit, NewEvent, NewSession, Order, Session,
        SessionFilter, SessionId, SessionKey, SessionPatch, Status, Tenant, Timestamp, UserId,
    },
    service::{PageQuery, Service},
};

#[derive(Tags)]
enum Tag {
    /// Conversations, from opening to end.
    Sessions,
    /// What was said and done in them.
    Events,
    /// For load balancers and orchestrators.
    Health,
}

/// Sessions and their events.
pub struct ConversationApi {
    pub service: Service,
    /// Until keys are issued to callers there is one tenant.
    pub tenant: Tenant,
}

type Reply<O> = Result<Answer<O>, Problem>;

#[OpenApi(prefix_path = "/v1")]
impl ConversationApi {
    /// Open a session
    ///
    /// Opening is safe to repeat: with a `sessionId` of your own, the first call opens the session and every other
    /// one gets it back untouched, whatever else it says, with `Idempotency-Replayed: true`. The body may be left out.
    #[oai(
        path = "/sessions",
        method = "post",
        operation_id = "openSession",
        tag = "Tag::Sessions"
    )]
    async fn open_session(&self, body: Body<NewSession>) -> Reply<OpenSession> {
        let opened = self.service.open(&self.tenant, body.value).await?;
        let session = &opened.session;
        Ok(if opened.created {
            let location = format!("/v1/sessions/{}", session.id);
            session_answer(StatusCode::CREATED, session).header(LOCATION, location)
        } else {
            session_answer(StatusCode::OK, session).header(REPLAYED, "true")
        })
    }

    /// List sessions
    ///
    /// Newest first: by `startedAt`, then by `sessionId`, both descending. Filters add up.
    #[oai(
        path = "/sessions",
        method = "get",
        operation_id = "listSessions",
        tag = "Tag::Sessions"
    )]
    async fn list_sessions(
        &self,
        /// Only sessions with this status.
        status: Query<Status>,
        /// Only sessions of this user.
        #[oai(name = "userId")]
        user_id: Query<UserId>,
        /// Only sessions that started at this instant or later. Windows from `startedAfter` to `startedBefore` are half
        /// open, so adjacent ones share no session and leave none out.
        #[oai(name = "startedAfter")]
        started_after: Query<Timestamp>,
        /// Only sessions that started before this instant.
        #[oai(name = "startedBefore")]
        started_before: Query<Timestamp>,
        /// Most sessions on the page.
        limit: Query<Limit>,
        /// The `nextCursor` of the page before; the other parameters must stay as they were.
        cursor: Query<CursorText>,
    ) -> Reply<ListSessions> {
        let filter = SessionFilter {
            status: status.0,
            user_id: user_id.0,
            started_after: started_after.0,
            started_before: started_before.0,
        };
        let limit = limit.0.unwrap_or_default();
        let page = self
            .service
            .sessions(&self.tenant, filter, limit, text(&cursor))
            .await?;
        Ok(Answer::new(StatusCode::OK, |out| {
            wire::write_session_page(out, &page, limit)
        }))
    }

    /// Read a session with its events
    ///
    /// From the start unless `order=desc`, which gives the newest events first: the context of a conversation that
    /// goes on. `limit=0` gives the session alone with its `ETag`; it reads neither events nor the archive, and there is
    /// nothing to page through: `hasMore` is false, and a `cursor` is refused.
    #[oai(
        path = "/sessions/:sessionId",
        method = "get",
        operation_id = "getSession",
        tag = "Tag::Sessions"
    )]
    async fn get_session(
        &self,
        /// The session.
        #[oai(name = "sessionId")]
        session_id: Path<SessionId>,
        /// Most events on the page. 0: the session alone.
        limit: Query<EventLimit>,
        /// The `nextCursor` of the page before; `order` must stay as it was.
        cursor: Query<CursorText>,
        /// Which way to read: `asc` from the start, `desc` from the end.
        order: Query<Order>,
        /// The answer is not older than the event that got this `seq`, whatever became of any cache.
        #[oai(name = "minSeq")]
        min_seq: Query<MinSeq>,
    ) -> Reply<GetSession> {
        let key = self.key(session_id);
        let Some(limit) = limit.0.unwrap_or_default().0 else {
            return self.session_alone(&key, &cursor).await;
        };
        let query = PageQuery {
            filter: EventFilter::default(),
            order: order.0.unwrap_or_default(),
            limit,
            cursor: text(&cursor),
            min_seq: min_seq.0.map(|seq| seq.0),
        };
        let page = self
            .service
            .read_session(&key, &query, wire::write_read_page)
            .await?;
        Ok(Answer::ready(StatusCode::OK, page.body))
    }

    /// Change a session
    ///
    /// A JSON Merge Patch of `metadata`, `language` and `userId`. With `If-Match`, only if the session is still at that
    /// version: an `ETag`, or a `version` in quotes.
    #[oai(
        path = "/sessions/:sessionId",
        method = "patch",
        operation_id = "updateSession",
        tag = "Tag::Sessions"
    )]
    async fn update_session(
        &self,
        /// The session.
        #[oai(name = "sessionId")]
        session_id: Path<SessionId>,
        /// The ETag the change is meant for.
        #[oai(name = "If-Match")]
        if_match: IfMatch,
        body: Body<SessionPatch>,
    ) -> Reply<UpdateSession> {
        let session = self
            .service
            .update(&self.key(session_id), &body.value, &if_match.0)
            .await?;
        Ok(session_answer(StatusCode::OK, &session))
    }

    /// End a session
    ///
    /// The first call decides `status` and `endedAt`; later ones get them back unchanged. An ended session takes no new
    /// events. The body may be left out.
    #[oai(
        path = "/sessions/:sessionId/complete",
        method = "post",
        operation_id = "completeSession",
        tag = "Tag::Sessions"
    )]
    async fn complete_session(
        &self,
        /// The session.
        #[oai(name = "sessionId")]
        session_id: Path<SessionId>,
        body: Body<End>,
    ) -> Reply<CompleteSession> {
        let session = self.service.complete(&self.key(session_id), &body.value).await?;
        Ok(session_answer(StatusCode::OK, &session))
    }

    /// Restore an archived session
    ///
    /// Brings its events back into the hot store, so that the session can be changed; it is archived again later. One that
    /// is not archived comes back as it is.
    #[oai(
        path = "/sessions/:sessionId/restore",
        method = "post",
        operation_id = "restoreSession",
        tag = "Tag::Sessions"
    )]
    async fn restore_session(
        &self,
        /// The session.
        #[oai(name = "sessionId")]
        session_id: Path<SessionId>,
    ) -> Reply<RestoreSession> {
        let session = self.service.restore(&self.key(session_id)).await?;
        Ok(session_answer(StatusCode::OK, &session))
    }

    /// Erase a session
    ///
    /// Erases the session and its events everywhere: from now on nothing of it can be read. What lies in the archive is
    /// taken out of it by the next rewrite; until then it is reported as pending. A tombstone without content keeps late retries from bringing it
    /// back: for a time its id answers with 410 `session-erased`.
    #[oai(
        path = "/sessions/:sessionId",
        method = "delete",
        operation_id = "deleteSession",
        tag = "Tag::Sessions"
    )]
    async fn delete_session(
        &self,
        /// The session.
        #[oai(name = "sessionId")]
        session_id: Path<SessionId>,
    ) -> Reply<DeleteSession> {
        self.service.erase(&self.key(session_id)).await?;
        Ok(Answer::empty(StatusCode::NO_CONTENT))
    }

    /// Append an event
    ///
    /// Appending is safe to repeat: an event whose `eventId` is there already with the same `type` and `payload` is a
    /// replay and comes back as it was stored, even after the session has ended.
    #[oai(
        path = "/sessions/:sessionId/events",
        method = "post",
        operation_id = "appendEvent",
        tag = "Tag::Events"
    )]
    async fn append_event(
        &self,
        /// The session.
        #[oai(name = "sessionId")]
        session_id: Path<SessionId>,
        body: Body<NewEvent>,
    ) -> Reply<AppendEvent> {
        let appended = self.service.append(&self.key(session_id), body.value).await?;
        let event = &appended.event;
        let write = |out: &mut Vec<u8>| event.write_json(out);
        Ok(if appended.replayed {
            Answer::new(StatusCode::OK, write).header(REPLAYED, "true")
        } else {
            let location = format!("/v1/sessions/{}/events/{}", event.session, event.id);
            Answer::new(StatusCode::CREATED, write).header(LOCATION, location)
        })
    }

    /// Append a batch of events
    ///
    /// Each event stands on its own: one that is refused keeps none of the others back. Events without a `timestamp` of
    /// their own keep the order of the batch.
    #[oai(
        path = "/sessions/:sessionId/events/batch",
        method = "post",
        operation_id = "appendEvents",
        tag = "Tag::Events"
    )]
    async fn append_events(
        &self,
        /// The session.
        #[oai(name = "sessionId")]
        session_id: Path<SessionId>,
        body: Body<EventBatch>,
        context: Data<&RequestContext>,
    ) -> Reply<AppendEvents> {
        let outcomes = self.append_each(&self.key(session_id), body.value).await?;
        Ok(Answer::new(StatusCode::OK, |out| {
            wire::write_outcomes(out, outcomes, context.id.as_str())
        }))
    }

    /// List events
    ///
    /// In the order of `(timestamp, seq, eventId)`, from the start unless `order=desc`. Paging neither skips nor repeats
    /// an event that was there when it began, and costs the same at any depth.
    #[oai(
        path = "/sessions/:sessionId/events",
        method = "get",
        operation_id = "listEvents",
        tag = "Tag::Events"
    )]
    #[allow(clippy::too_many_arguments)] // One argument a parameter is how the operation is described.
    async fn list_events(
        &self,
        /// The session.
        #[oai(name = "sessionId")]
        session_id: Path<SessionId>,
        /// Most events on the page.
        limit: Query<Limit>,
        /// The `nextCursor` of the page before; the other parameters must stay as they were.
        cursor: Query<CursorText>,
        /// Which way to read: `asc` from the start, `desc` from the end.
        order: Query<Order>,
        /// Only events of this type.
        r#type: Query<EventType>,
        /// Only events with a timestamp at this instant or later. Windows from `since` to `until` are half open, so
        /// adjacent ones share no event and leave none out.
        since: Query<Timestamp>,
        /// Only events with a timestamp before this instant.
        until: Query<Timestamp>,
    ) -> Reply<ListEvents> {
        let filter = EventFilter {
            event_type: r#type.0,
            since: since.0,
            until: until.0,
        };
        let query = PageQuery {
            filter,
            order: order.0.unwrap_or_default(),
            limit: limit.0.unwrap_or_default(),
            cursor: text(&cursor),
            min_seq: None,
        };
        let key = self.key(session_id);
        let body = self
            .service
            .read_events(&key, &query, wire::write_read_page)
            .await?;
        Ok(Answer::ready(StatusCode::OK, body))
    }

    /// Read one event
    #[oai(
        path = "/sessions/:sessionId/events/:eventId",
        method = "get",
        operation_id = "getEvent",
        tag = "Tag::Events"
    )]
    async fn get_event(
        &self,
        /// The session.
        #[oai(name = "sessionId")]
        session_id: Path<SessionId>,
        /// The event.
        #[oai(name = "eventId")]
        event_id: Path<EventId>,
    ) -> Reply<GetEvent> {
        let event = self.service.event(&self.key(session_id), &event_id.0).await?;
        Ok(Answer::new(StatusCode::OK, |out| event.write_json(out)))
    }

    /// Reads the event whose id is `batch`: the router prefers the fixed path, and "batch" is an id like any other.
    #[oai(path = "/sessions/:sessionId/events/batch", method = "get", hidden)]
    async fn get_event_named_batch(
        &self,
        #[oai(name = "sessionId")] session_id: Path<SessionId>,
    ) -> Reply<GetEvent> {
        let id = "batch"
            .parse()
            .map_err(|rule| Error::parameter("eventId", rule))?;
        self.get_event(session_id, Path(id)).await
    }
}

impl ConversationApi {
    fn key(&self, session_id: Path<SessionId>) -> SessionKey {
        SessionKey::new(self.tenant.clone(), session_id.0)
    }

    /// The session without its events, as the store has it: no cache and no archive is asked.
    async fn session_alone(&self, key: &SessionKey, cursor: &Query<CursorText>) -> Reply<GetSession> {
        if cursor.0.is_some() {
            let rule = "can't be given with limit=0, which has no pages";
            return Err(Error::parameter("cursor", rule).into());
        }
        let session = self.service.session(key).await?;
        let answer = Answer::new(StatusCode::OK, |out| wire::write_session_alone(out, &session));
        Ok(answer.header(ETAG_ALONE, etag(session.version)))
    }

    /// Appends what could be read of a batch, and puts the outcomes in its order.
    async fn append_each(&self, key: &SessionKey, batch: EventBatch) -> Result<Vec<wire::Outcome>, Problem> {
        let ids: Vec<Option<EventId>> = batch.0.iter().map(|item| item.id.clone()).collect();
        let (mut good, mut refused) = (Vec::new(), Vec::new());
        for item in batch.0 {
            match item.event {
                Ok(event) => {
                    good.push(event);
                    refused.push(None);
                }
                Err(error) => refused.push(Some(error)),
            }
        }
        let mut stored = self.service.append_batch(key, good).await?.into_iter();
        let lost = || {
            Error::new(
                crate::domain::Kind::Internal,
                "the store gave no outcome for an append",
            )
        };
        let outcome = |refused: Option<Error>| match refused {
            Some(error) => Err(error),
            None => stored.next().unwrap_or_else(|| Err(lost())),
        };
        Ok(ids.into_iter().zip(refused.into_iter().map(outcome)).collect())
    }
}

/// Whether the process is up, and whether it can serve.
pub struct HealthApi {
    pub service: Service,
    pub draining: Draining,
}

#[OpenApi]
impl HealthApi {
    /// Liveness
    ///
    /// Answers while the process runs. It asks no backend: restarting a process does not mend a database.
    #[oai(
        path = "/healthz",
        method = "get",
        operation_id = "getHealth",
        tag = "Tag::Health"
    )]
    async fn health(&self) -> Reply<GetHealth> {
        Ok(Answer::new(StatusCode::OK, |out| {
            out.extend_from_slice(br#"{"status":"ok"}"#)
        }))
    }

    /// Readiness
    ///
    /// Answers 200 while requests can be served, and 503 while the store can't be reached, and from when the process was
    /// asked to stop, though it serves for a while longer. A cache that can't be reached is `degraded`: every request
    /// asks the store. So is an archive that did not answer when it was last asked: only reads of archived sessions are
    /// refused.
    #[oai(
        path = "/readyz",
        method = "get",
        operation_id = "getReadiness",
        tag = "Tag::Health"
    )]
    async fn readiness(&self) -> Reply<GetReadiness> {
        self.draining.refuse()?;
        self.service.ready().await?;
        let cache = self.service.cache_health().as_str();
        let archive = self.service.archive_health().as_str();
        Ok(Answer::new(StatusCode::OK, |out| {
            wire::write_readiness(out, cache, archive)
        }))
    }
}

fn session_answer<O: Operation>(status: StatusCode, session: &Session) -> Answer<O> {
    Answer::new(status, |out| session.write_json(out)).header(ETAG, etag(session.version))
}

fn etag(version: i64) -> String {
    format!("\"{version}\"")
}

fn text(cursor: &Query<CursorText>) -> Option<&str> {
    cursor.0.as_ref().map(|cursor| cursor.0.as_str())
}
