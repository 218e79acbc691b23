//! `colloquy export`: conversations from the store as JSON Lines, newest first.
//!
//! What is written can be imported again, and the export of that is the same, byte for byte. Sessions and events
//! are read a page at a time, and written a line at a time, so memory grows neither with the store nor with a
//! conversation.

use std::{
    fmt,
    io::{self, Write},
};

use super::{
    output::tell,
    progress::{Progress, counted},
};
use crate::{
    domain::{
        Error, Kind, Limit, Session, SessionFilter, SessionId, SessionKey, Tenant, conversation::LineWriter,
    },
    service::{PageQuery, Service},
};

/// Why an export stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the export is cut off, since its output can't be written: {0}")]
    Output(#[from] io::Error),
    #[error("the export is cut off at session {0}: {1}")]
    Session(SessionId, #[source] Error),
    #[error("{0}")]
    Store(#[from] Error),
}

/// What an export wrote.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    pub sessions: u64,
    pub events: u64,
    /// Sessions that could not be read to their end, each of which was told.
    pub failed: u64,
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
/// A session that is erased meanwhile is left out. One that can't be read, because what the archive has of it is damaged, is
/// told on standard error and counted, and the others go on.
///
/// # Errors
/// The output can't be written; the store or the archive can't be reached; or there is no session `only`.
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
    let outcome = export.write(only).await;
    if let Some(progress) = &export.progress {
        progress.finish();
    }
    outcome.map(|()| export.done)
}

struct Export<'a> {
    service: &'a Service,
    tenant: &'a Tenant,
    out: &'a mut (dyn Write + Send),
    done: Exported,
    progress: Option<Progress>,
}

impl Export<'_> {
    async fn write(&mut self, only: Option<SessionId>) -> Result<(), ExportError> {
        match only {
            Some(id) => {
                let key = SessionKey::new(self.tenant.clone(), id);
                let session = self.service.session(&key).await?;
                self.conversation(&session).await?;
                if self.done == Exported::default() {
                    // Erased this very moment.
                    self.service.session(&key).await?;
                }
            }
            None => self.all().await?,
        }
        Ok(self.out.flush()?)
    }

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

    /// Writes a conversation, whole lines only.
    async fn conversation(&mut self, session: &Session) -> Result<(), ExportError> {
        let key = SessionKey::new(self.tenant.clone(), session.id.clone());
        let mut lines = LineWriter::new(session);
        let (mut cursor, mut events) = (None, 0);
        loop {
            let query = PageQuery {
                limit: Limit::MAX,
                cursor: cursor.as_deref(),
                ..PageQuery::default()
            };
            let page = match self.service.events(&key, &query).await {
                Ok(page) => page,
                Err(error) => return self.unreadable(session, error, lines.lines_given()),
            };
            for event in &page.events {
                if let Some(line) = lines.event(event) {
                    self.put(&line)?;
                }
                events += 1;
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        self.done.sessions += 1;
        self.done.events += events;
        Ok(self.put(&lines.finish())?)
    }

    /// What becomes of a session that can't be read, with so many lines of it written already.
    fn unreadable(&mut self, session: &Session, error: Error, lines: u32) -> Result<(), ExportError> {
        match error.kind() {
            // It was erased since it was listed, and might as well have been before.
            Kind::SessionErased | Kind::SessionNotFound if lines == 0 => return Ok(()),
            // Of this session alone.
            Kind::SessionErased | Kind::SessionNotFound | Kind::ArchiveDamaged | Kind::Internal => {}
            // The next one would fare no better.
            _ => return Err(ExportError::Session(session.id.clone(), error)),
        }
        self.done.failed += 1;
        let left = match lines {
            0 => "left out".to_owned(),
            lines => format!("cut off after {}", counted(lines.into(), "line")),
        };
        let line = format!("session {} is {left}: {error}", session.id);
        match &self.progress {
            Some(progress) => progress.say(&line),
            None => tell(line),
        }
        Ok(())
    }

    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        self.out.write_all(line)?;
        if let Some(progress) = &self.progress {
            progress.advance(line.len() as u64, || self.done.to_string());
        }
        Ok(())
    }
}
