//! What is said while scans are prepared.

use std::path::Path;
use std::time::Instant;

use indicatif::ProgressBar;
use uniferum_ct::batch::{Event, LedgerRow};

use crate::global::Global;

/// A bar with rate and time left.
pub(super) struct Progress<'a> {
    global: &'a Global,
    bar: Option<ProgressBar>,
    finished: usize,
    failed: usize,
    warned: usize,
    start: Instant,
}

impl<'a> Progress<'a> {
    pub(super) fn new(global: &'a Global) -> Self {
        Self {
            global,
            bar: None,
            finished: 0,
            failed: 0,
            warned: 0,
            start: Instant::now(),
        }
    }

    pub(super) fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Started(count) => self.global.hint(format!("{count} scans")),
            Event::Checked {
                done,
                failed_before,
                todo,
            } => {
                if done + failed_before > 0 {
                    self.global.hint(format!(
                        "{done} are there, {failed_before} failed before, {todo} to prepare"
                    ));
                }
                self.start = Instant::now();
                self.bar = Some(self.global.bar(*todo as u64, "prepare"));
            }
            Event::Finished(row) => self.finished(row),
            _ => {}
        }
    }

    fn finished(&mut self, row: &LedgerRow) {
        self.finished += 1;
        self.failed += usize::from(row.failed());
        self.warned += usize::from(!row.warnings.is_empty());
        let Some(bar) = &self.bar else { return };
        if row.failed() {
            bar.suspend(|| self.global.warn(&row.error));
        }
        let per_minute = 60.0 * self.finished as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        bar.set_message(format!("{per_minute:.1} scans/min, {} failed", self.failed));
        bar.inc(1);
    }

    /// Warnings are the ledger's; here only that there are some.
    pub(super) fn tell_warnings(&self, out: &Path) {
        if self.warned > 0 {
            let (count, out) = (self.warned, out.display());
            let text = format!("{count} scans have warnings, in the ledger in {out}");
            self.global.hint(text);
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
