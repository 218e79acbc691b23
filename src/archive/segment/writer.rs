//! Writes a segment: session by session, in bounded memory.

use std::{sync::Arc, time::SystemTime};

use super::{
    Manifest, RawEvents, SessionRow, Written,
    checksum::{Digest, Place},
    columns::{EventColumns, SessionColumns},
    events_path, fault,
    manifest::Counts,
    output::Output,
    raw::{RawRows, Walk},
    schema, sessions_path,
};
use crate::{
    archive::objects::Objects,
    domain::{Event, EventPosition, Pointer, Result, SegmentName, Session, SessionId, Timestamp},
};

/// How a segment is laid out. Readers take any layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentOptions {
    /// A row group is closed once it is so large; a session of at most this size as plain rows lies in one. At most
    /// [`ROW_GROUP_BYTES_MAX`].
    pub row_group_bytes: usize,
    /// Most rows of a page.
    pub page_rows: usize,
    /// Largest page, uncompressed, but for one that holds a single row.
    pub page_bytes: usize,
    pub zstd_level: i32,
}

/// Largest row group that can be asked for: the columns of one are built with 32-bit offsets.
pub const ROW_GROUP_BYTES_MAX: usize = 256 << 20;

impl Default for SegmentOptions {
    fn default() -> Self {
        Self {
            row_group_bytes: 8 << 20,
            page_rows: 1_000,
            page_bytes: 64 << 10,
            zstd_level: 3,
        }
    }
}

/// Writes the two files of a segment. Give it sessions in ascending order of their ids, each with its events in the
/// order in which they are read; then [`finish`](Self::finish). Dropped before that, nothing was written.
///
/// It holds the row group that is being written, and the rows of a session as long as they are fewer bytes than a row
/// group: about two row groups, however large the segment. While it [copies](Self::copy_session), the rows are in batches
/// of the other segment, which stay for as long.
pub struct SegmentWriter {
    name: SegmentName,
    options: SegmentOptions,
    created_at: Timestamp,
    events: Output,
    sessions: Output,
    /// Rows that are not yet written.
    event_columns: EventColumns,
    session_columns: SessionColumns,
    /// Rows of sessions that were copied, in place of such columns.
    copied: Copied,
    open: Option<Open>,
    last_session: Option<SessionId>,
    counts: Counts,
    digests: Vec<u64>,
}

/// Rows that lie in batches of another segment.
#[derive(Default)]
struct Copied {
    runs: Vec<RawRows>,
    rows: u64,
    bytes: usize,
}

impl Copied {
    fn push(&mut self, some: RawRows) {
        self.rows += some.rows.len() as u64;
        self.bytes += some.bytes;
        let apart = match self.runs.last_mut() {
            Some(last) => last.extend(some),
            None => Some(some),
        };
        self.runs.extend(apart);
    }

    fn append(&mut self, more: &mut Self) {
        for some in std::mem::take(more).runs {
            self.push(some);
        }
    }
}

/// The session that is being written.
struct Open {
    session: Session,
    epoch: i64,
    first_row: u64,
    rows: u64,
    /// Not yet among the columns: whether it is the last is known when the next one comes.
    held: Option<Event>,
    /// Its rows are being written before it has ended.
    is_large: bool,
    digest: Digest,
}

impl SegmentWriter {
    pub async fn create(
        objects: Arc<dyn Objects>,
        name: SegmentName,
        options: SegmentOptions,
    ) -> Result<Self> {
        let properties = schema::events_properties(&name, &options)?;
        let path = events_path(&name);
        let events = Output::create(&*objects, &name, path, schema::events(), properties).await?;
        let properties = schema::sessions_properties(&name, &options)?;
        let path = sessions_path(&name);
        let sessions = Output::create(&*objects, &name, path, schema::sessions(), properties).await?;
        Ok(Self {
            name,
            options: SegmentOptions {
                row_group_bytes: options.row_group_bytes.min(ROW_GROUP_BYTES_MAX),
                ..options
            },
            created_at: now(),
            events,
            sessions,
            event_columns: EventColumns::new(),
            session_columns: SessionColumns::new(),
            copied: Copied::default(),
            open: None,
            last_session: None,
            counts: Counts::default(),
            digests: Vec::new(),
        })
    }

    /// Begins a session, whose id comes after that of the one before it, bytewise.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::domain::Kind::Internal): it does not, or the one before it has not ended.
    pub async fn begin_session(&mut self, session: &Session, epoch: i64) -> Result<()> {
        self.follow(&session.id)?;
        self.write_copied().await?;
        self.open = Some(Open {
            session: session.clone(),
            epoch,
            first_row: self.events.rows(),
            rows: 0,
            held: None,
            is_large: false,
            digest: Digest::new(session, epoch),
        });
        Ok(())
    }

    fn follow(&mut self, session: &SessionId) -> Result<()> {
        if self.open.is_some() {
            return Err(fault::misused(
                "a segment's session begins before the one before it has ended",
            ));
        }
        if self.last_session.as_ref().is_some_and(|last| last >= session) {
            return Err(fault::misused("a segment's sessions are not in ascending order"));
        }
        self.last_session = Some(session.clone());
        Ok(())
    }

    /// Adds a session whole, under another epoch, with its rows as another segment of its tenant has them: a row's checksum
    /// covers its place in its session, and that stays. Each is held to it on the way.
    ///
    /// # Errors
    /// [`Kind::ArchiveDamaged`](crate::domain::Kind::ArchiveDamaged): a row is not what was written there; this segment is
    /// of no use then. As [`begin_session`](Self::begin_session).
    pub async fn copy_session(
        &mut self,
        copy: &SessionRow,
        epoch: i64,
        from: &mut RawEvents,
    ) -> Result<Pointer> {
        self.follow(&copy.session.id)?;
        let first_row = self.events.rows() + self.copied.rows;
        let (mut session, mut rows, mut is_large) = (Walk::new(copy, epoch), Copied::default(), false);
        while let Some(some) = from.next_of(&mut session, self.chunk_bytes()).await? {
            rows.push(some);
            // As when events are pushed: a session of more than a row group has its own.
            if !is_large && rows.bytes > self.options.row_group_bytes {
                is_large = true;
                self.write_copied().await?;
                self.events.close_row_group().await?;
            }
            if is_large && rows.bytes > self.chunk_bytes() {
                self.copied.append(&mut rows);
                self.write_copied().await?;
            }
        }
        self.copied.append(&mut rows);
        if self.copied.bytes > self.chunk_bytes() {
            self.write_copied().await?;
        }
        self.counts.payload_bytes += session.payload_bytes;
        self.add_session(
            &copy.session,
            epoch,
            first_row,
            copy.pointer.rows,
            session.finish(),
        )
        .await
    }

    /// Adds an event of the session, which comes after the one before it in their order.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::domain::Kind::Internal): it does not, or it is another session's.
    pub async fn push(&mut self, event: &Event) -> Result<()> {
        let Some(open) = self.open.as_mut().filter(|open| open.session.id == event.session) else {
            return Err(fault::misused("an event of a segment belongs to another session"));
        };
        open.digest.add(event);
        self.counts.payload_bytes += event.payload.as_str().len() as u64;
        if let Some(before) = open.held.replace(event.clone()) {
            if EventPosition::from(&before) >= EventPosition::from(event) {
                return Err(fault::misused("a session's events are not in ascending order"));
            }
            self.append(&before, false)?;
            self.make_room().await?;
        }
        Ok(())
    }

    /// Ends the session; says where its events are going to be.
    pub async fn end_session(&mut self) -> Result<Pointer> {
        let held = self.open.as_mut().and_then(|open| open.held.take());
        if let Some(last) = held {
            self.append(&last, true)?;
        }
        let no_session = || fault::misused("a segment's session ends that never began");
        let open = self.open.take().ok_or_else(no_session)?;
        self.write_events().await?;
        let digest = open.digest.finish();
        self.add_session(&open.session, open.epoch, open.first_row, open.rows, digest)
            .await
    }

    async fn add_session(
        &mut self,
        session: &Session,
        epoch: i64,
        first_row: u64,
        rows: u64,
        digest: u64,
    ) -> Result<Pointer> {
        self.session_columns
            .append(self.name.tenant(), session, epoch, first_row, rows)?;
        if self.session_columns.bytes() >= self.chunk_bytes() {
            self.write_sessions().await?;
        }
        self.counts.sessions += 1;
        self.counts.events += rows;
        self.digests.push(digest);
        Ok(Pointer {
            segment: self.name.clone(),
            first_row,
            rows,
        })
    }

    /// Size of both files so far, about.
    pub fn bytes(&self) -> u64 {
        self.events.bytes() + self.sessions.bytes()
    }

    /// Completes both files. They are of no use to anybody until they were [verified](Written::verify) and
    /// [sealed](Written::seal).
    pub async fn finish(mut self) -> Result<Written> {
        if self.open.is_some() {
            return Err(fault::misused(
                "a segment is finished before its last session has ended",
            ));
        }
        self.write_copied().await?;
        if self.session_columns.bytes() > 0 {
            self.write_sessions().await?;
        }
        let events = self.events.finish().await?;
        let sessions = self.sessions.finish().await?;
        let manifest = Manifest {
            segment: self.name,
            created_at: self.created_at,
            counts: self.counts,
            sessions,
            events,
        };
        Ok(Written::new(manifest, self.digests))
    }

    fn append(&mut self, event: &Event, is_last: bool) -> Result<()> {
        let Some(open) = self.open.as_mut() else {
            return Err(fault::misused("an event of a segment belongs to no session"));
        };
        let place = Place {
            ordinal: open.rows,
            is_last,
        };
        open.rows += 1;
        self.event_columns.append(self.name.tenant(), event, place)
    }

    /// A session that has more rows than are held back starts a row group, and is written as it comes. All others
    /// are written when they end, so that they lie in one row group.
    async fn make_room(&mut self) -> Result<()> {
        let Some(open) = self.open.as_mut() else {
            return Ok(());
        };
        let held_bytes = self.event_columns.bytes();
        if !open.is_large && held_bytes > self.options.row_group_bytes {
            open.is_large = true;
            self.events.close_row_group().await?;
            self.write_events().await
        } else if open.is_large && held_bytes > self.chunk_bytes() {
            self.write_events().await
        } else {
            Ok(())
        }
    }

    /// How many bytes of rows are encoded at a time, where it is free to choose.
    fn chunk_bytes(&self) -> usize {
        self.options.row_group_bytes / 8
    }

    async fn write_events(&mut self) -> Result<()> {
        if self.event_columns.bytes() > 0 {
            self.events.write(self.event_columns.take()?).await?;
        }
        self.close_full_row_group().await
    }

    async fn write_copied(&mut self) -> Result<()> {
        for run in std::mem::take(&mut self.copied).runs {
            self.events.write(run.batch()).await?;
        }
        self.close_full_row_group().await
    }

    async fn close_full_row_group(&mut self) -> Result<()> {
        if self.events.row_group_bytes() >= self.options.row_group_bytes {
            self.events.close_row_group().await?;
        }
        Ok(())
    }

    async fn write_sessions(&mut self) -> Result<()> {
        self.sessions.write(self.session_columns.take()?).await?;
        if self.sessions.row_group_bytes() >= self.options.row_group_bytes {
            self.sessions.close_row_group().await?;
        }
        Ok(())
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.ok().and_then(|since| i64::try_from(since.as_millis()).ok());
    ms.and_then(Timestamp::from_unix_ms).unwrap_or(Timestamp::EPOCH)
}
