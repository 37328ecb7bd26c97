//! An examination in words.

use std::fmt::Write;

use super::{Examination, Finding, Severity};

impl Examination {
    /// Findings, class counts and a verdict, for people; at most `most` findings of each check.
    pub fn text(&self, most: usize) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{}: {} of {}, voxels of {} read",
            self.manifest.display(),
            many(self.scans, "scan"),
            many(self.patients, "patient"),
            self.read
        );
        let mut start = 0;
        while start < self.findings.len() {
            let key = |f: &Finding| (f.severity, f.check);
            let same = self.findings[start..]
                .iter()
                .take_while(|f| key(f) == key(&self.findings[start]))
                .count();
            self.group(&mut out, &self.findings[start..start + same], most);
            start += same;
        }
        self.classes(&mut out);
        let _ = writeln!(
            out,
            "\n{}, {}",
            many(self.errors, "error"),
            many(self.warnings, "warning")
        );
        out
    }

    fn group(&self, out: &mut String, findings: &[Finding], most: usize) {
        let Some(first) = findings.first() else {
            return;
        };
        let severity = match first.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let _ = writeln!(
            out,
            "\n{severity}: {} ({})",
            first.check.as_str(),
            findings.len()
        );
        for finding in findings.iter().take(most) {
            let _ = writeln!(out, "  {}", finding.what);
        }
        if findings.len() > most {
            let _ = writeln!(out, "  and {} more", findings.len() - most);
        }
    }

    fn classes(&self, out: &mut String) {
        if self.classes.is_empty() {
            return;
        }
        let width = self.classes.iter().map(|c| c.task.len()).max().unwrap_or(4);
        let _ = writeln!(
            out,
            "\n{:width$}  split  positive  negative   missing  censored",
            "task"
        );
        for c in &self.classes {
            let _ = writeln!(
                out,
                "{:width$}  {:5}  {:8}  {:8}  {:8}  {:8}",
                c.task,
                c.split.as_str(),
                c.positive,
                c.negative,
                c.missing,
                c.censored
            );
        }
    }
}

fn many(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
