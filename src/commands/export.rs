//! `colloquy export`: conversations from the store as JSON Lines, one a line, newest first.
//!
//! What is written can be imported again, and the export of that is the same, byte for byte. Sessions and events
//! are read a page at a time, so memory does not grow with the store.

use std::{
    fmt,
    io::{self, Write},
};

use super::progress::{Progress, counted};
use crate::{
    domain::{Error, Kind, Limit, Session, SessionFilter, SessionId, SessionKey, Tenant, conversation},
    service::{PageQuery, Service},
};

/// Why an export stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the output can't be written: {0}")]
    Output(#[from] io::Error),
    #[error("{0}")]
    Store(#[from] Error),
}

/// What an export wrote.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    pub sessions: u64,
    pub events: u64,
}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}",
            counted(self.sessions, "session"),
            counted(self.events, "event")
        )
    }
}

/// Writes every session, or one, to `out`.
///
/// A session that is erased meanwhile is left out, or, where part of it was written already, ends the export: half
/// a line is no conversation.
///
/// # Errors
/// The store or the output fails; or there is no session `only`.
pub async fn export(
    service: &Service,
    tenant: &Tenant,
    only: Option<SessionId>,
    out: &mut (dyn Write + Send),
    show_progress: bool,
) -> Result<Exported, ExportError> {
    let mut export = Export {
        service,
        tenant,
        out,
        done: Exported::default(),
        progress: show_progress.then(|| Progress::new(None)),
    };
    match only {
        Some(id) => {
            let key = SessionKey::new(tenant.clone(), id);
            let session = service.session(&key).await?;
            export.conversation(&session).await?;
        }
        None => export.all().await?,
    }
    export.out.flush()?;
    if let Some(progress) = &export.progress {
        progress.finish();
    }
    Ok(export.done)
}

struct Export<'a> {
    service: &'a Service,
    tenant: &'a Tenant,
    out: &'a mut (dyn Write + Send),
    done: Exported,
    progress: Option<Progress>,
}

impl Export<'_> {
    async fn all(&mut self) -> Result<(), ExportError> {
        let mut cursor = None;
        loop {
            let filter = SessionFilter::default();
            let page = self
                .service
                .sessions(self.tenant, filter, Limit::MAX, cursor.as_deref())
                .await?;
            for session in &page.sessions {
                self.conversation(session).await?;
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    async fn conversation(&mut self, session: &Session) -> Result<(), ExportError> {
        let key = SessionKey::new(self.tenant.clone(), session.id.clone());
        let mut line = Vec::with_capacity(64 * 1024);
        let (mut cursor, mut events, mut begun) = (None, 0, false);
        loop {
            let query = PageQuery {
                limit: Limit::MAX,
                cursor: cursor.as_deref(),
                ..PageQuery::default()
            };
            let read = self.service.events(&key, &query).await;
            let page = match read {
                Err(error) if error.kind() == Kind::SessionErased && !begun => return Ok(()),
                read => read?,
            };
            if !begun {
                line.extend_from_slice(b"{\"session\":");
                conversation::write_session(&mut line, session);
                line.extend_from_slice(b",\"events\":[");
            }
            for event in &page.events {
                if events > 0 {
                    line.push(b',');
                }
                conversation::write_event(&mut line, event);
                events += 1;
            }
            begun = true;
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
            self.put(&mut line)?;
        }
        line.push(b']');
        if session.status.has_ended() {
            line.extend_from_slice(b",\"complete\":");
            conversation::write_end(&mut line, session);
        }
        line.extend_from_slice(b"}\n");
        self.put(&mut line)?;
        self.done.sessions += 1;
        self.done.events += events;
        Ok(())
    }

    fn put(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        self.out.write_all(text)?;
        if let Some(progress) = &self.progress {
            progress.advance(text.len() as u64, || self.done.to_string());
        }
        text.clear();
        Ok(())
    }
}
