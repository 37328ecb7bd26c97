//! `uniferum label-reports`: labels from radiology reports by a language model.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use uniferum_data::Table;
use uniferum_data::collections::Report;
use uniferum_data::reports::{
    Endpoint, HttpModel, Keywords, PAPER_KEYWORDS, Question, RunSettings, RunSummary, agreement,
    audit_sample, prompt, run as ask, select, write_audit, write_labels,
};

use super::lock::lock;
use crate::global::Global;

/// Label findings from radiology reports with a language model, as the paper does for INSPECT
///
/// Reports that mention a finding by keyword, and as many that do not, are sent one by one to a
/// server that speaks OpenAI's chat completions, with the paper's prompt. Only the JSON that the
/// prompt asks for is taken; what cannot be read is asked again and else stays missing. Answers are
/// appended to a log: start the command again and it goes on. The exit code is 1 if a question has no
/// answer; the log (answers.jsonl) says why.
///
/// The text of the reports leaves this machine if the server is another one.
///
/// Examples:
///   uniferum manifest inspect /data/inspect --out inspect.parquet --reports-out impressions.csv
///   uniferum label-reports impressions.csv --endpoint http://127.0.0.1:8000/v1 --model NAME \
///     --out labels
///   uniferum manifest inspect /data/inspect --report-labels labels/labels.csv --out inspect.parquet
///   uniferum label-reports --agreement labels/audit.csv
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Reports, CSV or TSV with the columns id and report
    #[arg(required_unless_present = "agreement")]
    reports: Option<PathBuf>,

    /// Only say how often a reviewer agreed, from an audit file with its column `reviewer` filled in
    #[arg(long, value_name = "FILE", conflicts_with = "reports")]
    agreement: Option<PathBuf>,

    /// Folder for labels.csv, audit.csv and the log of answers
    #[arg(long, value_name = "FOLDER", required_unless_present = "agreement")]
    out: Option<PathBuf>,

    /// The server's address up to and with the version
    #[arg(long, value_name = "URL", required_unless_present_any = ["agreement", "dry_run"])]
    endpoint: Option<String>,

    /// The model's name there
    #[arg(long, value_name = "NAME", required_unless_present_any = ["agreement", "dry_run"])]
    model: Option<String>,

    /// The environment variable that holds the server's key, if it wants one
    #[arg(long, value_name = "NAME")]
    key_from: Option<String>,

    /// Only these findings, by task id; all twelve else
    #[arg(long = "task", value_name = "TASK")]
    tasks: Vec<String>,

    /// The column of the report's name
    #[arg(long, default_value = "id")]
    id_column: String,

    /// The column of the report's text
    #[arg(long, default_value = "report")]
    text_column: String,

    /// At most so many reports with a keyword for each finding
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    /// Seed of the drawn negatives and of the audit
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// Answers of each finding for a radiologist to check
    #[arg(long, default_value_t = 10, value_name = "N")]
    audit: usize,

    /// Questions at a time
    #[arg(long, default_value_t = 4, value_name = "N")]
    parallel: usize,

    /// How often a question is asked again
    #[arg(long, default_value_t = 4, value_name = "N")]
    retries: u32,

    /// Seconds that one answer may take
    #[arg(long, default_value_t = 120, value_name = "S")]
    timeout: u64,

    /// Ask the server to return JSON only; not every server knows that
    #[arg(long)]
    json_mode: bool,

    /// Print how many reports each finding selects, and one prompt; send nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    if let Some(path) = &args.agreement {
        return tell_agreement(path);
    }
    let (Some(path), Some(out)) = (&args.reports, &args.out) else {
        bail!("the reports and --out are needed");
    };
    let reports = read_reports(path, &args.id_column, &args.text_column, global)?;
    let findings = findings(&args.tasks)?;
    let questions = select(&reports, &findings, args.limit, args.seed);
    tell_selected(&findings, &questions, global);
    let Some(first) = questions.first() else {
        bail!("no report has a keyword of these findings");
    };
    if args.dry_run {
        let (finding, report) = (&findings[first.finding], &reports[first.report]);
        let (count, text) = (questions.len(), prompt(finding.pathology, &report.text));
        writeln!(std::io::stdout(), "{count} questions; the first:\n\n{text}")?;
        return Ok(());
    }
    let model = HttpModel::new(endpoint(&args)?)?;
    let settings = RunSettings {
        threads: args.parallel,
        retries: args.retries,
        ..RunSettings::default()
    };
    let bar = global.bar(questions.len() as u64, "reports");
    // Two runs would pay for every question twice.
    let _lock = lock(out, ".lock", "labels reports")?;
    let log = out.join("answers.jsonl");
    let summary = ask(
        &reports,
        &findings,
        &questions,
        &model,
        &log,
        &settings,
        || bar.inc(1),
    )?;
    bar.finish_and_clear();
    // What earlier runs asked in this folder stays in its table.
    let all = summary.lines.iter().chain(&summary.earlier);
    write_labels(&out.join("labels.csv"), all)?;
    let sample = audit_sample(&summary.lines, &reports, args.audit, args.seed);
    write_audit(&out.join("audit.csv"), &sample, &summary.lines)?;
    report(&summary, out, &log)
}

/// How often a reviewer agreed.
fn tell_agreement(audit: &Path) -> anyhow::Result<()> {
    let (right, reviewed) = agreement(audit)?;
    ensure!(reviewed > 0, "{}: nothing is reviewed yet", audit.display());
    let share = 100.0 * right as f64 / reviewed as f64;
    writeln!(
        std::io::stdout(),
        "{right} of {reviewed} reviewed answers are right ({share:.1} %)"
    )?;
    Ok(())
}

/// How many reports were selected for each finding.
fn tell_selected(findings: &[Keywords], questions: &[Question], global: &Global) {
    for (index, finding) in findings.iter().enumerate() {
        let of = |keyword| {
            let own = questions.iter().filter(|q| q.finding == index);
            own.filter(|q| q.keyword == keyword).count()
        };
        let (with, without) = (of(true), of(false));
        global.hint(format!(
            "{}: {with} with a keyword, {without} without",
            finding.task
        ));
    }
}

/// What came of the questions; an error where some have no answer.
fn report(summary: &RunSummary, out: &Path, log: &Path) -> anyhow::Result<()> {
    let (all, failed) = (summary.lines.len(), summary.failed);
    let told = writeln!(
        std::io::stdout(),
        "{}: {all} questions, {} of them answered before, {failed} without an answer, {} with a sentence that \
         is not in the report",
        out.display(),
        summary.resumed,
        summary.made_up
    );
    let why = summary.lines.iter().rev().find_map(|l| l.error.as_deref());
    ensure!(
        failed == 0,
        "{failed} of {all} questions have no answer: start again to ask them again; {} says why, the last: {}",
        log.display(),
        why.unwrap_or_default()
    );
    Ok(told?)
}

fn endpoint(args: &Args) -> anyhow::Result<Endpoint> {
    let key = args.key_from.as_ref();
    let key = key
        .map(|name| std::env::var(name).with_context(|| format!("the environment has no {name}")))
        .transpose()?;
    Ok(Endpoint {
        url: args.endpoint.clone().context("--endpoint is needed")?,
        model: args.model.clone().context("--model is needed")?,
        key,
        timeout: Duration::from_secs(args.timeout),
        json_mode: args.json_mode,
    })
}

fn findings(tasks: &[String]) -> anyhow::Result<Vec<Keywords>> {
    if tasks.is_empty() {
        return Ok(PAPER_KEYWORDS.to_vec());
    }
    tasks
        .iter()
        .map(|task| {
            let found = PAPER_KEYWORDS.iter().find(|k| k.task == task);
            let known: Vec<&str> = PAPER_KEYWORDS.iter().map(|k| k.task).collect();
            found
                .copied()
                .with_context(|| format!("no keywords for {task}; there are {}", known.join(", ")))
        })
        .collect()
}

fn read_reports(path: &Path, id: &str, text: &str, global: &Global) -> anyhow::Result<Vec<Report>> {
    let table = Table::read(path)?;
    let (id, text) = (table.need(&[id])?, table.need(&[text])?);
    let patient = table.find("patient");
    let report = |row| Report {
        id: table.cell(row, id).to_owned(),
        patient: patient.map_or(String::new(), |c| table.cell(row, c).to_owned()),
        text: table.cell(row, text).to_owned(),
    };
    let mut reports: Vec<Report> = Vec::new();
    let mut at: HashMap<String, usize> = HashMap::new();
    let whole = |r: &Report| !r.id.is_empty() && !r.text.is_empty();
    let all = (0..table.len()).map(report);
    let (full, empty): (Vec<Report>, Vec<Report>) = all.partition(whole);
    if !empty.is_empty() {
        global.warn(format!(
            "{}: {} of {} rows have no id or no text, and are left out",
            path.display(),
            empty.len(),
            table.len()
        ));
    }
    for report in full {
        let Some(&before) = at.get(&report.id) else {
            at.insert(report.id.clone(), reports.len());
            reports.push(report);
            continue;
        };
        ensure!(
            reports[before].text == report.text,
            "{}: expected one text for each report, got two for {}",
            path.display(),
            report.id
        );
    }
    Ok(reports)
}
