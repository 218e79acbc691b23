//! Values out of rows: what does not read back as what was written is a fault of the store's, never a panic.

use std::str::FromStr;

use rusqlite::Row;

use super::fault::{Fault, Result};
use crate::domain::Timestamp;

/// The text in a column; `what` names it in an error.
pub(super) fn text<'row>(row: &'row Row<'_>, column: usize, what: &'static str) -> Result<&'row str> {
    optional_text(row, column, what)?.ok_or(Fault::Stored(what))
}

pub(super) fn optional_text<'row>(
    row: &'row Row<'_>,
    column: usize,
    what: &'static str,
) -> Result<Option<&'row str>> {
    let value = row.get_ref(column)?;
    value.as_str_or_null().map_err(|_| Fault::Stored(what))
}

pub(super) fn parsed<T: FromStr>(row: &Row<'_>, column: usize, what: &'static str) -> Result<T> {
    let text = text(row, column, what)?;
    text.parse().map_err(|_| Fault::Stored(what))
}

pub(super) fn optional_parsed<T: FromStr>(
    row: &Row<'_>,
    column: usize,
    what: &'static str,
) -> Result<Option<T>> {
    let text = optional_text(row, column, what)?;
    text.map(|text| text.parse().map_err(|_| Fault::Stored(what)))
        .transpose()
}

pub(super) fn time(row: &Row<'_>, column: usize, what: &'static str) -> Result<Timestamp> {
    optional_time(row, column, what)?.ok_or(Fault::Stored(what))
}

pub(super) fn optional_time(row: &Row<'_>, column: usize, what: &'static str) -> Result<Option<Timestamp>> {
    let ms: Option<i64> = row.get(column)?;
    ms.map(|ms| Timestamp::from_unix_ms(ms).ok_or(Fault::Stored(what)))
        .transpose()
}
