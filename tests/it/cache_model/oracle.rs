//! What a read must show (I3), may show, and must not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use colloquy::domain::{Event, EventId, EventPosition, Kind, Order, SessionKey, Status};

use super::memory::{Record, Truth};

/// What was acknowledged of a session.
#[derive(Debug, Clone, Default)]
pub struct Acknowledged {
    /// 0: not even that it was opened.
    pub version: i64,
    pub events: BTreeSet<EventId>,
    pub erased: bool,
}

#[derive(Default)]
pub struct Oracle {
    truth: Truth,
    sessions: Mutex<BTreeMap<SessionKey, Acknowledged>>,
}

/// A page as it was shown.
#[derive(Debug)]
pub struct Shown {
    /// Version and JSON, where it was asked for.
    pub session: Option<(i64, Vec<u8>)>,
    pub events: Vec<Vec<u8>>,
    pub has_more: bool,
}

/// Which page was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub order: Order,
    pub limit: usize,
    pub after: Option<EventPosition>,
}

impl Oracle {
    pub fn new(truth: &Truth) -> Self {
        Self {
            truth: truth.clone(),
            sessions: Mutex::default(),
        }
    }

    /// What is acknowledged by now.
    pub fn acknowledged(&self, key: &SessionKey) -> Acknowledged {
        let sessions = self.sessions.lock().unwrap();
        sessions.get(key).cloned().unwrap_or_default()
    }

    fn note(&self, key: &SessionKey, note: impl FnOnce(&mut Acknowledged, &Record)) {
        if let Some(record) = self.truth.lock().unwrap().get(key) {
            let mut sessions = self.sessions.lock().unwrap();
            note(sessions.entry(key.clone()).or_default(), record);
        }
    }

    /// That the session is at this version or a later one was acknowledged.
    pub fn session_acknowledged(&self, key: &SessionKey, version: i64) {
        self.note(key, |known, _| known.version = known.version.max(version));
    }

    pub fn event_acknowledged(&self, key: &SessionKey, event: &Event) {
        self.note(key, |known, record| {
            known.events.insert(event.id.clone());
            // With it, that the session is not initiated any more.
            let begun = record
                .versions
                .iter()
                .find(|session| session.status != Status::Initiated);
            known.version = known.version.max(begun.map_or(0, |session| session.version));
        });
    }

    /// Where there was nothing to erase, that says nothing.
    pub fn erasure_acknowledged(&self, key: &SessionKey) {
        self.note(key, |known, record| known.erased = record.erased.is_some());
    }

    /// Whether a read could fail so that began when `known` was acknowledged.
    ///
    /// # Errors
    /// Why not.
    pub fn check_failure(&self, key: &SessionKey, known: &Acknowledged, kind: Kind) -> Result<(), String> {
        let truth = self.truth.lock().unwrap();
        let could = match kind {
            Kind::Unavailable => true,
            Kind::SessionNotFound => known.version == 0,
            Kind::SessionErased => truth.get(key).is_some_and(|record| record.erased.is_some()),
            _ => false,
        };
        could
            .then_some(())
            .ok_or(format!("a read of {} failed: {kind:?}", key.id))
    }

    /// Checks a page, the read of which began when `known` was acknowledged; gives where the next one begins.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(
        &self,
        key: &SessionKey,
        known: &Acknowledged,
        asked: &Asked,
        shown: &Shown,
    ) -> Result<Option<EventPosition>, String> {
        let truth = self.truth.lock().unwrap();
        let Some(record) = truth.get(key) else {
            return Err(format!("{} was shown, which never was", key.id));
        };
        if known.erased {
            return Err(format!("{} was shown, which was erased", key.id));
        }
        if let Some((version, json)) = &shown.session {
            check_session(record, known.version, *version, json)?;
        }
        check_events(record, &known.events, asked, shown)
    }
}

fn check_session(record: &Record, acknowledged: i64, version: i64, json: &[u8]) -> Result<(), String> {
    if version < acknowledged {
        return Err(format!(
            "version {version} was shown, {acknowledged} was acknowledged"
        ));
    }
    let mut expected = Vec::new();
    let stored = record.versions.iter().find(|session| session.version == version);
    stored
        .ok_or(format!("version {version} never was"))?
        .write_json(&mut expected);
    if json != expected {
        return Err(format!(
            "version {version} was shown as {}",
            String::from_utf8_lossy(json)
        ));
    }
    Ok(())
}

fn check_events(
    record: &Record,
    acknowledged: &BTreeSet<EventId>,
    asked: &Asked,
    shown: &Shown,
) -> Result<Option<EventPosition>, String> {
    let comes_before = |a: &EventPosition, b: &EventPosition| match asked.order {
        Order::Ascending => a < b,
        Order::Descending => a > b,
    };
    let (mut last, mut ids) = (asked.after.clone(), BTreeSet::new());
    for json in &shown.events {
        let position = position_of(record, json)
            .ok_or_else(|| format!("never was: {}", String::from_utf8_lossy(json)))?;
        if last.as_ref().is_some_and(|last| !comes_before(last, &position)) {
            return Err(format!("{} comes after {last:?}", position.id));
        }
        ids.insert(position.id.clone());
        last = Some(position);
    }
    if shown.events.len() > asked.limit || shown.has_more && shown.events.is_empty() {
        return Err(format!(
            "{} events of {} were shown",
            shown.events.len(),
            asked.limit
        ));
    }
    let stored = record.events.iter().map(EventPosition::from);
    let missing = stored.into_iter().find(|position| {
        let within = asked
            .after
            .as_ref()
            .is_none_or(|after| comes_before(after, position))
            && (!shown.has_more || last.as_ref().is_some_and(|last| comes_before(position, last)));
        within && acknowledged.contains(&position.id) && !ids.contains(&position.id)
    });
    match missing {
        Some(missing) => Err(format!("{} was acknowledged and not shown", missing.id)),
        None => Ok(last.filter(|_| shown.has_more)),
    }
}

/// Where the event stands of which this is the JSON.
fn position_of(record: &Record, json: &[u8]) -> Option<EventPosition> {
    let text = std::str::from_utf8(json).ok()?;
    let id = text.strip_prefix(r#"{"eventId":""#)?.split('"').next()?;
    let event = record.events.iter().find(|event| event.id.as_str() == id)?;
    let mut expected = Vec::new();
    event.write_json(&mut expected);
    (json == expected).then(|| event.into())
}
