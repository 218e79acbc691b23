//! Settings that all processes on one store must share, since soundness hangs on them: which Redis they tell each other of
//! writes by, for how long a lease lasts, how long an append may take to land, how far clocks may be apart.
//!
//! They are recorded in the store, by `colloquy init`.
//!
//! - **S1. Every process compares its settings with what is recorded before it reads or writes anything else**, and ends where
//!   one differs. Without this: two replicas with different Redis servers each invalidate their own, and return each other's
//!   stale entries for ever.
//! - **S2. A recorded value changes only where that is asked for** (`colloquy init --change-settings`), and then no server may
//!   run: those that do have compared already. Without this: the `init` of a new replica with a wrong setting makes
//!   that the setting of all that start after it.
//! - **S3. A value that is not recorded is not compared.** A newer version has more settings than its database has recorded
//!   until its `init` ran, and an older one does not know those that it finds.
//! - **S4. Processes talk by the lowest protocol that is recorded, and one may run if it speaks that protocol and its newest
//!   is within the recorded range.** `init` of a newer version raises the upper end, so that old and new processes run side
//!   by side and talk as the old ones do. Without this: an upgrade has to stop everything.
//! - **S5. The lower end is raised only where that is asked for** (`colloquy init --drop-superseded`), once every process is
//!   new: from then on old ones are refused. Without this: a process of the version before starts late, and does not
//!   understand what the others say to it.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

/// The protocols that this version speaks: what processes say to one another through Redis and through documents of the
/// store. A version that says something new speaks one more, and still understands the one before.
pub const PROTOCOLS: RangeInclusive<u32> = 1..=1;

/// What the protocol is called among the settings.
const PROTOCOL: &str = "protocol";

/// The settings of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    /// By their keys.
    pub values: BTreeMap<&'static str, String>,
    pub speaks: RangeInclusive<u32>,
}

impl Default for Ours {
    fn default() -> Self {
        Self {
            values: BTreeMap::new(),
            speaks: PROTOCOLS,
        }
    }
}

/// The settings that are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// By their keys.
    pub values: BTreeMap<String, String>,
    pub protocols: RangeInclusive<u32>,
}

/// What may be done about settings that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leave {
    /// To record other values than are there (S2).
    pub change: bool,
    /// To refuse processes of earlier versions from now on (S5).
    pub narrow: bool,
}

/// How a setting was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Alike,
    /// It was not recorded, and is now.
    Recorded,
    /// It was this.
    Changed(String),
    /// It is not recorded.
    Missing,
    /// It is this for the others.
    Differs(String),
}

/// A setting, by its key, with this process's value and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub key: String,
    pub value: String,
    pub found: Found,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, found } = self;
        match found {
            Found::Alike | Found::Recorded => write!(f, "{key} = {value}"),
            Found::Changed(was) => write!(f, "{key} = {value}; it was {was}"),
            Found::Missing => write!(
                f,
                "{key} = {value} is not recorded yet; `colloquy init` does that"
            ),
            Found::Differs(there) => write!(f, "{key} is {value} here, and {there} for all on this database"),
        }
    }
}

fn range(protocols: &RangeInclusive<u32>) -> String {
    let (min, max) = (protocols.start(), protocols.end());
    match min == max {
        true => min.to_string(),
        false => format!("{min} to {max}"),
    }
}

impl Shared {
    /// What is recorded by the first `init`.
    pub fn first(ours: &Ours) -> Self {
        Self {
            values: BTreeMap::new(),
            protocols: *ours.speaks.end()..=*ours.speaks.end(),
        }
    }

    /// How each of these settings stands beside what is recorded.
    pub fn compare(&self, ours: &Ours) -> Vec<Setting> {
        let values = ours.values.iter().map(|(key, value)| Setting {
            key: (*key).to_owned(),
            value: value.clone(),
            found: match self.values.get(*key) {
                Some(there) if there == value => Found::Alike,
                Some(there) => Found::Differs(there.clone()),
                None => Found::Missing,
            },
        });
        let protocol = Setting {
            key: PROTOCOL.to_owned(),
            value: range(&ours.speaks),
            found: match self.accepts(ours) {
                true => Found::Alike,
                false => Found::Differs(range(&self.protocols)),
            },
        };
        values.chain([protocol]).collect()
    }

    /// Whether a process that speaks these protocols may run beside the others (S4).
    fn accepts(&self, ours: &Ours) -> bool {
        self.protocols.contains(ours.speaks.end()) && ours.speaks.contains(self.protocols.start())
    }

    /// What is to be recorded from now on, as far as `leave` goes, and how each setting was found.
    #[must_use]
    pub fn settled(&self, ours: &Ours, leave: Leave) -> (Self, Vec<Setting>) {
        let mut settled = self.clone();
        let (speaks_min, newest) = (*ours.speaks.start(), *ours.speaks.end());
        let (min, max) = (*self.protocols.start(), *self.protocols.end());
        if speaks_min <= min && newest >= min {
            let min = if leave.narrow { newest.max(min) } else { min };
            settled.protocols = min..=max.max(newest);
        }
        let mut found = self.compare(ours);
        for setting in &mut found {
            if setting.key == PROTOCOL {
                if settled.accepts(ours) && settled.protocols != self.protocols {
                    setting.value = range(&settled.protocols);
                    setting.found = Found::Changed(range(&self.protocols));
                }
                continue;
            }
            let found = match &setting.found {
                Found::Missing => Found::Recorded,
                Found::Differs(there) if leave.change => Found::Changed(there.clone()),
                _ => continue,
            };
            setting.found = found;
            settled.values.insert(setting.key.clone(), setting.value.clone());
        }
        (settled, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(values: &[(&'static str, &str)], speaks: RangeInclusive<u32>) -> Ours {
        let values = values.iter().map(|(key, value)| (*key, (*value).to_owned()));
        Ours {
            values: values.collect(),
            speaks,
        }
    }

    fn differs(shared: &Shared, ours: &Ours) -> Vec<String> {
        let settings = shared.compare(ours).into_iter();
        let differing = settings.filter(|setting| matches!(setting.found, Found::Differs(_)));
        differing.map(|setting| setting.to_string()).collect()
    }

    const KEEP: Leave = Leave {
        change: false,
        narrow: false,
    };

    #[test]
    fn a_recorded_value_stays_until_it_is_to_be_changed() {
        let first = ours(&[("prefix", "a"), ("lease_ms", "80")], 1..=1);
        let (shared, found) = Shared::first(&first).settled(&first, KEEP);
        assert!(found[..2].iter().all(|setting| setting.found == Found::Recorded));
        assert_eq!(differs(&shared, &first), [""; 0]);
        let other = ours(&[("prefix", "b"), ("lease_ms", "80")], 1..=1);
        let says = "prefix is b here, and a for all on this database";
        assert_eq!(differs(&shared, &other), [says]);
        let (same, found) = shared.settled(&other, KEEP);
        assert_eq!(same, shared);
        assert_eq!(found[1].found, Found::Differs("a".to_owned()));
        let change = Leave { change: true, ..KEEP };
        let (changed, found) = shared.settled(&other, change);
        assert_eq!(found[1].found, Found::Changed("a".to_owned()));
        assert_eq!(differs(&changed, &other), [""; 0]);
        assert_eq!(differs(&changed, &first).len(), 1);
    }

    #[test]
    fn a_setting_that_only_one_version_knows_is_no_difference() {
        let old = ours(&[("prefix", "a")], 1..=1);
        let (shared, _) = Shared::first(&old).settled(&old, KEEP);
        let new = ours(&[("prefix", "a"), ("newer", "1")], 1..=1);
        assert_eq!(differs(&shared, &new), [""; 0]);
        let (shared, found) = shared.settled(&new, KEEP);
        assert_eq!(found[0].found, Found::Recorded);
        assert_eq!(differs(&shared, &old), [""; 0]);
        assert_eq!(differs(&shared, &ours(&[("newer", "2")], 1..=1)).len(), 1);
    }

    #[test]
    fn an_upgrade_of_the_protocol_passes_through_a_time_of_both() {
        let (old, new, newest) = (ours(&[], 1..=1), ours(&[], 1..=2), ours(&[], 2..=3));
        let may_run = |shared: &Shared| [&old, &new, &newest].map(|ours| differs(shared, ours).is_empty());
        let (shared, _) = Shared::first(&old).settled(&old, KEEP);
        assert_eq!(may_run(&shared), [true, false, false]);
        assert_eq!(
            differs(&shared, &new),
            ["protocol is 1 to 2 here, and 1 for all on this database"]
        );
        let (both, found) = shared.settled(&new, KEEP);
        assert_eq!(both.protocols, 1..=2);
        assert_eq!(found[0].found, Found::Changed("1".to_owned()));
        // A newer one that does not speak the old protocol has to wait, also with its `init`.
        assert_eq!(may_run(&both), [true, true, false]);
        assert_eq!(both.settled(&newest, KEEP).0, both);
        // The old version's `init` takes nothing back.
        assert_eq!(both.settled(&old, KEEP).0, both);
        let narrow = Leave { narrow: true, ..KEEP };
        let (done, _) = both.settled(&new, narrow);
        assert_eq!(done.protocols, 2..=2);
        assert_eq!(may_run(&done), [false, true, false]);
        assert_eq!(
            differs(&done, &old),
            ["protocol is 1 here, and 2 for all on this database"]
        );
        assert_eq!(done.settled(&old, narrow).0, done);
        assert_eq!(may_run(&done.settled(&newest, KEEP).0), [false, true, true]);
    }
}
