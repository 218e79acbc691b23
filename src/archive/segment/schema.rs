//! The columns of the two files, and how each is written. `docs/archive-format.md` is the format in words; what is here
//! may be added to, and never changed.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::{
    arrow::ProjectionMask,
    basic::{Compression, Encoding, ZstdLevel},
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder},
    },
    schema::types::{ColumnPath, SchemaDescriptor},
};

use super::{FORMAT, SegmentOptions, fault};
use crate::domain::{Result, SegmentName};

/// What the files say of themselves in their metadata.
pub(super) const FORMAT_KEY: &str = "colloquy.format";
pub(super) const SEGMENT_KEY: &str = "colloquy.segment";

/// The zone that instants are written in.
pub(super) const UTC: &str = "UTC";

/// Columns of the events file, by their place. What a page is chosen by lies side by side, the payload behind it, so
/// that a few requests fetch the one without the other.
pub(super) mod event {
    pub const TENANT: usize = 0;
    pub const SESSION_ID: usize = 1;
    pub const TYPE: usize = 2;
    pub const TIMESTAMP: usize = 3;
    pub const SEQ: usize = 4;
    pub const EVENT_ID: usize = 5;
    pub const PAYLOAD_BYTES: usize = 6;
    pub const PAYLOAD_CHECKSUM: usize = 7;
    pub const CHECKSUM: usize = 8;
    pub const PAYLOAD: usize = 9;
}

/// Columns of the sessions file, by their place.
pub(super) mod session {
    pub const TENANT: usize = 0;
    pub const SESSION_ID: usize = 1;
    pub const USER_ID: usize = 2;
    pub const STATUS: usize = 3;
    pub const LANGUAGE: usize = 4;
    pub const METADATA: usize = 5;
    pub const STARTED_AT: usize = 6;
    pub const ENDED_AT: usize = 7;
    pub const END_REASON: usize = 8;
    pub const VERSION: usize = 9;
    pub const EPOCH: usize = 10;
    pub const FIRST_ROW: usize = 11;
    pub const ROWS: usize = 12;
    pub const CHECKSUM: usize = 13;
}

pub(super) fn events() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("tenant", DataType::Utf8, false),
        Field::new("session_id", DataType::Utf8, false),
        Field::new("type", DataType::Utf8, false),
        Field::new("timestamp", instant(), false),
        Field::new("seq", DataType::Int64, false),
        Field::new("event_id", DataType::Utf8, false),
        Field::new("payload_bytes", DataType::Int32, false),
        Field::new("payload_checksum", DataType::Int32, false),
        Field::new("checksum", DataType::Int32, false),
        Field::new("payload", DataType::Utf8, false),
    ]))
}

pub(super) fn sessions() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("tenant", DataType::Utf8, false),
        Field::new("session_id", DataType::Utf8, false),
        Field::new("user_id", DataType::Utf8, true),
        Field::new("status", DataType::Utf8, false),
        Field::new("language", DataType::Utf8, true),
        Field::new("metadata", DataType::Utf8, false),
        Field::new("started_at", instant(), false),
        Field::new("ended_at", instant(), true),
        Field::new("end_reason", DataType::Utf8, true),
        Field::new("version", DataType::Int64, false),
        Field::new("epoch", DataType::Int64, false),
        Field::new("first_row", DataType::Int64, false),
        Field::new("rows", DataType::Int64, false),
        Field::new("checksum", DataType::Int32, false),
    ]))
}

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some(UTC.into()))
}

/// The columns that say which row it is, all but the names of tenant and session, which the reader knows.
pub(super) fn heads(columns: &SchemaDescriptor) -> ProjectionMask {
    ProjectionMask::leaves(columns, event::TYPE..=event::CHECKSUM)
}

pub(super) fn payloads(columns: &SchemaDescriptor) -> ProjectionMask {
    ProjectionMask::leaves(columns, [event::PAYLOAD])
}

pub(super) fn events_properties(name: &SegmentName, options: &SegmentOptions) -> Result<WriterProperties> {
    let delta = ["timestamp", "seq", "payload_bytes"];
    let mut properties = of_both(name, options)?;
    for column in delta {
        properties = properties.set_column_encoding(path(column), Encoding::DELTA_BINARY_PACKED);
    }
    for column in ["tenant", "session_id", "type"] {
        properties = properties.set_column_dictionary_enabled(path(column), true);
    }
    // Hashes: nothing makes them smaller.
    for column in ["payload_checksum", "checksum"] {
        properties = properties.set_column_compression(path(column), Compression::UNCOMPRESSED);
    }
    let sorting = [event::SESSION_ID, event::TIMESTAMP, event::SEQ, event::EVENT_ID];
    Ok(properties
        .set_column_encoding(path("event_id"), Encoding::DELTA_BYTE_ARRAY)
        .set_column_encoding(path("payload"), Encoding::DELTA_LENGTH_BYTE_ARRAY)
        .set_column_statistics_enabled(path("timestamp"), EnabledStatistics::Page)
        .set_sorting_columns(Some(sorting.map(ascending).to_vec()))
        .build())
}

pub(super) fn sessions_properties(name: &SegmentName, options: &SegmentOptions) -> Result<WriterProperties> {
    let mut properties = of_both(name, options)?;
    for column in ["started_at", "ended_at", "version", "epoch", "first_row", "rows"] {
        properties = properties.set_column_encoding(path(column), Encoding::DELTA_BINARY_PACKED);
    }
    for column in ["tenant", "user_id", "status", "language", "end_reason"] {
        properties = properties.set_column_dictionary_enabled(path(column), true);
    }
    Ok(properties
        .set_column_compression(path("checksum"), Compression::UNCOMPRESSED)
        .set_sorting_columns(Some(vec![ascending(session::SESSION_ID)]))
        .build())
}

fn of_both(name: &SegmentName, options: &SegmentOptions) -> Result<WriterPropertiesBuilder> {
    let level = ZstdLevel::try_new(options.zstd_level).map_err(fault::of_encoding)?;
    let about = [(FORMAT_KEY, FORMAT.to_string()), (SEGMENT_KEY, name.to_string())];
    let about = about.map(|(key, value)| KeyValue::new(key.to_owned(), value));
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(false)
        .set_data_page_size_limit(options.page_bytes)
        .set_data_page_row_count_limit(options.page_rows)
        .set_write_batch_size(options.page_rows)
        // Row groups are closed by the writer, which knows where sessions end.
        .set_max_row_group_row_count(None)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_statistics_enabled(path("session_id"), EnabledStatistics::Page)
        .set_statistics_truncate_length(Some(STATISTICS_BYTES_MAX))
        .set_column_index_truncate_length(Some(STATISTICS_BYTES_MAX))
        .set_key_value_metadata(Some(about.to_vec())))
}

/// Longest text in the statistics of a page.
const STATISTICS_BYTES_MAX: usize = 64;

fn path(column: &str) -> ColumnPath {
    ColumnPath::from(column)
}

fn ascending(column: usize) -> SortingColumn {
    SortingColumn {
        // There are a few columns, each with a small number.
        column_idx: i32::try_from(column).unwrap_or_default(),
        descending: false,
        nulls_first: false,
    }
}
