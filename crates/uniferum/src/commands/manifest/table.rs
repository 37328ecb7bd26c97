//! A table of one's own.

use std::path::PathBuf;

use uniferum_data::collections::{ColumnNames, TableSettings};

use super::output::Output;
use super::split::SplitArgs;
use crate::commands::tasks_file::TasksFile;
use crate::global::Global;
use crate::hu::HuArg;

/// A table of your own: CSV, TSV or parquet with a row a scan
///
/// Columns with the names of a group's labels, or with task ids, are labels; --label names others. The
/// split is a column of the table, or is drawn by patient with --val-share and --test-share; not both.
///
/// Example:
///   uniferum manifest table mine.csv --group ct-rate --collection site-a --patient-column mrn \
///     --label effusion=ct-rate.pleural-effusion --hu-source header --val-share 0.1 --out mine.parquet
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// The table
    table: PathBuf,

    /// The group of the catalogue whose label names the columns have (see `uniferum tasks`)
    #[arg(long)]
    group: String,

    #[command(flatten)]
    tasks_file: TasksFile,

    /// The collection's name in the manifest, and the prefix of its patients [default: the group]
    #[arg(long)]
    collection: Option<String>,

    /// The folder of relative paths [default: the table's]
    #[arg(long, value_name = "FOLDER")]
    root: Option<PathBuf>,

    /// A label column under another name, as COLUMN=TASK
    #[arg(long = "label", value_name = "COLUMN=TASK", value_parser = pair)]
    labels: Vec<(String, String)>,

    /// Where Hounsfield units come from; `table` reads the columns of --slope-column and --intercept-column
    #[arg(long, value_enum)]
    hu_source: HuArg,

    /// The column of the scan's path
    #[arg(long, default_value = "scan")]
    scan_column: String,

    /// The column of the anatomy mask's path (TotalSegmentator v2 numbers)
    #[arg(long, default_value = "mask")]
    mask_column: String,

    /// The column of the nodule mask's path
    #[arg(long, default_value = "nodules")]
    nodules_column: String,

    /// The column of the patient
    #[arg(long, default_value = "patient")]
    patient_column: String,

    /// The column of the study
    #[arg(long, default_value = "study")]
    study_column: String,

    /// The column of the split: train, val or test
    #[arg(long, default_value = "split")]
    split_column: String,

    /// The column of the slope
    #[arg(long, default_value = "hu_slope")]
    slope_column: String,

    /// The column of the intercept
    #[arg(long, default_value = "hu_intercept")]
    intercept_column: String,

    #[command(flatten)]
    split: SplitArgs,

    #[command(flatten)]
    output: Output,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (column, task) = text.split_once('=').ok_or("expected COLUMN=TASK")?;
    Ok((column.to_owned(), task.to_owned()))
}

pub(super) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let catalogue = args.tasks_file.catalogue()?;
    catalogue.require_group(&args.group)?;
    let mut settings = TableSettings::new(args.table, &args.group);
    if let Some(collection) = args.collection {
        settings.collection = collection;
    }
    settings.root = args.root;
    settings.labels = args.labels;
    settings.hu = args.hu_source.into();
    settings.columns = ColumnNames {
        scan: args.scan_column,
        mask: args.mask_column,
        nodules: args.nodules_column,
        patient: args.patient_column,
        study: args.study_column,
        split: args.split_column,
        slope: args.slope_column,
        intercept: args.intercept_column,
    };
    settings.split = args.split.plan();
    settings.absent = args.output.absent();
    let found = settings.read(&catalogue)?;
    args.output.write(&found, args.tasks_file.path(), global)
}
