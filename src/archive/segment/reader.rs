//! Reads single sessions: a page of events, or events by their ids, in a few requests.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use arrow_array::RecordBatch;
use futures_util::future::{OptionFuture, join};
use parquet::{arrow::ProjectionMask, schema::types::SchemaDescriptor};

use super::{
    events_path, fault,
    fetch::File,
    footer::{Footer, Footers},
    layout::Layout,
    rows::{Found, for_each_head, payloads},
    schema,
    window::Window,
};
use crate::{
    archive::objects::Objects,
    domain::{Event, EventId, EventQuery, Kind, Order, Page, Pointer, Result, SegmentName, SessionKey},
};

/// Requests that a read makes at once for what rows are chosen by, in one row group or across the border of two.
const HEAD_GETS_MAX: usize = 2;

/// And for the payloads of those chosen.
const PAYLOAD_GETS_MAX: usize = 1;

/// Row groups that a page is looked for in at once.
const ROW_GROUPS_AT_ONCE: usize = 2;

/// Reads segments. Cheap to clone; clones share the footers they know.
#[derive(Clone)]
pub struct SegmentReader {
    pub(super) objects: Arc<dyn Objects>,
    footers: Arc<Footers>,
}

impl SegmentReader {
    /// Keeps the footers used last, up to about `footers_bytes_max`.
    pub fn new(objects: Arc<dyn Objects>, footers_bytes_max: usize) -> Self {
        Self {
            objects,
            footers: Arc::new(Footers::new(footers_bytes_max)),
        }
    }

    /// The page of a session's events that [`Store::events`](crate::store::Store::events) would give, were they there.
    ///
    /// With the footer known, at most three requests: two for what rows are chosen by, then one for the payloads of
    /// those chosen. Where it is known beforehand which rows these are, all at once. A filter by type over a session of
    /// several row groups walks them in order, and takes up to three for each; so does a page whose payloads are more
    /// than a row group holds.
    ///
    /// # Errors
    /// [`Kind::ArchiveDamaged`]: what is there is not what was written, or `pointer` does not lead to the session.
    /// [`Kind::ArchiveUnavailable`].
    pub async fn page(&self, key: &SessionKey, pointer: &Pointer, query: &EventQuery) -> Result<Page<Event>> {
        if pointer.rows == 0 {
            return Ok(Page {
                items: Vec::new(),
                has_more: false,
            });
        }
        let page = async { self.open(key, pointer).await?.page(query).await };
        self.mistrusting(pointer, page.await)
    }

    /// Events of a session by their ids, in the order of `ids`: three requests a row group of the session, in order,
    /// until all are found.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    pub async fn find(
        &self,
        key: &SessionKey,
        pointer: &Pointer,
        ids: &[EventId],
    ) -> Result<Vec<Option<Event>>> {
        if pointer.rows == 0 || ids.is_empty() {
            return Ok(vec![None; ids.len()]);
        }
        let found = async { self.open(key, pointer).await?.find(ids).await };
        let found = self.mistrusting(pointer, found.await)?;
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    /// Drops what is kept of a segment, after it was deleted.
    pub fn forget(&self, name: &SegmentName) {
        self.footers.forget(name);
    }

    async fn open(&self, key: &SessionKey, pointer: &Pointer) -> Result<ArchivedSession> {
        let name = &pointer.segment;
        if *name.tenant() != key.tenant {
            return Err(fault::damaged(name, "it is another tenant's"));
        }
        let path = events_path(name);
        let schema = schema::events();
        let load = Footer::load(&*self.objects, name, &path, &schema);
        let footer = self.footers.get(name, load).await?;
        let end = pointer.first_row.checked_add(pointer.rows);
        if end.is_none_or(|end| end > footer.rows()) {
            return Err(fault::damaged(
                name,
                "it has fewer rows than a session's pointer says",
            ));
        }
        let file = File {
            objects: Arc::clone(&self.objects),
            name: name.clone(),
            path,
            footer,
        };
        Ok(ArchivedSession {
            file,
            key: key.clone(),
            pointer: pointer.clone(),
        })
    }

    /// The damage may be that of a footer as it came once: it is not kept.
    fn mistrusting<T>(&self, pointer: &Pointer, outcome: Result<T>) -> Result<T> {
        if outcome
            .as_ref()
            .is_err_and(|error| error.kind() == Kind::ArchiveDamaged)
        {
            self.forget(&pointer.segment);
        }
        outcome
    }
}

/// The rows of one session, in a file whose footer is known. Rows are counted from the session's first.
struct ArchivedSession {
    file: File,
    key: SessionKey,
    pointer: Pointer,
}

/// Payloads by the rows they are in, ascending.
type Payloads = Vec<(u64, Arc<str>)>;

impl ArchivedSession {
    async fn page(&self, query: &EventQuery) -> Result<Page<Event>> {
        let (file, pointer) = (self.file.clone(), self.pointer.clone());
        let layout = self.file.decode(move || Ok(Layout::of(&file, &pointer))).await?;
        let candidates = layout.candidates(query);
        let windows = self.windows(candidates.clone(), query);
        let known = layout.known(query).filter(|_| windows.len() == 1);
        let mut page = Page {
            items: Vec::new(),
            has_more: false,
        };
        let mut payload_bytes = 0;
        for (at, ordinals) in windows.iter().enumerate() {
            let known = OptionFuture::from(known.clone().map(|rows| self.payloads(rows.collect())));
            let (window, known) = join(self.look(ordinals.clone(), query), known).await;
            let (window, known) = (window?, known.transpose()?);
            if at == 0 {
                window.check_start(ordinals, &self.pointer, query)?;
            }
            let mut chosen = Vec::new();
            let taken = page.items.len();
            page.has_more = !window.matches.iter().all(|found| {
                payload_bytes += found.payload_bytes;
                let count = taken + chosen.len();
                let fits =
                    count < query.limit.get() && (count == 0 || payload_bytes <= query.payload_bytes_max);
                if fits {
                    chosen.push(found.clone());
                }
                fits
            });
            page.items.extend(self.complete(chosen, known).await?);
            if page.has_more {
                return Ok(page);
            }
            if at + 1 == windows.len() {
                window.check_end(ordinals, &self.pointer, query)?;
            }
        }
        Ok(page)
    }

    async fn find(&self, ids: &[EventId]) -> Result<HashMap<EventId, Event>> {
        let wanted: Arc<HashSet<EventId>> = Arc::new(ids.iter().cloned().collect());
        let mut found = HashMap::new();
        for ordinals in self.by_row_group(0..self.pointer.rows) {
            let (key, pointer, wanted_here) = (self.key.clone(), self.pointer.clone(), Arc::clone(&wanted));
            let rows = ordinals.clone();
            let look = move |batches: &[RecordBatch]| {
                let mut here = Vec::new();
                for_each_head(batches, rows, &key, &pointer, |ordinal, head| {
                    let candidate = Found::new(&pointer.segment, &key.id, ordinal, head)?;
                    if wanted_here.contains(candidate.id()) {
                        here.push(candidate);
                    }
                    Ok(())
                })?;
                Ok(here)
            };
            let here = self
                .read(vec![ordinals], schema::heads, HEAD_GETS_MAX, look)
                .await?;
            let events = self.complete(here, None).await?;
            found.extend(events.into_iter().map(|event| (event.id.clone(), event)));
            if found.len() == wanted.len() {
                break;
            }
        }
        Ok(found)
    }

    /// The rows to look at, in the order to look at them, each time as many as lie in one row group; or all at once,
    /// where they are no more than a page takes and lie in two.
    fn windows(&self, candidates: Range<u64>, query: &EventQuery) -> Vec<Range<u64>> {
        let mut windows = self.by_row_group(candidates.clone());
        if windows.len() <= ROW_GROUPS_AT_ONCE && query.filter.event_type.is_none() {
            return vec![candidates];
        }
        if query.order == Order::Descending {
            windows.reverse();
        }
        windows
    }

    fn by_row_group(&self, ordinals: Range<u64>) -> Vec<Range<u64>> {
        let first = self.pointer.first_row;
        let (start, end) = (first + ordinals.start, first + ordinals.end);
        let groups = self.file.footer.row_group_starts.windows(2);
        let inside = groups.map(|group| group[0].max(start)..group[1].min(end));
        let inside = inside.filter(|rows| !rows.is_empty());
        inside.map(|rows| rows.start - first..rows.end - first).collect()
    }

    async fn look(&self, ordinals: Range<u64>, query: &EventQuery) -> Result<Window> {
        let (key, pointer, query, rows) = (
            self.key.clone(),
            self.pointer.clone(),
            query.clone(),
            ordinals.clone(),
        );
        let look = move |batches: &[RecordBatch]| Window::look(batches, rows, &key, &pointer, &query);
        self.read(vec![ordinals], schema::heads, HEAD_GETS_MAX, look)
            .await
    }

    /// The events that were found, with their payloads; those that are `known` need not be read.
    async fn complete(&self, found: Vec<Found>, known: Option<Payloads>) -> Result<Vec<Event>> {
        let mut rows: Vec<u64> = found.iter().map(|found| found.ordinal).collect();
        rows.sort_unstable();
        let covers = |known: &Payloads| rows.iter().all(|&row| place(known, row).is_some());
        let payloads = match known.filter(covers) {
            Some(known) => known,
            None if rows.is_empty() => return Ok(Vec::new()),
            None => self.payloads(rows).await?,
        };
        let name = &self.pointer.segment;
        let complete = |found: Found| {
            let payload = place(&payloads, found.ordinal).map_or("", |at| &*payloads[at].1);
            found.with_payload(name, payload)
        };
        found.into_iter().map(complete).collect()
    }

    async fn payloads(&self, rows: Vec<u64>) -> Result<Payloads> {
        let name = self.pointer.segment.clone();
        let ranges = rows.chunk_by(|a, b| a + 1 == *b);
        let ranges = ranges
            .filter_map(|run| Some(*run.first()?..*run.last()? + 1))
            .collect();
        let with = move |batches: &[RecordBatch]| {
            let payloads = payloads(&name, batches, rows.len())?;
            Ok(rows.into_iter().zip(payloads).collect())
        };
        self.read(ranges, schema::payloads, PAYLOAD_GETS_MAX, with).await
    }

    async fn read<T, F>(
        &self,
        ordinals: Vec<Range<u64>>,
        columns: fn(&SchemaDescriptor) -> ProjectionMask,
        gets_max: usize,
        with: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&[RecordBatch]) -> Result<T> + Send + 'static,
    {
        let first = self.pointer.first_row;
        let rows = ordinals
            .into_iter()
            .map(|rows| first + rows.start..first + rows.end);
        let columns = columns(self.file.footer.metadata.parquet_schema());
        self.file.read(rows.collect(), columns, gets_max, with).await
    }
}

fn place(payloads: &Payloads, row: u64) -> Option<usize> {
    payloads.binary_search_by_key(&row, |(row, _)| *row).ok()
}
