//! How the events of a round of appending are settled, but for what the insert itself says.

use std::collections::HashMap;

use super::{
    super::{
        archive,
        documents::Standing,
        fault::{Fault, Result},
        sessions,
    },
    Group, compare, lose,
};
use crate::{
    domain::{Error, SessionId, Status},
    store::refusal,
};

impl Group<'_> {
    pub(super) fn refuse_open(&mut self, places: &[usize], refusal: impl Fn(&SessionId) -> Error) {
        for &at in places {
            if self.is_open(at) {
                self.outcomes[at] = Some(Err(refusal(&self.batch[at].key.id)));
            }
        }
    }

    /// Says no more of these events that they are stored.
    pub(super) fn take_back(&mut self, places: &[usize], fault: Fault) {
        for &at in places {
            if matches!(self.outcomes[at], Some(Ok(_))) {
                self.outcomes[at] = None;
            }
        }
        lose(self.outcomes, places, fault);
    }

    /// Refuses the events of ended sessions that were not found, unless they may have been moved meanwhile.
    pub(super) async fn refuse_ended(&mut self, ended: &[usize]) -> Result<()> {
        let missing: Vec<usize> = ended.iter().copied().filter(|&at| self.is_open(at)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let now = self.standings(missing.iter().map(|&at| self.key(at))).await?;
        for at in missing {
            let k = self.key(at);
            let id = &self.batch[at].key.id;
            let refusal = match now.get(k) {
                Some(Standing::Session(place)) if place.pointer.is_some() => refusal::session_archived(id),
                Some(Standing::Session(place)) if place.epoch == self.sessions[k].place.epoch => {
                    refusal::session_ended(id)
                }
                // Archived and restored, or erased: the next round finds out.
                _ => continue,
            };
            self.outcomes[at] = Some(Err(refusal));
        }
        Ok(())
    }

    /// Takes back what was said of new events that an archiver may not have met, and has their sessions looked at.
    pub(super) async fn refuse_late(&mut self) -> Result<()> {
        let is_new = |at: &usize| matches!(&self.outcomes[*at], Some(Ok(appended)) if !appended.replayed);
        let new: HashMap<&str, Vec<usize>> = self
            .sessions
            .iter()
            .map(|(&k, session)| (k, session.new.iter().copied().filter(is_new).collect::<Vec<_>>()))
            .filter(|(_, new)| !new.is_empty())
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let now = self.standings(new.keys().copied()).await?;
        let is_late = |k: &str| {
            let then = &self.sessions[k].place;
            matches!(now.get(k), Some(Standing::Session(place)) if place.life == then.life
                && (place.pointer.is_some() || place.epoch != then.epoch))
        };
        let late: Vec<(String, Vec<usize>)> = new
            .into_iter()
            .filter(|(k, _)| is_late(k))
            .map(|(k, places)| (k.to_owned(), places))
            .collect();
        for &at in late.iter().flat_map(|(_, places)| places) {
            self.outcomes[at] = Some(Err(refusal::session_archived(&self.batch[at].key.id)));
        }
        let untidy = late.into_iter().map(|(k, _)| k).collect();
        archive::make_untidy(self.call, untidy, self.concern).await
    }

    /// Gives back numbers that no event got.
    pub(super) fn settle_sequences(&self) {
        for session in self.sessions.values() {
            let Some(taken) = &session.taken else { continue };
            let created = session.new.iter().filter_map(|&at| match &self.outcomes[at] {
                Some(Ok(appended)) if !appended.replayed => Some(appended.event.seq),
                _ => None,
            });
            self.sequences.settle(&session.events, taken, created.max());
        }
    }

    /// Settles the events whose id stands earlier in the batch, by what became of that one.
    pub(super) fn repeat(&mut self) {
        for &(at, first) in &self.again {
            let stored = self.stored.get(&first);
            self.outcomes[at] = match &self.outcomes[first] {
                Some(Ok(appended)) => Some(compare(appended.event.clone(), &self.batch[at])),
                Some(Err(error)) => Some(match stored {
                    Some(stored) => compare(stored.clone(), &self.batch[at]),
                    None => Err(error.share()),
                }),
                None => None,
            };
        }
    }

    /// Makes sessions active that have an event now. So does a replay: the append that stored the event may have been
    /// cut short.
    pub(super) async fn activate(&self, open: &[usize]) -> Result<()> {
        let mut activated = Vec::new();
        let settled = open
            .iter()
            .filter(|&&at| matches!(&self.outcomes[at], Some(Ok(_))));
        for k in settled.map(|&at| self.key(at)) {
            let Some(session) = self.sessions.get(k) else {
                continue;
            };
            if session.place.status == Status::Initiated {
                activated.push((k.to_owned(), session.place.life));
            }
        }
        activated.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        activated.dedup();
        if activated.is_empty() {
            return Ok(());
        }
        sessions::activate(self.call, activated, self.concern).await
    }
}
