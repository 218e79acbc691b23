//! Erasure markers, beside the segments: should the store be rebuilt from the archive, or an older backup of it be restored,
//! an erased session must not come back.
//!
//! A marker is a small object, `erased/{tenant}/{YYYY-MM-DD}/{salt id}.{digest}.{time}.{epoch}`: when some session of the
//! tenant was erased, and a digest of which. The digest is SHA-256 over a random salt of this archive and the session's key, so that
//! the name of a marker does not give the session's id away, but whoever has an id and the salt, which lies in the archive
//! as well, can check it. It speaks of sessions that were opened before that time, and of copies under an epoch that is not
//! greater. Where an epoch can't tell, because the copy was written after the database was set back or by an earlier version, it
//! speaks of copies in segments that were begun before that time, or up to an hour later, since clocks differ.
//!
//! 1. **A marker is owed from the write that erases** ([`Catalog::unmarked`]) until it is there. It prevents: the process
//!    dies, or the archive is away, between the erasure and the marker, and a rebuild brings the session back.
//! 2. **A marker outlives what it speaks of.** It is dropped when it is [`MARKER_DAYS_MIN`] days old, in a sweep that found every
//!    segment known to the store, every pointer's segment there, and no erasure pending: then nothing in the archive holds
//!    bytes of an erased session. Backups of the database that are older than that must not be restored. It prevents: a
//!    sweep over a database that was set back, which knows nothing of an erasure, drops the marker before a rebuild reads it.
//!
//! Earlier versions wrote `erased/{tenant}/{sessionId}/{YYYY-MM-DD}` with the id in clear. A sweep replaces them.
//!
//! [`Catalog::unmarked`]: crate::store::catalog::Catalog::unmarked

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    Archive, ms, now,
    objects::{ByteRange, ObjectErrorKind},
    segment::SessionRow,
};
use crate::{
    domain::{Day, Error, Kind, Result, SessionKey, Tenant, Timestamp, json::ObjectWriter},
    store::catalog::{CATALOG_BATCH_MAX, Unmarked},
};

/// How far clocks of processes may be apart.
const CLOCKS_APART_MAX: Duration = Duration::from_hours(1);

/// Epochs from here on were given by the database's clock; earlier versions counted from 1.
const EPOCHS_ARE_TIMES: i64 = 1_000_000_000_000;

/// How long a marker is kept at least, and with it the oldest backup of the database that may be restored, in days.
const MARKER_DAYS_MIN: u64 = 90;

const PREFIX: &str = "erased/";

/// Where the salt lies. No marker has this path, though a tenant may be called so.
const SALT_PATH: &str = "erased/.salt/salt";

/// What digests of this archive begin with.
#[derive(Debug, Clone)]
pub(super) struct Salt {
    bytes: Bytes,
    /// Names it, without giving it away.
    id: String,
}

impl Salt {
    fn new(bytes: Bytes) -> Self {
        let id = hex(&Sha256::digest(&bytes)[..4]);
        Self { bytes, id }
    }

    fn digest(&self, key: &SessionKey) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(&self.bytes);
        // Neither part has a slash in it.
        digest.update(key.to_string().as_bytes());
        digest.finalize().into()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// A marker, as its path tells.
#[derive(Debug, PartialEq, Eq)]
enum Marker {
    Digest {
        salt_id: String,
        digest: [u8; 32],
        erasure: Erasure,
    },
    /// As earlier versions wrote it: the time is in the object.
    Clear(SessionKey),
}

/// When a session was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Erasure {
    pub(super) at: Timestamp,
    /// 0 where an earlier version did not note it.
    epoch: i64,
}

fn path(salt: &Salt, key: &SessionKey, erasure: Erasure) -> String {
    format!(
        "{PREFIX}{}/{}/{}.{}.{}.{}",
        key.tenant,
        Day::of(erasure.at),
        salt.id,
        hex(&salt.digest(key)),
        erasure.at.unix_ms(),
        erasure.epoch
    )
}

impl Marker {
    /// `None` for what is no marker, as the salt.
    fn read(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix(PREFIX)?.split('/');
        let tenant: Tenant = parts.next()?.parse().ok()?;
        let (folder, name) = (parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        if name.parse::<Day>().is_ok() {
            return Some(Self::Clear(SessionKey::new(tenant, folder.parse().ok()?)));
        }
        folder.parse::<Day>().ok()?;
        let mut parts = name.split('.');
        let (salt_id, digest) = (parts.next()?, parts.next()?);
        let (at, epoch) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self::Digest {
            salt_id: salt_id.to_owned(),
            digest: unhex(digest)?,
            erasure: Erasure {
                at: Timestamp::from_unix_ms(at)?,
                epoch,
            },
        })
    }
}

/// When each of the erased sessions was erased last.
pub(super) struct Erasures {
    salt: Option<Salt>,
    last: HashMap<[u8; 32], Erasure>,
}

impl Erasures {
    pub(super) fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// When the session was erased last.
    pub(super) fn of(&self, key: &SessionKey) -> Option<Erasure> {
        let salt = self.salt.as_ref().filter(|_| !self.last.is_empty())?;
        self.last.get(&salt.digest(key)).copied()
    }

    /// When a copy of the session was erased, if it was.
    pub(super) fn of_copy(&self, key: &SessionKey, row: &SessionRow) -> Option<Erasure> {
        let of_this = |erasure: &Erasure| {
            let until = erasure.at.saturating_add_ms(ms(CLOCKS_APART_MAX));
            let is_early = row.pointer.segment.begun_at() <= until;
            match (row.epoch >= EPOCHS_ARE_TIMES, erasure.epoch > 0) {
                (true, true) => {
                    // Written after the erasure: of a session that was opened again, or of the erased one, by a store that
                    // was set back to before that.
                    row.epoch <= erasure.epoch || is_early && row.session.started_at <= erasure.at
                }
                _ => is_early,
            }
        };
        self.of(key).filter(of_this)
    }

    fn add(&mut self, digest: [u8; 32], erasure: Erasure) {
        let last = self.last.entry(digest).or_insert(erasure);
        *last = erasure.max(*last);
    }
}

impl Archive {
    /// Marks that a session was erased, if bytes of it may be in the archive. To be called after the store erased it; a
    /// session that was never archived costs no request here.
    ///
    /// # Errors
    /// [`Kind::ArchiveUnavailable`]: it could not be marked. The erasure stands, and the marker is owed: the session counts
    /// as pending, and the next [rewrite](Self::rewrite) makes up for it.
    pub async fn note_erasure(&self, key: &SessionKey) -> Result<()> {
        match self.0.catalog.owed_marker(key).await? {
            Some(epoch) => self.in_time(self.mark(key, epoch)).await,
            None => Ok(()),
        }
    }

    /// Writes the markers that are owed.
    pub(super) async fn write_owed_markers(&self) -> Result<()> {
        loop {
            let owed = self.0.catalog.unmarked(CATALOG_BATCH_MAX).await?;
            if owed.is_empty() {
                return Ok(());
            }
            for Unmarked { key, epoch } in &owed {
                self.mark(key, *epoch).await?;
            }
        }
    }

    /// The time may be later than that of the erasure: until this is done the tombstone stands, so no other session has
    /// the id.
    async fn mark(&self, key: &SessionKey, epoch: i64) -> Result<()> {
        self.put_marker(key, Erasure { at: now(), epoch }).await?;
        self.0.catalog.marked(std::slice::from_ref(key)).await
    }

    async fn put_marker(&self, key: &SessionKey, erasure: Erasure) -> Result<()> {
        let salt = self.salt().await?;
        let mut marker = Vec::new();
        let mut object = ObjectWriter::new(&mut marker);
        object.timestamp("erasedAt", erasure.at);
        object.end();
        let path = path(&salt, key, erasure);
        self.put_once(&path, Bytes::from(marker)).await?;
        Ok(())
    }

    /// Says whether it was not there.
    async fn put_once(&self, path: &str, bytes: Bytes) -> Result<bool> {
        match self.0.objects.put(path, bytes).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind == ObjectErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The salt of this archive, which is made when there is none; of several that do so at once, one wins.
    async fn salt(&self) -> Result<Salt> {
        let make = async {
            // Each has 74 random bits.
            let random = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
            let bytes: Vec<u8> = random.iter().flat_map(|uuid| *uuid.as_bytes()).collect();
            let is_new = self.put_once(SALT_PATH, Bytes::from(bytes.clone())).await?;
            let bytes = match is_new {
                true => Bytes::from(bytes),
                false => self.0.objects.get(SALT_PATH, ByteRange::All).await?,
            };
            Ok::<_, Error>(Salt::new(bytes))
        };
        self.0.salt.get_or_try_init(|| make).await.cloned()
    }

    /// Reads all markers.
    ///
    /// # Errors
    /// [`Kind::ArchiveDamaged`]: one can't be checked against a session.
    pub(super) async fn erasures(&self) -> Result<Erasures> {
        let salt = match self.0.objects.get(SALT_PATH, ByteRange::All).await {
            Ok(bytes) => Some(Salt::new(bytes)),
            Err(error) if error.kind == ObjectErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let mut clear = Vec::new();
        let mut erasures = Erasures {
            salt,
            last: HashMap::new(),
        };
        let mut listing = self.listing(PREFIX);
        while let Some(objects) = listing.next().await? {
            for object in &objects {
                match Marker::read(&object.path) {
                    None => {}
                    Some(Marker::Clear(key)) => clear.push((key, self.erased_at(&object.path).await?)),
                    Some(Marker::Digest {
                        salt_id,
                        digest,
                        erasure,
                    }) => {
                        let salt = erasures.salt.as_ref().filter(|salt| salt.id == salt_id);
                        salt.ok_or_else(|| {
                            damaged(format!(
                                "the erasure marker {} has another salt than {SALT_PATH}",
                                object.path
                            ))
                        })?;
                        erasures.add(digest, erasure);
                    }
                }
            }
        }
        if erasures.salt.is_none() && !clear.is_empty() {
            // Of no archive, for the markers in clear alone.
            erasures.salt = Some(Salt::new(Bytes::new()));
        }
        for (key, at) in clear {
            if let Some(salt) = &erasures.salt {
                let digest = salt.digest(&key);
                erasures.add(digest, Erasure { at, epoch: 0 });
            }
        }
        Ok(erasures)
    }

    async fn erased_at(&self, path: &str) -> Result<Timestamp> {
        let text = self.0.objects.get(path, ByteRange::All).await?;
        erased_at(&text).ok_or_else(|| damaged(format!("the erasure marker {path} can't be read")))
    }

    /// Replaces markers that have an id in clear, and drops those that nothing can need any more, if `is_good` says that the
    /// archive holds nothing that the store does not know; gives how many were dropped. `latest` is a time that the
    /// archive's own clock has passed.
    pub(super) async fn tend_markers(&self, is_good: bool, latest: Timestamp) -> Result<u64> {
        let may_drop = is_good && self.0.catalog.pending().await?.sessions == 0;
        let time = latest.min(now());
        let age_min = Duration::from_hours(24 * MARKER_DAYS_MIN);
        let mut dropped = 0;
        let mut listing = self.listing(PREFIX);
        while let Some(objects) = listing.next().await? {
            for object in &objects {
                let age_ms = time.unix_ms() - object.written_at.unix_ms();
                match Marker::read(&object.path) {
                    Some(Marker::Digest { .. }) if may_drop && age_ms >= ms(age_min) => {
                        self.0.objects.delete(&object.path).await?;
                        dropped += 1;
                    }
                    Some(Marker::Clear(key)) => {
                        let at = self.erased_at(&object.path).await?;
                        self.put_marker(&key, Erasure { at, epoch: 0 }).await?;
                        self.0.objects.delete(&object.path).await?;
                    }
                    Some(Marker::Digest { .. }) | None => {}
                }
            }
        }
        Ok(dropped)
    }
}

fn damaged(detail: String) -> Error {
    Error::new(Kind::ArchiveDamaged, detail)
}

fn erased_at(marker: &[u8]) -> Option<Timestamp> {
    let marker: serde_json::Value = serde_json::from_slice(marker).ok()?;
    marker.get("erasedAt")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> SessionKey {
        SessionKey::new("t".parse().unwrap(), id.parse().unwrap())
    }

    #[test]
    fn a_marker_tells_its_session_to_none_but_those_who_ask_for_it() {
        let erasure = Erasure {
            at: "2026-09-01T08:00:00.123Z".parse().unwrap(),
            epoch: 17,
        };
        let salt = Salt::new(Bytes::from_static(b"salt"));
        let path = path(&salt, &key("s:1=@"), erasure);
        assert!(
            path.starts_with("erased/t/2026-09-01/") && !path.contains("s:1"),
            "{path}"
        );
        let read = Marker::read(&path).unwrap();
        let digest = salt.digest(&key("s:1=@"));
        assert_eq!(
            read,
            Marker::Digest {
                salt_id: salt.id.clone(),
                digest,
                erasure
            }
        );
        assert_ne!(digest, salt.digest(&key("s:1")));
        assert_ne!(
            digest,
            Salt::new(Bytes::from_static(b"other")).digest(&key("s:1=@"))
        );
        let mut erasures = Erasures {
            salt: Some(salt),
            last: HashMap::new(),
        };
        erasures.add(digest, erasure);
        assert_eq!(erasures.of(&key("s:1=@")), Some(erasure));
        assert_eq!(erasures.of(&key("s")), None);
    }

    /// Golden: markers lie in buckets, and have these digests.
    #[test]
    fn digests_are_fixed_for_ever() {
        let salt = Salt::new(Bytes::from_static(b"salt"));
        let erasure = Erasure {
            at: Timestamp::from_unix_ms(1_700_000_000_000).unwrap(),
            epoch: 1_700_000_000_001,
        };
        let (id, digest) = (hex(&Sha256::digest(b"salt")), hex(&Sha256::digest(b"saltt/s")));
        assert_eq!(
            path(&salt, &key("s"), erasure),
            format!(
                "erased/t/2023-11-14/{}.{digest}.1700000000000.1700000000001",
                &id[..8]
            )
        );
    }

    #[test]
    fn markers_of_earlier_versions_are_read() {
        let path = "erased/t/2026-01-01/2026-09-01";
        assert_eq!(Marker::read(path), Some(Marker::Clear(key("2026-01-01"))));
        let text = br#"{"erasedAt":"2026-09-01T08:00:00.000Z"}"#;
        let at: Timestamp = "2026-09-01T08:00:00Z".parse().unwrap();
        assert_eq!(erased_at(text), Some(at));
        assert_eq!(erased_at(b"{}"), None);
        for other in [
            SALT_PATH,
            "erased/t/s",
            "erased/t/s/x",
            "erased/t/2026-09-01/x.y.1.2",
            "erased/",
        ] {
            assert_eq!(Marker::read(other), None, "{other}");
        }
    }
}
