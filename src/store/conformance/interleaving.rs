//! Archivers that interleave at random, some slower than their leases: each session has one history all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use colloquy::{
    domain::{Event, Pointer, SegmentName, SessionKey},
    store::{
        Store,
        catalog::{Archived, Catalog, Claim, Claimed, Standing, Written},
    },
};

use super::{
    all_events, at,
    catalog::{CatalogSubject, LEASE, both, commit, ended, hot, ids, pointer, segment, standing},
    key,
    model::{Random, seed},
};

const SESSIONS: usize = 20;
const ARCHIVERS: usize = 4;
const ROUNDS: usize = 150;

/// What was told to have happened to a session under an epoch: it was archived there, or restored.
type Told = BTreeMap<i64, Option<Pointer>>;

pub async fn archivers_that_interleave_keep_one_history(subject: &dyn CatalogSubject) {
    let ((catalog, store), seed) = (both(subject).await, seed());
    let mut sessions = BTreeMap::new();
    for n in 0..SESSIONS {
        let key = key(&format!("s-{n}"));
        ended(&store, &key).await;
        let events = all_events(&store, &key).await;
        sessions.insert(key, events);
    }
    let archivers = super::together(ARCHIVERS, |n| {
        let archiver = Archiver {
            catalog: catalog.clone(),
            sessions: sessions.clone(),
            random: Random(seed + n as u64),
            epochs: Vec::new(),
            told: Vec::new(),
            held_up: Vec::new(),
            committed: Vec::new(),
        };
        archiver.run()
    })
    .await;

    let mut epochs = BTreeSet::new();
    for (key, epoch) in archivers.iter().flat_map(|archiver| &archiver.epochs) {
        assert!(
            epochs.insert((key, epoch)),
            "{key} was claimed twice under {epoch}"
        );
    }
    let mut histories: BTreeMap<&SessionKey, Told> = BTreeMap::new();
    for (key, epoch, outcome) in archivers.iter().flat_map(|archiver| &archiver.told) {
        let before = histories.entry(key).or_default().insert(*epoch, outcome.clone());
        assert_eq!(before, None, "{key} has two histories from {epoch} on");
    }
    for (key, events) in &sessions {
        let newest = histories.get(key).and_then(|told| told.last_key_value());
        let (hot, at) = hot(&store, key).await;
        match newest {
            Some((_, Some(pointer))) => assert_eq!(at.as_ref(), Some(pointer), "{key}"),
            // Whoever restored it brought everything back, and nobody who came late took any of it.
            Some((_, None)) | None => assert_eq!((&hot, at), (events, None), "{key}"),
        }
        let stands = standing(&catalog, key).await;
        assert_eq!(
            matches!(stands, Standing::Hot),
            newest.is_none_or(|(_, told)| told.is_none())
        );
    }
}

struct Archiver {
    catalog: Arc<dyn Catalog>,
    sessions: BTreeMap<SessionKey, Vec<Event>>,
    random: Random,
    /// Of every claim that was granted.
    epochs: Vec<(SessionKey, i64)>,
    told: Vec<(SessionKey, i64, Option<Pointer>)>,
    /// Claimed, and not ended yet.
    held_up: Vec<Work>,
    /// What it may still want to delete, much later.
    committed: Vec<Archived>,
}

enum Work {
    Commit {
        claimed: Claimed,
        owner: SegmentName,
    },
    /// All events were brought back.
    Restore {
        claimed: Claimed,
        owner: SegmentName,
    },
}

impl Archiver {
    async fn run(mut self) -> Self {
        for _ in 0..ROUNDS {
            match self.random.below(10) {
                0 | 1 => self.begin(Claim::Hot).await,
                2 => self.begin(Claim::Archived).await,
                3 | 4 => self.begin_restore().await,
                5..8 => self.go_on().await,
                8 => self.delete_late().await,
                _ => self.delete_as_it_stands().await,
            }
            let key = self.some_key();
            self.read(&key).await;
        }
        while !self.held_up.is_empty() {
            self.go_on().await;
        }
        self
    }

    fn some_key(&mut self) -> SessionKey {
        key(&format!("s-{}", self.random.below(SESSIONS)))
    }

    /// Half of the claims may end before they are used.
    fn some_lease(&mut self) -> Duration {
        let short = Duration::from_millis(self.random.below(4) as u64);
        self.random.pick(&[LEASE, short])
    }

    async fn claim(&mut self, kind: Claim) -> (Vec<Claimed>, SegmentName) {
        let (keys, lease, owner) = ([(); 3].map(|()| self.some_key()), self.some_lease(), segment());
        let keys: BTreeSet<_> = keys.into_iter().collect();
        let keys: Vec<_> = keys.into_iter().collect();
        let claimed = self.catalog.claim(&keys, kind, &owner, lease).await.unwrap();
        for one in &claimed {
            self.epochs.push((one.key.clone(), one.epoch));
        }
        if self.random.one_in(4) {
            self.catalog.renew(&claimed, &owner, lease).await.unwrap();
        }
        (claimed, owner)
    }

    async fn begin(&mut self, kind: Claim) {
        let (claimed, owner) = self.claim(kind).await;
        for claimed in claimed {
            let owner = owner.clone();
            self.held_up.push(Work::Commit { claimed, owner });
        }
    }

    async fn begin_restore(&mut self) {
        let (claimed, owner) = self.claim(Claim::Archived).await;
        for claimed in claimed {
            for event in &self.sessions[&claimed.key] {
                let event = std::slice::from_ref(event);
                let brought = self.catalog.bring_back(&claimed.key, claimed.epoch, event);
                brought.await.unwrap();
            }
            let owner = owner.clone();
            self.held_up.push(Work::Restore { claimed, owner });
        }
    }

    /// Ends what it began at some time, whatever has become of the claim.
    async fn go_on(&mut self) {
        if self.held_up.is_empty() {
            return;
        }
        let next = self.random.below(self.held_up.len());
        match self.held_up.swap_remove(next) {
            Work::Commit { claimed, owner } if self.random.one_in(5) => {
                self.catalog
                    .release(&[claimed], &owner, Written::Nothing)
                    .await
                    .unwrap();
            }
            Work::Commit { claimed, owner } => {
                if commit(&self.catalog, &claimed, &owner).await {
                    self.committed(claimed, pointer(&owner));
                }
            }
            Work::Restore { claimed, owner } => {
                let Claimed { key, epoch, .. } = claimed;
                let restored = self.catalog.restored(&key, epoch, &owner, at(20_000)).await;
                if restored.unwrap().is_some() {
                    self.read(&key).await;
                    self.told.push((key, epoch, None));
                }
            }
        }
    }

    /// What is not in the archive is here, at every instant.
    async fn read(&self, key: &SessionKey) {
        let store: Arc<dyn Store> = self.catalog.clone();
        let (hot, archived) = hot(&store, key).await;
        if archived.is_none() {
            assert_eq!(hot, self.sessions[key], "{key}");
        }
    }

    fn committed(&mut self, claimed: Claimed, pointer: Pointer) {
        let Claimed { key, epoch, .. } = claimed;
        self.told.push((key.clone(), epoch, Some(pointer.clone())));
        self.committed.push(Archived { key, epoch, pointer });
    }

    /// As one does that was held up between its commit and its deletion.
    async fn delete_late(&mut self) {
        if !self.committed.is_empty() {
            let archived = self.random.pick(&self.committed);
            self.delete(&archived).await;
        }
    }

    async fn delete_as_it_stands(&mut self) {
        let key = self.some_key();
        if let Standing::Archived(archived) = standing(&self.catalog, &key).await {
            self.delete(&archived).await;
            self.catalog.tidied(&[archived], None).await.unwrap();
        }
    }

    async fn delete(&self, archived: &Archived) {
        let ids = ids(&self.sessions[&archived.key]);
        let deleted = self
            .catalog
            .delete_archived(&archived.key, archived.epoch, &ids)
            .await;
        deleted.unwrap();
    }
}
