//! The order of BSON values, as far as the values go by which Colloquy sorts and groups.

use std::cmp::Ordering;

use mongodb::bson::Bson;

/// The place of a type among the others.
fn rank(value: &Bson) -> u8 {
    match value {
        Bson::MinKey => 0,
        Bson::Null | Bson::Undefined => 1,
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) => 2,
        Bson::String(_) => 3,
        Bson::Document(_) => 4,
        Bson::Array(_) => 5,
        Bson::Boolean(_) => 8,
        Bson::DateTime(_) => 9,
        Bson::MaxKey => 255,
        other => panic!("nothing is sorted by {other:?}"),
    }
}

pub fn compare(a: &Bson, b: &Bson) -> Ordering {
    let number = |value: &Bson| match value {
        Bson::Int32(number) => Some(i128::from(*number)),
        Bson::Int64(number) => Some(i128::from(*number)),
        _ => None,
    };
    match (a, b) {
        (Bson::String(a), Bson::String(b)) => a.cmp(b),
        (Bson::DateTime(a), Bson::DateTime(b)) => a.cmp(b),
        (Bson::Boolean(a), Bson::Boolean(b)) => a.cmp(b),
        (Bson::Array(a), Bson::Array(b)) => {
            let unequal = a
                .iter()
                .zip(b)
                .map(|(a, b)| compare(a, b))
                .find(|order| order.is_ne());
            unequal.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        _ => match (number(a), number(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => rank(a).cmp(&rank(b)),
        },
    }
}

/// Compares sort keys in these directions, a number each.
pub fn compare_keys(a: &[Bson], b: &[Bson], directions: &[bool]) -> Ordering {
    let mut orders = a.iter().zip(b).zip(directions).map(|((a, b), &ascending)| {
        let order = compare(a, b);
        if ascending { order } else { order.reverse() }
    });
    orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// The sum of two numbers of a group, as `$sum` has it.
pub fn sum(a: &Bson, b: &Bson) -> Bson {
    match (a, b) {
        (Bson::Int32(a), Bson::Int32(b)) => match a.checked_add(*b) {
            Some(sum) => sum.into(),
            None => (i64::from(*a) + i64::from(*b)).into(),
        },
        (Bson::Int32(a), Bson::Int64(b)) | (Bson::Int64(b), Bson::Int32(a)) => (i64::from(*a) + b).into(),
        (Bson::Int64(a), Bson::Int64(b)) => (a + b).into(),
        other => panic!("nothing adds up {other:?}"),
    }
}
