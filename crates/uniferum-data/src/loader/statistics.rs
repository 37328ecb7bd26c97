//! What a stream of batches did, so that a slow disk and a broken file are seen.

use std::collections::BTreeMap;

use serde::Serialize;

/// A scan that was left out because it could not be used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SkippedScan {
    /// The scan's file.
    pub scan: String,
    /// Why, with the scan's name, as said the last time.
    pub reason: String,
    /// How often it was left out.
    pub times: u64,
}

/// Counts and times of a stream of batches up to now.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct LoaderStatistics {
    /// Batches handed out.
    pub batches: u64,
    /// Scans in them.
    pub scans: u64,
    /// Scans that were in memory already.
    pub cache_hits: u64,
    /// Bytes of voxels kept in memory now.
    pub cached_bytes: usize,
    /// Seconds of all threads together for reading and preparing scans.
    pub seconds_preparing: f64,
    /// Seconds that the receiver waited for a batch.
    pub seconds_waited: f64,
    /// The scan that took longest, and its seconds.
    pub slowest: Option<(String, f64)>,
    /// Scans that were left out, in the order of their names.
    pub skipped: Vec<SkippedScan>,
}

impl LoaderStatistics {
    /// One line, such as for a log.
    pub fn line(&self) -> String {
        let slowest = self.slowest.as_ref();
        let slowest = slowest.map_or(String::new(), |(scan, s)| {
            format!(", slowest {s:.1} s ({scan})")
        });
        let skipped: u64 = self.skipped.iter().map(|s| s.times).sum();
        format!(
            "{} batches of {} scans, {} from memory ({} MiB kept); waited {:.1} s for data{slowest}; \
             {skipped} skipped ({} files)",
            self.batches,
            self.scans,
            self.cache_hits,
            self.cached_bytes >> 20,
            self.seconds_waited,
            self.skipped.len()
        )
    }
}

/// The running sums behind [`LoaderStatistics`].
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) sums: LoaderStatistics,
    skipped: BTreeMap<String, SkippedScan>,
}

impl Tally {
    pub(super) fn prepared(&mut self, scan: &str, cached: bool, seconds: f64) {
        self.sums.scans += 1;
        self.sums.cache_hits += u64::from(cached);
        self.sums.seconds_preparing += seconds;
        if self.sums.slowest.as_ref().is_none_or(|(_, s)| seconds > *s) {
            self.sums.slowest = Some((scan.to_owned(), seconds));
        }
    }

    /// Whether this is the first time that the scan is left out.
    pub(super) fn skip(&mut self, scan: &str, reason: &str) -> bool {
        let entry = self.skipped.entry(scan.to_owned());
        let entry = entry.or_insert_with(|| SkippedScan {
            scan: scan.to_owned(),
            reason: String::new(),
            times: 0,
        });
        entry.reason = reason.to_owned();
        entry.times += 1;
        entry.times == 1
    }

    pub(super) fn statistics(&self, cached_bytes: usize) -> LoaderStatistics {
        LoaderStatistics {
            cached_bytes,
            skipped: self.skipped.values().cloned().collect(),
            ..self.sums.clone()
        }
    }
}
