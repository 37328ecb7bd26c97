//! TensorBoard event files.
//!
//! A file is a sequence of records `length u64, masked CRC-32C of it u32, bytes, masked CRC-32C of them
//! u32`; the bytes are a protocol buffer `Event`. Only scalars are written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// Writes scalars for TensorBoard.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Begins a new file in `folder`; what older files say about steps after `first_step` counts no more.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn create(folder: &Path, first_step: u64) -> Result<Self> {
        let now = now();
        let name = |n: u32| format!("events.out.tfevents.{:010}.{n}.uniferum", now as u64);
        let path = (0..)
            .map(|n| folder.join(name(n)))
            .find(|path| !path.exists())
            .unwrap_or_else(|| folder.join(name(0)));
        let file = File::create(&path).map_err(|e| Error::file(&path, e))?;
        let mut writer = Self {
            path,
            file: BufWriter::new(file),
        };
        let mut version = event(now, 0);
        field_bytes(&mut version, 3, b"brain.Event:2");
        writer.record(&version)?;
        if first_step > 0 {
            // session_log { status: START } tells the reader to forget later steps.
            let mut start = event(now, first_step);
            field_bytes(&mut start, 7, &[0x08, 1]);
            writer.record(&start)?;
        }
        writer.flush()?;
        Ok(writer)
    }

    /// Writes values of one step.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            field_bytes(&mut entry, 1, tag.as_bytes());
            key(&mut entry, 2, 5);
            entry.extend((*value as f32).to_le_bytes());
            field_bytes(&mut summary, 1, &entry);
        }
        let mut event = event(now(), step);
        field_bytes(&mut event, 5, &summary);
        self.record(&event)?;
        self.flush()
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut out = Vec::with_capacity(data.len() + 16);
        out.extend(length);
        out.extend(masked_crc(&length).to_le_bytes());
        out.extend(data);
        out.extend(masked_crc(data).to_le_bytes());
        self.file
            .write_all(&out)
            .map_err(|e| Error::file(&self.path, e))
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::file(&self.path, e))
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

/// `Event { wall_time: 1, step: 2 }`.
fn event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut out = Vec::new();
    key(&mut out, 1, 1);
    out.extend(wall_time.to_le_bytes());
    key(&mut out, 2, 0);
    varint(&mut out, step);
    out
}

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn field_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The checksum of the record format: CRC-32C, rotated and shifted.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32 of Castagnoli, bit by bit: a record has a few hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, section B.4.
    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn records_have_the_published_layout() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), 300).unwrap();
        writer.scalars(301, &[("loss/total", 0.5)]).unwrap();
        let mut bytes = std::fs::read(&writer.path).unwrap();
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!(crc(8), masked_crc(&bytes[..8]));
            assert_eq!(crc(12 + length), masked_crc(&bytes[12..12 + length]));
            records.push(bytes[12..12 + length].to_vec());
            bytes.drain(..16 + length);
        }
        assert_eq!(records.len(), 3);
        assert!(records[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        assert_eq!(records[1][9..], [0x10, 0xac, 0x02, 0x3a, 2, 0x08, 1]);
        let value = b"\x0a\x0aloss/total\x15\x00\x00\x00\x3f";
        let mut expected = vec![0x10, 0xad, 0x02, 0x2a, 2 + value.len() as u8, 0x0a];
        expected.push(value.len() as u8);
        expected.extend(value);
        assert_eq!(records[2][9..], expected);
    }
}
