//! What the config servers of a cluster hold, and what its shards know of it: one for all routers.
//!
//! A shard refuses what a router sends by chunks that are not the shard's any more. Here the router asks in the shard's
//! place, right before it sends ([`Config::enter`]). It holds the answer until the shard has replied, so a chunk's move
//! can't come between.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound::{Included, Unbounded},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mongodb::bson::{Bson, Document, doc, uuid::Uuid};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::{
    shard::Failure,
    target::{KeyRange, Keys},
};

/// Which shard has what of a collection, as the config servers or a router know it.
#[derive(Debug, Clone)]
pub struct Table {
    /// The field of the shard key; `None` of a collection that is not sharded.
    pub field: Option<String>,
    /// The lower ends of chunks (`""` is `MinKey`), with the shards on which they lie.
    pub chunks: BTreeMap<String, usize>,
    /// A shard's version is another after every chunk that it gave or took.
    versions: Vec<u64>,
    uuid: Uuid,
}

impl Table {
    fn unsharded(primary: usize) -> Self {
        Self {
            field: None,
            chunks: BTreeMap::from([(String::new(), primary)]),
            versions: Vec::new(),
            uuid: Uuid::new(),
        }
    }

    /// The shard that has this key.
    pub fn owner(&self, key: &str) -> usize {
        let mut below = self.chunks.range::<str, _>((Unbounded, Included(key)));
        *below.next_back().expect("a chunk begins at MinKey").1
    }

    /// The shards that have any of these keys; where there is no key, one that says so.
    pub fn owners(&self, keys: &Keys) -> BTreeSet<usize> {
        let mut owners = self.owners_of_any(keys);
        if owners.is_empty() {
            owners.insert(self.owner(""));
        }
        owners
    }

    fn owners_of_any(&self, keys: &Keys) -> BTreeSet<usize> {
        match keys {
            Keys::All => self.chunks.values().copied().collect(),
            Keys::Some { points, ranges } => {
                let of_points = points.iter().map(|point| self.owner(point));
                let of_ranges = ranges.iter().flat_map(|range| {
                    let first = self.owner(&range.from);
                    let begins_within = |(from, _): &(&String, &usize)| range.contains(from);
                    let others = self.chunks.iter().filter(begins_within);
                    std::iter::once(first).chain(others.map(|(_, &shard)| shard))
                });
                of_points.chain(of_ranges).collect()
            }
        }
    }

    /// The chunk in which a key lies.
    pub fn chunk(&self, key: &str) -> (KeyRange, usize) {
        let (from, shard) = self
            .chunks
            .range::<str, _>((Unbounded, Included(key)))
            .next_back()
            .expect("a chunk");
        let mut above = self.chunks.iter().skip_while(|(begin, _)| *begin <= from);
        let range = KeyRange {
            from: from.clone(),
            to: above.next().map(|(next, _)| next.clone()),
        };
        (range, *shard)
    }
}

struct Collection {
    table: Table,
    /// By shard: where documents lie that are not its own, because they are on their way in or out.
    foreign: Vec<Vec<KeyRange>>,
    /// By shard: held by what reads documents there, until they may be deleted.
    holds: Vec<Arc<()>>,
    /// How many collections were sharded before it.
    number: usize,
}

#[derive(Default)]
struct State {
    shards: usize,
    /// The primary shards of databases.
    databases: BTreeMap<String, usize>,
    sharded: BTreeMap<String, Collection>,
    gates: HashMap<(String, usize), Arc<RwLock<()>>>,
}

pub struct Config {
    state: Mutex<State>,
    /// One chunk moves at a time.
    pub moving: tokio::sync::Mutex<()>,
}

/// A shard takes a statement: until this is dropped, it has the chunks that the router takes it to have.
pub struct Entered {
    _gate: OwnedRwLockReadGuard<()>,
    /// Keys of documents on the shard that are not its own.
    pub foreign: Vec<KeyRange>,
    /// Documents that are the shard's now stay for as long as this is held.
    pub hold: Option<Arc<()>>,
}

pub fn shard_name(shard: usize) -> String {
    format!("shard{shard}")
}

pub fn database_of(namespace: &str) -> &str {
    namespace
        .split_once('.')
        .map_or(namespace, |(database, _)| database)
}

impl Config {
    pub fn new(shards: usize) -> Self {
        Self {
            state: Mutex::new(State {
                shards,
                ..State::default()
            }),
            moving: tokio::sync::Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The primary shard of a database, which gets one when it is first named.
    pub fn primary(&self, database: &str) -> usize {
        let mut state = self.lock();
        let next = state.databases.len() % state.shards;
        *state.databases.entry(database.to_owned()).or_insert(next)
    }

    pub fn table(&self, namespace: &str) -> Table {
        let primary = self.primary(database_of(namespace));
        let state = self.lock();
        let sharded = state.sharded.get(namespace);
        sharded.map_or_else(|| Table::unsharded(primary), |sharded| sharded.table.clone())
    }

    /// Waits until the shard takes statements on the collection, and compares what the router goes by.
    ///
    /// # Errors
    /// `StaleConfig`: the shard has other chunks than the router takes it to have.
    pub async fn enter(&self, namespace: &str, shard: usize, by: &Table) -> Result<Entered, Failure> {
        let gate = Arc::clone(&self.gate(namespace, shard)).read_owned().await;
        let state = self.lock();
        let (foreign, hold, is_current) = match state.sharded.get(namespace) {
            Some(sharded) => (
                sharded.foreign[shard].clone(),
                Some(Arc::clone(&sharded.holds[shard])),
                by.field.is_some() && by.versions[shard] == sharded.table.versions[shard],
            ),
            None => (Vec::new(), None, by.field.is_none()),
        };
        if !is_current {
            return Err(Failure::stale(namespace));
        }
        Ok(Entered {
            _gate: gate,
            foreign,
            hold,
        })
    }

    /// What statements on a collection pass at a shard; who holds it for writing keeps all of them waiting.
    pub fn gate(&self, namespace: &str, shard: usize) -> Arc<RwLock<()>> {
        let mut state = self.lock();
        Arc::clone(state.gates.entry((namespace.to_owned(), shard)).or_default())
    }

    /// Gives a collection its shard key, and its primary shard all of it.
    ///
    /// # Errors
    /// `AlreadyInitialized`: it has another one.
    pub fn shard(&self, namespace: &str, field: &str) -> Result<(), Failure> {
        let primary = self.primary(database_of(namespace));
        let mut state = self.lock();
        let (shards, number) = (state.shards, state.sharded.len());
        let collection = state
            .sharded
            .entry(namespace.to_owned())
            .or_insert_with(|| Collection {
                table: Table {
                    field: Some(field.to_owned()),
                    versions: vec![1; shards],
                    ..Table::unsharded(primary)
                },
                foreign: vec![Vec::new(); shards],
                holds: (0..shards).map(|_| Arc::default()).collect(),
                number,
            });
        if collection.table.field.as_deref() == Some(field) {
            return Ok(());
        }
        let message = "sharding already enabled for the collection with options that differ";
        Err(Failure::new(23, "AlreadyInitialized", message))
    }

    fn change<T>(&self, namespace: &str, change: impl FnOnce(&mut Collection) -> T) -> Result<T, Failure> {
        let mut state = self.lock();
        let message = format!("{namespace} is not sharded");
        let collection = state.sharded.get_mut(namespace);
        let collection = collection.ok_or_else(|| Failure::new(118, "NamespaceNotSharded", &message));
        collection.map(change)
    }

    /// Begins a chunk at `point`. Routers and shards need not know: each key stays where it is.
    ///
    /// # Errors
    /// `CannotCreateIndex`, as a `mongos` has it: a chunk begins there already. `NamespaceNotSharded`.
    pub fn split(&self, namespace: &str, point: &str) -> Result<(), Failure> {
        self.change(namespace, |collection| {
            let shard = collection.table.owner(point);
            if collection.table.chunks.contains_key(point) {
                let message = format!("new split key {point} is a boundary key of existing chunk");
                return Err(Failure::new(72, "InvalidOptions", &message));
            }
            collection.table.chunks.insert(point.to_owned(), shard);
            Ok(())
        })?
    }

    /// From here on what lies on the shard in this range is not its own, or is again.
    pub fn set_foreign(&self, namespace: &str, shard: usize, range: &KeyRange, is_foreign: bool) {
        let _ = self.change(namespace, |collection| {
            let foreign = &mut collection.foreign[shard];
            foreign.retain(|other| other != range);
            if is_foreign {
                foreign.push(range.clone());
            }
        });
    }

    /// The chunk is the other shard's; gives what those hold that may still read the donor's documents.
    pub fn commit(
        &self,
        namespace: &str,
        range: &KeyRange,
        from: usize,
        to: usize,
    ) -> Result<Arc<()>, Failure> {
        self.change(namespace, |collection| {
            let Table { chunks, versions, .. } = &mut collection.table;
            chunks.insert(range.from.clone(), to);
            let next = versions.iter().max().expect("shards") + 1;
            (versions[from], versions[to]) = (next, next);
            collection.foreign[to].retain(|other| other != range);
            collection.foreign[from].push(range.clone());
            std::mem::take(&mut collection.holds[from])
        })
    }

    /// Forgets a collection, or all of a database.
    pub fn forget(&self, namespace: &str) {
        let mut state = self.lock();
        let is_of = |name: &String| name == namespace || database_of(name) == namespace;
        state.sharded.retain(|name, _| !is_of(name));
    }

    pub fn shards(&self) -> usize {
        self.lock().shards
    }

    /// The collections that were sharded last, up to so many.
    pub fn newest(&self, count: usize) -> Vec<String> {
        let state = self.lock();
        let mut sharded: Vec<_> = state.sharded.iter().collect();
        sharded.sort_by_key(|(_, collection)| std::cmp::Reverse(collection.number));
        sharded.truncate(count);
        sharded.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// `config.collections`.
    pub fn collections(&self) -> Vec<Document> {
        let state = self.lock();
        let one = |(name, collection): (&String, &Collection)| {
            let Table { field, uuid, .. } = &collection.table;
            let field = field.clone().expect("it is sharded");
            doc! { "_id": name, "uuid": *uuid, "key": { field: 1 }, "unique": false, "noBalance": false }
        };
        state.sharded.iter().map(one).collect()
    }

    /// `config.chunks`.
    pub fn chunks(&self) -> Vec<Document> {
        let state = self.lock();
        let mut chunks = Vec::new();
        for Collection { table, .. } in state.sharded.values() {
            let field = table.field.clone().expect("it is sharded");
            for (from, &shard) in &table.chunks {
                let min = match from.as_str() {
                    "" => Bson::MinKey,
                    from => from.into(),
                };
                let max = table.chunk(from).0.to.map_or(Bson::MaxKey, Bson::String);
                chunks.push(doc! {
                    "_id": format!("{}-{from}", table.uuid), "uuid": table.uuid,
                    "min": { &field: min }, "max": { &field: max }, "shard": shard_name(shard),
                });
            }
        }
        chunks
    }
}
