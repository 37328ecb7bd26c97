//! Several manifests as one.

use std::path::PathBuf;

use uniferum_data::{Manifest, ProblemKind};

use crate::commands::tasks_file::TasksFile;
use crate::global::Global;

/// Put manifests together; a single one is copied, CSV to parquet or back
///
/// A scan that stands in several gets the labels and masks of all. Contradictions are errors; files that
/// do not exist are not looked at (see `uniferum doctor`).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Manifests, CSV or parquet
    #[arg(required = true, value_name = "MANIFEST")]
    inputs: Vec<PathBuf>,

    /// The group whose label names plain columns have; columns named by task id need none
    #[arg(long, default_value = "ct-rate")]
    group: String,

    #[command(flatten)]
    tasks_file: TasksFile,

    /// The manifest to write: .parquet, or CSV under any other name
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let catalogue = args.tasks_file.catalogue()?;
    let mut parts = Vec::new();
    for path in &args.inputs {
        let (manifest, problems) = Manifest::read_with_problems(path, &catalogue, &args.group)?;
        let serious = problems
            .iter()
            .find(|p| !matches!(p.kind, ProblemKind::MissingFile | ProblemKind::PatientLeak));
        if let Some(problem) = serious {
            let row = problem.row.map_or(String::new(), |r| format!(", row {r}"));
            anyhow::bail!("{}{row}: {}", path.display(), problem.what);
        }
        parts.push(manifest);
    }
    let all = Manifest::merge(parts)?;
    super::output::write(&args.out, &all, args.tasks_file.path(), global)
}
