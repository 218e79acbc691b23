//! Claims, and what is done under them: a commit points a session to its copy, a restore takes the pointer away.
//!
//! All of it runs in the writer, one after the other and by one clock, so a claim that has ended for anyone has ended
//! for all who come later. That is why even [`is_needed`], which only reads, asks there.

use rusqlite::{Connection, params};

use super::{
    clock::UnixMs,
    entries::{self, Entry, State},
    fault::Result,
    leftovers,
    row::{parsed, time},
    sessions,
};
use crate::{
    domain::{SegmentName, Session, SessionKey, Timestamp},
    store::catalog::{Claim, Claimed, Commit, Copies, Due, Written},
};

const DUE: &str = "SELECT tenant, session_id, ended_at FROM sessions INDEXED BY sessions_due \
     WHERE archived = 0 AND forget_at IS NULL AND ended_at < ?1 AND (restored_at IS NULL OR restored_at < ?1) \
     AND (claim_until IS NULL OR claim_until <= ?2) ORDER BY ended_at LIMIT ?3";
const CLAIM: &str = "UPDATE sessions SET epoch = ?, claim_owner = ?, claim_until = ? WHERE id = ?";
const RENEW: &str = "UPDATE sessions SET claim_until = ? WHERE id = ?";
const RELEASE: &str = "UPDATE sessions SET claim_owner = NULL, claim_until = NULL WHERE id = ?";
const COMMIT: &str = "UPDATE sessions SET archived = 1, segment = ?, first_row = ?, rows = ?, tidy_at = ?, \
     claim_owner = NULL, claim_until = NULL WHERE id = ?";
const COMMIT_MOVED: &str = "UPDATE sessions SET segment = ?, first_row = ?, rows = ?, \
     claim_owner = NULL, claim_until = NULL WHERE id = ?";
const RESTORE: &str = "UPDATE sessions SET archived = 0, segment = NULL, first_row = NULL, rows = NULL, \
     tidy_at = NULL, restored_at = ?, claim_owner = NULL, claim_until = NULL WHERE id = ?";
const IS_POINTED_TO: &str =
    "SELECT EXISTS (SELECT 1 FROM sessions INDEXED BY sessions_by_segment WHERE segment = ?)";
const IS_CLAIMED: &str = "SELECT EXISTS (SELECT 1 FROM sessions INDEXED BY sessions_by_claim \
     WHERE claim_owner = ? AND claim_until > ?)";

#[cfg(test)]
pub(super) const STATEMENTS: &[&str] = &[
    DUE,
    CLAIM,
    RENEW,
    RELEASE,
    COMMIT,
    COMMIT_MOVED,
    RESTORE,
    IS_POINTED_TO,
    IS_CLAIMED,
];

pub(super) fn due(connection: &Connection, before: Timestamp, limit: i64, now: UnixMs) -> Result<Vec<Due>> {
    let mut statement = connection.prepare_cached(DUE)?;
    let mut rows = statement.query(params![before.unix_ms(), now, limit])?;
    let mut due = Vec::new();
    while let Some(row) = rows.next()? {
        due.push(Due {
            key: SessionKey::new(parsed(row, 0, "tenant")?, parsed(row, 1, "session_id")?),
            ended_at: time(row, 2, "ended_at")?,
        });
    }
    Ok(due)
}

/// Who claims, and for how long where that counts.
pub(super) struct Claimant {
    pub(super) owner: SegmentName,
    pub(super) lease_ms: i64,
    pub(super) now: UnixMs,
}

impl Claimant {
    fn until(&self) -> UnixMs {
        self.now.saturating_add(self.lease_ms)
    }

    /// The session's entry, where this one's claim under that epoch stands.
    pub(super) fn entry(
        &self,
        connection: &Connection,
        key: &SessionKey,
        epoch: i64,
    ) -> Result<Option<Entry>> {
        let entry = entries::find(connection, key)?;
        Ok(entry.filter(|entry| entry.is_claimed(epoch, &self.owner, self.now)))
    }

    pub(super) fn claim(
        &self,
        connection: &Connection,
        keys: &[SessionKey],
        claim: Claim,
    ) -> Result<Vec<Claimed>> {
        let (mut granted, owner) = (Vec::new(), self.owner.to_string());
        for key in keys {
            let Some(entry) = entries::find(connection, key)? else {
                continue;
            };
            let fits = matches!(
                (claim, &entry.state),
                (Claim::Hot, State::Hot { ended: true }) | (Claim::Archived, State::Archived(_))
            );
            if !fits || entry.claimed_by(self.now).is_some() {
                continue;
            }
            if let Some(late) = entry.last_claimant() {
                leftovers::keep(connection, &entry, late)?;
            }
            let epoch = entry.epoch.saturating_add(1).max(self.now);
            let values = params![epoch, owner, self.until(), entry.id];
            connection.prepare_cached(CLAIM)?.execute(values)?;
            granted.push(Claimed {
                key: key.clone(),
                epoch,
                version: entry.version,
                pointer: entry.pointer().cloned(),
            });
        }
        Ok(granted)
    }

    pub(super) fn renew(&self, connection: &Connection, claimed: &[Claimed]) -> Result<Vec<bool>> {
        let renew = |claimed: &Claimed| {
            let Some(entry) = self.entry(connection, &claimed.key, claimed.epoch)? else {
                return Ok(false);
            };
            let values = params![self.until(), entry.id];
            connection.prepare_cached(RENEW)?.execute(values)?;
            Ok(true)
        };
        claimed.iter().map(renew).collect()
    }

    pub(super) fn release(
        &self,
        connection: &Connection,
        claimed: &[Claimed],
        written: Written,
    ) -> Result<()> {
        for claimed in claimed {
            if let Some(entry) = self.entry(connection, &claimed.key, claimed.epoch)? {
                if written == Written::Maybe {
                    leftovers::keep(connection, &entry, &self.owner)?;
                }
                connection.prepare_cached(RELEASE)?.execute([entry.id])?;
            }
        }
        Ok(())
    }

    pub(super) fn commit(
        &self,
        connection: &Connection,
        commits: &[Commit],
        copies: Copies,
    ) -> Result<Vec<bool>> {
        let commit = |commit: &Commit| {
            let Some(entry) = entries::find(connection, &commit.key)? else {
                return Ok(false);
            };
            // Done before; the epoch may be a later claim's by now.
            if entry.pointer() == Some(&commit.pointer) && commit.epoch <= entry.epoch {
                return Ok(true);
            }
            let is_current = entry.version == commit.version;
            if !is_current || !entry.is_claimed(commit.epoch, &self.owner, self.now) {
                return Ok(false);
            }
            if let Some(earlier) = entry.pointer() {
                leftovers::keep(connection, &entry, &earlier.segment)?;
            }
            let (segment, first_row, rows) = entries::columns(&commit.pointer)?;
            match (copies, entry.pointer()) {
                (Copies::Moved, Some(_)) => {
                    let values = params![segment, first_row, rows, entry.id];
                    connection.prepare_cached(COMMIT_MOVED)?.execute(values)?;
                }
                _ => {
                    let values = params![segment, first_row, rows, self.now, entry.id];
                    connection.prepare_cached(COMMIT)?.execute(values)?;
                }
            }
            Ok(true)
        };
        commits.iter().map(commit).collect()
    }

    pub(super) fn restored(
        &self,
        connection: &Connection,
        key: &SessionKey,
        epoch: i64,
        restored_at: Timestamp,
    ) -> Result<Option<Session>> {
        let Some(entry) = self.entry(connection, key, epoch)? else {
            return Ok(None);
        };
        let Some(pointer) = entry.pointer() else {
            return Ok(None);
        };
        leftovers::keep(connection, &entry, &pointer.segment)?;
        let values = params![restored_at.unix_ms(), entry.id];
        connection.prepare_cached(RESTORE)?.execute(values)?;
        sessions::load(connection, key).map(|(_, session)| Some(session))
    }
}

pub(super) fn is_needed(connection: &Connection, segment: &SegmentName, now: UnixMs) -> Result<bool> {
    let name = segment.to_string();
    let mut is_pointed_to = connection.prepare_cached(IS_POINTED_TO)?;
    if is_pointed_to.query_row([&name], |row| row.get(0))? {
        return Ok(true);
    }
    let mut is_claimed = connection.prepare_cached(IS_CLAIMED)?;
    Ok(is_claimed.query_row(params![name, now], |row| row.get(0))?)
}
