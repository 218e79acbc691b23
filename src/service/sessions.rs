//! The use cases of sessions.

use uuid::Uuid;

use tracing::{Instrument, instrument};

use super::{Service, SessionsPage, writing};
use crate::{
    domain::{
        Cursor, End, Error, Expected, Kind, Limit, NewSession, Result, Session, SessionFilter, SessionId,
        SessionKey, SessionPatch, SessionPosition, SessionQuery, Tenant,
    },
    in_flight,
    store::Opened,
};

impl Service {
    /// Opens a session, or gives back the one that has its id, untouched.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn open(&self, tenant: &Tenant, mut new: NewSession) -> Result<Opened> {
        let now = self.clock.now();
        let id = match new.id.take() {
            Some(id) => id,
            None => new_session_id()?,
        };
        let key = SessionKey::new(tenant.clone(), id.clone());
        let session = Session::opened(new, id, now);
        let seq_min = Session::seq_min(session.started_at, now);
        let tenant = tenant.clone();
        let open = async move |service: Self| Ok((service.store.open(&tenant, session, now).await?, seq_min));
        let (opened, _) = self.write(&key, open, writing::of_opened).await?;
        Ok(opened)
    }

    /// A session by itself.
    pub async fn session(&self, key: &SessionKey) -> Result<Session> {
        self.store.session(key).await
    }

    /// A page of a tenant's sessions, newest first.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn sessions(
        &self,
        tenant: &Tenant,
        filter: SessionFilter,
        limit: Limit,
        cursor: Option<&str>,
    ) -> Result<SessionsPage> {
        let cursors = Cursor::of_sessions(tenant, &filter);
        let after = cursor.map(|text| cursors.read_session(text)).transpose()?;
        let query = SessionQuery { filter, after, limit };
        let page = self.store.sessions(tenant, &query).await?;
        let last = page.items.last().filter(|_| page.has_more);
        Ok(SessionsPage {
            next_cursor: last.map(|session| cursors.session(&SessionPosition::from(session))),
            sessions: page.items,
        })
    }

    /// Changes a session's metadata, language or user.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn update(
        &self,
        key: &SessionKey,
        patch: &SessionPatch,
        expected: &Expected,
    ) -> Result<Session> {
        let (of, patch, expected) = (key.clone(), patch.clone(), expected.clone());
        let patch = async move |service: Self| service.store.patch(&of, &patch, &expected).await;
        self.write(key, patch, writing::of_changed).await
    }

    /// Ends a session; the first call decides, later ones give its outcome.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn complete(&self, key: &SessionKey, end: &End) -> Result<Session> {
        let (of, end, now) = (key.clone(), end.clone(), self.clock.now());
        let end = async move |service: Self| service.store.end(&of, &end, now).await;
        self.write(key, end, writing::of_changed).await
    }

    /// Erases a session with all it holds; repeating it is fine.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn erase(&self, key: &SessionKey) -> Result<()> {
        let tombstone_ms = i64::try_from(self.limits.tombstone.as_millis()).unwrap_or(i64::MAX);
        let forget_at = self.clock.now().saturating_add_ms(tombstone_ms);
        let of = key.clone();
        let erase = async move |service: Self| match service.store.erase(&of, forget_at).await {
            Err(error) if error.kind() == Kind::SessionErased => Ok(()),
            outcome => outcome,
        };
        self.write(key, erase, writing::of_erased).await?;
        if let Some(archive) = &self.archive
            && let Err(error) = archive.note_erasure(key).await
        {
            // It stands in the store, which owes the archive the marker from then on and counts it as pending.
            tracing::warn!(%error, session = %key, "an erasure marker could not be written to the archive, and is owed");
        }
        Ok(())
    }

    /// Makes an archived session hot again; gives one that is as it is.
    #[instrument(target = "otel", level = "trace", skip_all)]
    pub async fn restore(&self, key: &SessionKey) -> Result<Session> {
        let (archive, key) = (self.archive()?.clone(), key.clone());
        // A caller that goes away leaves nothing half done.
        let restoring = async move { archive.restore(&key).await };
        in_flight::spawn(restoring.in_current_span())
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the restore was interrupted")))
    }
}

/// Time-ordered, so that new sessions lie together in the store's index.
fn new_session_id() -> Result<SessionId> {
    Uuid::now_v7()
        .to_string()
        .parse()
        .map_err(|rule| Error::new(Kind::Internal, format!("a new session id {rule}")))
}
