//! One file of a segment on its way out: rows in, bytes up, a row group at a time.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    errors::ParquetError,
    file::properties::WriterProperties,
};
use sha2::{Digest as _, Sha256};

use super::{SegmentFile, fault, hex};
use crate::{
    archive::objects::{Objects, Upload},
    domain::{Result, SegmentName},
};

/// Holds the row group that is being written, encoded, and nothing of those before it.
pub(super) struct Output {
    name: SegmentName,
    path: String,
    /// Away while another thread encodes; that it came back is part of every call that returned `Ok`.
    writer: Option<ArrowWriter<Vec<u8>>>,
    upload: Box<dyn Upload>,
    sha256: Sha256,
    sent_bytes: u64,
    rows: u64,
}

impl Output {
    pub async fn create(
        objects: &dyn Objects,
        name: &SegmentName,
        path: String,
        schema: SchemaRef,
        properties: WriterProperties,
    ) -> Result<Self> {
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), schema, options);
        let upload = objects.upload(&path).await;
        Ok(Self {
            name: name.clone(),
            path,
            writer: Some(writer.map_err(fault::of_encoding)?),
            upload: upload.map_err(|error| fault::of_object(name, error))?,
            sha256: Sha256::new(),
            sent_bytes: 0,
            rows: 0,
        })
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Size of the row group that is being written, about.
    pub fn row_group_bytes(&self) -> usize {
        self.writer.as_ref().map_or(0, ArrowWriter::in_progress_size)
    }

    /// Size of the file so far, about.
    pub fn bytes(&self) -> u64 {
        self.sent_bytes + self.row_group_bytes() as u64
    }

    pub async fn write(&mut self, rows: RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        self.encode(move |writer| writer.write(&rows)).await
    }

    pub async fn close_row_group(&mut self) -> Result<()> {
        self.encode(ArrowWriter::flush).await?;
        self.send().await
    }

    /// Completes the object.
    pub async fn finish(mut self) -> Result<SegmentFile> {
        self.encode(|writer| writer.finish().map(drop)).await?;
        self.send().await?;
        let stored = self.upload.finish().await;
        stored.map_err(|error| fault::of_object(&self.name, error))?;
        Ok(SegmentFile {
            path: self.path,
            bytes: self.sent_bytes,
            sha256: hex(&self.sha256.finalize()),
        })
    }

    /// Compressing takes milliseconds, which the threads that answer requests do not have.
    async fn encode<F>(&mut self, work: F) -> Result<()>
    where
        F: FnOnce(&mut ArrowWriter<Vec<u8>>) -> Result<(), ParquetError> + Send + 'static,
    {
        let lost = || fault::misused("a segment can't be written to after a failure");
        let mut writer = self.writer.take().ok_or_else(lost)?;
        let encoded = tokio::task::spawn_blocking(move || work(&mut writer).map(|()| writer)).await;
        let writer = encoded.map_err(fault::of_encoding)?;
        self.writer = Some(writer.map_err(fault::of_encoding)?);
        Ok(())
    }

    async fn send(&mut self) -> Result<()> {
        let encoded = self
            .writer
            .as_mut()
            .map(|writer| std::mem::take(writer.inner_mut()));
        let encoded = Bytes::from(encoded.unwrap_or_default());
        if encoded.is_empty() {
            return Ok(());
        }
        self.sha256.update(&encoded);
        self.sent_bytes += encoded.len() as u64;
        let sent = self.upload.write(encoded).await;
        sent.map_err(|error| fault::of_object(&self.name, error))
    }
}
