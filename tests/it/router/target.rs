//! Which values of the shard key a filter leaves, by the rules of the manual: equality, `$in`, and ranges on the shard key, and what
//! `$and` and `$or` make of them. Whatever else a filter says narrows nothing down.

use mongodb::bson::{Bson, Document, doc};

/// Keys from `from` to, but for, `to`; without one, to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    pub from: String,
    pub to: Option<String>,
}

impl KeyRange {
    pub fn contains(&self, key: &str) -> bool {
        self.from.as_str() <= key && self.to.as_deref().is_none_or(|to| key < to)
    }

    /// The documents with these keys.
    pub fn filter(&self, field: &str) -> Document {
        let mut range = doc! { "$gte": &self.from };
        // Shard keys are strings, so all that are not lie outside of every range.
        match &self.to {
            Some(to) => range.insert("$lt", to),
            None => range.insert("$type", "string"),
        };
        doc! { field: range }
    }
}

/// What a statement may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// Anything: every shard is asked.
    All,
    Some {
        points: Vec<String>,
        ranges: Vec<KeyRange>,
    },
}

impl Keys {
    fn points(points: Vec<String>) -> Self {
        let ranges = Vec::new();
        Self::Some { points, ranges }
    }

    pub fn of(filter: &Document, field: &str) -> Self {
        let mut keys = filter.get(field).map_or(Self::All, of_condition);
        for (name, value) in filter {
            let branches = || {
                let branches = value.as_array().into_iter().flatten();
                branches
                    .filter_map(Bson::as_document)
                    .map(|branch| Self::of(branch, field))
            };
            match name.as_str() {
                // Either narrows down. Of two that do, one is enough to be right.
                "$and" => keys = branches().fold(keys, Self::narrower),
                "$or" => keys = keys.narrower(branches().reduce(Self::or).unwrap_or(Self::All)),
                _ => {}
            }
        }
        keys
    }

    fn narrower(self, other: Self) -> Self {
        if self == Self::All { other } else { self }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (
                Self::Some {
                    mut points,
                    mut ranges,
                },
                Self::Some {
                    points: more_points,
                    ranges: more_ranges,
                },
            ) => {
                points.extend(more_points);
                ranges.extend(more_ranges);
                Self::Some { points, ranges }
            }
            _ => Self::All,
        }
    }

    /// The one key, where there is only one.
    pub fn single(&self) -> Option<&str> {
        match self {
            Self::Some { points, ranges } if ranges.is_empty() && points.len() == 1 => Some(&points[0]),
            _ => None,
        }
    }
}

fn of_condition(condition: &Bson) -> Keys {
    let range = match condition {
        Bson::String(key) => return Keys::points(vec![key.clone()]),
        Bson::Document(range) => range,
        _ => return Keys::All,
    };
    let text = |operator: &str| range.get_str(operator).ok();
    if let Some(key) = text("$eq") {
        return Keys::points(vec![key.to_owned()]);
    }
    if let Ok(keys) = range.get_array("$in") {
        let keys: Option<Vec<String>> = keys.iter().map(|key| key.as_str().map(str::to_owned)).collect();
        return keys.map_or(Keys::All, Keys::points);
    }
    let from = text("$gte").or(text("$gt"));
    // One key more where the end is included.
    let to = text("$lt")
        .map(str::to_owned)
        .or(text("$lte").map(|to| format!("{to}\0")));
    if from.is_none() && to.is_none() {
        return Keys::All;
    }
    let from = from.unwrap_or_default().to_owned();
    Keys::Some {
        points: Vec::new(),
        ranges: vec![KeyRange { from, to }],
    }
}

/// A filter that also leaves out these ranges.
pub fn without(filter: Document, field: &str, ranges: &[KeyRange]) -> Document {
    if ranges.is_empty() {
        return filter;
    }
    let ranges: Vec<Document> = ranges.iter().map(|range| range.filter(field)).collect();
    let but = doc! { "$nor": ranges };
    match filter.is_empty() {
        true => but,
        false => doc! { "$and": [filter, but] },
    }
}

#[test]
fn a_filter_is_narrowed_down_by_its_shard_key_alone() {
    let some = |points: &[&str], ranges: &[(&str, Option<&str>)]| Keys::Some {
        points: points.iter().map(ToString::to_string).collect(),
        ranges: ranges
            .iter()
            .map(|(from, to)| KeyRange {
                from: from.to_string(),
                to: to.map(str::to_owned),
            })
            .collect(),
    };
    for (filter, keys) in [
        (doc! {}, Keys::All),
        (doc! { "_id": "e" }, Keys::All),
        (doc! { "s": "a", "type": "t" }, some(&["a"], &[])),
        (doc! { "s": { "$in": ["a", "b"] } }, some(&["a", "b"], &[])),
        (
            doc! { "s": { "$gte": "a", "$lt": "b" } },
            some(&[], &[("a", Some("b"))]),
        ),
        (doc! { "s": { "$gt": "a" } }, some(&[], &[("a", None)])),
        (doc! { "s": { "$exists": true } }, Keys::All),
        (
            doc! { "$or": [{ "s": "a" }, { "s": "b", "n": 1 }] },
            some(&["a", "b"], &[]),
        ),
        (doc! { "$or": [{ "s": "a" }, { "n": 1 }] }, Keys::All),
        (
            doc! { "n": 1, "$and": [{ "n": 2 }, { "s": "a" }] },
            some(&["a"], &[]),
        ),
    ] {
        assert_eq!(Keys::of(&filter, "s"), keys, "{filter}");
    }
}
