//! Scans read, encoded once each, and asked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use uniferum::{Answer, ModelInput, Predictor};
use uniferum_ct::batch::Input;
use uniferum_ct::{Format as FileFormat, ReadOptions, read_ct, read_organs};
use uniferum_tasks::{Task, totalsegmentator};

use super::output::{self, Failed, Row};
use super::saved::Saved;
use super::{Args, Stage};
use crate::global::Global;

/// Questions to scans, one after the other.
pub(super) struct Run<'a> {
    pub(super) predictor: Predictor,
    pub(super) args: &'a Args,
    pub(super) tasks: &'a [Task],
    /// What the masks of each question are called.
    pub(super) mask_names: BTreeMap<String, String>,
    pub(super) global: &'a Global,
    pub(super) bar: indicatif::ProgressBar,
}

/// A scan and the name that its masks begin with, where they are written.
pub(super) type Asked<'a> = (&'a Input, Option<&'a str>);

impl Run<'_> {
    /// The answers, the scans that could not be used, and whether everything could be written.
    pub(super) fn all<'b>(
        &self,
        scans: impl Iterator<Item = Asked<'b>>,
        mut saved: Option<&mut Saved>,
    ) -> (Vec<Row>, Vec<Failed>, anyhow::Result<()>) {
        let (mut rows, mut failed) = (Vec::new(), Vec::new());
        let mut written = Ok(());
        for (input, stem) in scans {
            let mut save = |work: &dyn Fn(&mut Saved) -> anyhow::Result<()>| {
                if let (Ok(()), Some(saved)) = (&written, saved.as_deref_mut()) {
                    written = work(saved);
                }
            };
            match self.one((input, stem)) {
                Ok(answers) => {
                    save(&|saved| saved.add(&answers));
                    rows.extend(answers);
                }
                Err(error) => {
                    let error = crate::one_line(&error);
                    self.bar.suspend(|| self.global.warn(&error));
                    let scan = input.scan.display().to_string();
                    let one = Failed { scan, error };
                    save(&|saved| saved.fail(&one));
                    failed.push(one);
                }
            }
            self.bar.inc(1);
        }
        self.bar.finish_and_clear();
        (rows, failed, written)
    }

    fn one(&self, (input, stem): Asked<'_>) -> anyhow::Result<Vec<Row>> {
        let path = &input.scan;
        let name = path.display().to_string();
        if let Some(problem) = &input.problem {
            bail!("{name}: {problem}");
        }
        let told = input.warnings.clone();
        let options = ReadOptions {
            hu: input.hu,
            series: self.args.series.clone(),
            ..ReadOptions::default()
        };
        let scan = read_ct(path, &options)?;
        let read = |path| read_organs(path, &totalsegmentator::classes());
        let organs = input.mask.as_ref().map(read).transpose()?;
        let (mask, mask_warnings) = organs.map(|o| (o.volume, o.warnings)).unzip();
        let input = self
            .predictor
            .prepare(&scan.volume, mask.as_ref(), self.args.input_stage.into())
            .with_context(|| name.clone())?;
        if scan.format == FileFormat::Cache && matches!(self.args.input_stage, Stage::Raw) {
            let twice = "`uniferum prepare` wrote it, and it is standardised a second time: \
                    expected --input-stage standardised";
            self.bar
                .suspend(|| self.global.warn(format!("{name}: {twice}")));
        }
        let mask_warnings = mask_warnings.unwrap_or_default();
        let warnings = told.iter().chain(&scan.warnings).chain(&mask_warnings);
        for warning in warnings.chain(input.warnings()) {
            self.bar
                .suspend(|| self.global.warn(format!("{name}: {warning}")));
        }
        drop((scan, mask));
        let encoded = self
            .predictor
            .encode(&input)
            .with_context(|| name.clone())?;
        let answers = self.predictor.ask(&encoded, self.tasks)?;
        answers
            .iter()
            .map(|answer| {
                let mut row = Row::new(&name, answer);
                row.mask_file = self.mask_file(stem, &input, answer)?;
                Ok(row)
            })
            .collect()
    }

    /// Writes the mask of an answer that has one, where masks are wanted.
    fn mask_file(
        &self,
        stem: Option<&str>,
        input: &ModelInput,
        answer: &Answer,
    ) -> anyhow::Result<Option<PathBuf>> {
        let (Some(stem), Some(cells)) = (stem, &answer.mask) else {
            return Ok(None);
        };
        let (Some(kind), Some(out)) = (self.args.save_masks, &self.args.out) else {
            return Ok(None);
        };
        let question = self.mask_names.get(&answer.task.id);
        let question = question.context("a mask for a question that has none")?;
        let volume = input.in_scan(cells.view())?;
        output::save_mask(out, (stem, question), &volume, kind).map(Some)
    }
}
