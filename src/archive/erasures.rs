//! Notes of erasures, beside the segments: should the store be lost and rebuilt from the archive, an erased session must not
//! come back with a segment that still holds it.
//!
//! A note is an empty-handed object, `erased/{tenant}/{sessionId}/{YYYY-MM-DD}`, with the time of the erasure in it. It
//! speaks of copies in segments that were begun before that time, or up to an hour later, since clocks differ; an id is
//! not used again sooner than a day. It goes when the tombstone has gone, which stands as long as any byte is left.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;

use super::{
    Archive, ms, now,
    objects::{ByteRange, ObjectErrorKind},
};
use crate::{
    domain::{Day, Error, Kind, Result, SegmentName, SessionKey, Timestamp, json::ObjectWriter},
    store::catalog::Standing,
};

/// How far clocks of processes may be apart.
const CLOCKS_APART_MAX: Duration = Duration::from_hours(1);

const PREFIX: &str = "erased/";

fn path(key: &SessionKey, at: Timestamp) -> String {
    format!("{PREFIX}{}/{}/{}", key.tenant, key.id, Day::of(at))
}

/// The session that a note speaks of.
fn session(path: &str) -> Option<SessionKey> {
    let mut parts = path.strip_prefix(PREFIX)?.split('/');
    let (tenant, id) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(SessionKey::new(tenant, id))
}

/// When each of the erased sessions was erased last.
pub(super) struct Erasures(HashMap<SessionKey, Timestamp>);

impl Erasures {
    /// Whether a copy of the session in that segment was erased.
    pub(super) fn cover(&self, key: &SessionKey, segment: &SegmentName) -> bool {
        let until = |at: &Timestamp| at.saturating_add_ms(ms(CLOCKS_APART_MAX));
        self.0.get(key).is_some_and(|at| segment.begun_at() <= until(at))
    }
}

impl Archive {
    /// Notes that a session was erased, if bytes of it may be in the archive. To be called after the store erased it; a
    /// session that was never archived costs no request here.
    ///
    /// # Errors
    /// [`Kind::ArchiveUnavailable`]: it could not be noted. The erasure stands; only a rebuild would not know of it.
    pub async fn note_erasure(&self, key: &SessionKey) -> Result<()> {
        if !self.0.catalog.is_pending(key).await? {
            return Ok(());
        }
        let at = now();
        let mut note = Vec::new();
        let mut object = ObjectWriter::new(&mut note);
        object.timestamp("erasedAt", at);
        object.end();
        let path = path(key, at);
        let put = async {
            match self.0.objects.put(&path, Bytes::from(note)).await {
                Err(error) if error.kind == ObjectErrorKind::AlreadyExists => Ok(()),
                outcome => Ok(outcome?),
            }
        };
        self.in_time(put).await
    }

    /// Reads all notes.
    pub(super) async fn erasures(&self) -> Result<Erasures> {
        let mut erasures = HashMap::new();
        let mut listing = self.listing(PREFIX);
        while let Some(notes) = listing.next().await? {
            for note in &notes {
                let Some(key) = session(&note.path) else { continue };
                let text = self.0.objects.get(&note.path, ByteRange::All).await?;
                let at = erased_at(&text).ok_or_else(|| {
                    Error::new(
                        Kind::ArchiveDamaged,
                        format!("the note {} can't be read", note.path),
                    )
                })?;
                let last = erasures.entry(key).or_insert(at);
                *last = at.max(*last);
            }
        }
        Ok(Erasures(erasures))
    }

    /// Deletes the notes of sessions whose tombstone is gone; gives how many.
    pub(super) async fn drop_notes(&self) -> Result<usize> {
        let mut dropped = 0;
        let mut listing = self.listing(PREFIX);
        while let Some(notes) = listing.next().await? {
            let known = notes.iter().filter_map(|note| Some((note, session(&note.path)?)));
            let (notes_known, keys): (Vec<_>, Vec<_>) = known.unzip();
            let standings = self.0.catalog.standings(&keys).await?;
            for (note, standing) in notes_known.iter().zip(standings) {
                // One that was just written may be of an erasure that the standing does not show yet.
                let age_ms = now().unix_ms() - note.written_at.unix_ms();
                if standing != Standing::Erased && age_ms > ms(CLOCKS_APART_MAX) {
                    self.0.objects.delete(&note.path).await?;
                    dropped += 1;
                }
            }
        }
        Ok(dropped)
    }
}

fn erased_at(note: &[u8]) -> Option<Timestamp> {
    let note: serde_json::Value = serde_json::from_slice(note).ok()?;
    note.get("erasedAt")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_names_its_session_and_its_time() {
        let key = SessionKey::new("t".parse().unwrap(), "s:1=@".parse().unwrap());
        let at: Timestamp = "2026-09-01T08:00:00Z".parse().unwrap();
        let path = path(&key, at);
        assert_eq!(path, "erased/t/s:1=@/2026-09-01");
        assert_eq!(session(&path), Some(key));
        assert_eq!(erased_at(br#"{"erasedAt":"2026-09-01T08:00:00.000Z"}"#), Some(at));
        assert_eq!(erased_at(b"{}"), None);
    }
}
