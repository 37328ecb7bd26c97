//! Selecting reports and asking about them.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::log::{Log, LogLine, prompt_hash};
use super::{Keywords, PAPER_KEYWORDS, parse_answer, prompt};
use crate::collections::Report;
use crate::error::{Error, Result};

/// A finding that a report is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Index of the report.
    pub report: usize,
    /// Index of the finding.
    pub finding: usize,
    /// Whether a keyword selected the report; else it was drawn as a likely negative.
    pub keyword: bool,
}

/// For each finding the reports with a keyword, and as many of the others, drawn by the seed.
///
/// At most `limit` reports of either kind a finding are taken, if a limit is given.
///
/// # Reference
/// Paper, section 3.4.3.
pub fn select(
    reports: &[Report],
    findings: &[Keywords],
    limit: Option<usize>,
    seed: u64,
) -> Vec<Question> {
    let mut questions = Vec::new();
    for (finding, keywords) in findings.iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Of the finding, whichever others are asked about.
        rng.set_stream(stream_of(keywords.task));
        let (mut with, mut without): (Vec<usize>, Vec<usize>) =
            (0..reports.len()).partition(|&r| keywords.matches(&reports[r].text));
        if let Some(limit) = limit {
            with.shuffle(&mut rng);
            with.truncate(limit);
            with.sort_unstable();
        }
        without.shuffle(&mut rng);
        without.truncate(with.len());
        without.sort_unstable();
        let question = |keyword| {
            move |report| Question {
                report,
                finding,
                keyword,
            }
        };
        questions.extend(with.into_iter().map(question(true)));
        questions.extend(without.into_iter().map(question(false)));
    }
    questions
}

/// A number of a name (FNV-1a).
fn stream_of(name: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, fold)
}

/// Why a model did not answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// It may answer if asked again, perhaps after a while: busy, unreachable, cut off.
    Passing {
        /// What happened.
        what: String,
        /// How long the server asks to wait.
        after: Option<Duration>,
    },
    /// It will not: wrong key, wrong model, wrong address. Nothing else is asked.
    Final(String),
}

/// Something that continues a text.
pub trait LanguageModel: Sync {
    /// The name that goes into the log.
    fn name(&self) -> &str;

    /// The answer to a prompt, as it came.
    ///
    /// # Errors
    /// [`Failure`].
    fn complete(&self, prompt: &str) -> std::result::Result<String, Failure>;
}

/// How questions are asked.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSettings {
    /// Questions at a time.
    pub threads: usize,
    /// How often a question is asked again after a failure or an answer that cannot be read.
    pub retries: u32,
    /// The wait before the first repetition; it doubles each time.
    pub pause: Duration,
}

impl Default for RunSettings {
    fn default() -> Self {
        RunSettings {
            threads: 4,
            retries: 4,
            pause: Duration::from_secs(1),
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunSummary {
    /// All questions with their lines, in the order of the questions.
    pub lines: Vec<LogLine>,
    /// Answers of this model to other questions about these reports, which earlier runs had.
    pub earlier: Vec<LogLine>,
    /// Questions that the log had answered before.
    pub resumed: usize,
    /// Questions without an answer; they are asked again next time.
    pub failed: usize,
    /// Answers whose key sentence does not stand in the report.
    pub made_up: usize,
}

/// Questions without an answer, at the beginning and one after another, after which no more are asked: the
/// address or the model is wrong.
const IN_VAIN: usize = 8;

/// How this run's own questions went.
#[derive(Debug, Default)]
struct Luck {
    answered: bool,
    in_vain: usize,
}

impl Luck {
    /// Takes note of a line; an error when it is the last of too many without an answer.
    fn note(&mut self, line: &LogLine, settings: &RunSettings) -> Result<()> {
        self.answered |= line.answer.is_some();
        self.in_vain += 1;
        let most = IN_VAIN.max(2 * settings.threads);
        if self.answered || self.in_vain < most {
            return Ok(());
        }
        let last = line.error.as_deref().unwrap_or_default();
        Err(Error::Model {
            model: line.model.clone(),
            what: format!("the first {most} questions got no answer; the last: {last}"),
        })
    }
}

/// Asks all questions that the log has no answer for; `progress` is called after each.
///
/// # Errors
/// [`Error::Table`] for a log that cannot be used; [`Error::Model`] where the server refuses for good, or
/// where none of the first questions gets an answer. What was answered before stays in the log.
pub fn run(
    reports: &[Report],
    findings: &[Keywords],
    questions: &[Question],
    model: &dyn LanguageModel,
    log: &Path,
    settings: &RunSettings,
    progress: impl Fn() + Sync,
) -> Result<RunSummary> {
    let log = Log::open(log)?;
    let known = known(&log, model.name());
    let lines: Vec<Mutex<Option<LogLine>>> = questions.iter().map(|_| Mutex::new(None)).collect();
    let next = Mutex::new(0..questions.len());
    let stop: Mutex<Option<Error>> = Mutex::new(None);
    let (resumed, luck) = (Mutex::new(0usize), Mutex::new(Luck::default()));
    let work = || loop {
        if lock(&stop).is_some() {
            return;
        }
        let Some(index) = lock(&next).next() else {
            return;
        };
        let question = questions[index];
        let (report, finding) = (&reports[question.report], &findings[question.finding]);
        let text = prompt(finding.pathology, &report.text);
        let hash = prompt_hash(&text);
        let before = known.get(&(report.id.as_str(), finding.task, hash.as_str()));
        let line = match before {
            Some(line) => {
                *lock(&resumed) += 1;
                Ok((*line).clone())
            }
            None => {
                let asked = ask(model, &text, settings);
                asked
                    .map(|answer| line(question, report, finding, model.name(), hash, answer))
                    .and_then(|line| log.append(&line).map(|()| line))
                    .and_then(|line| lock(&luck).note(&line, settings).map(|()| line))
            }
        };
        match line {
            Ok(line) => *lock(&lines[index]) = Some(line),
            Err(error) => {
                lock(&stop).get_or_insert(error);
                return;
            }
        }
        progress();
    };
    std::thread::scope(|scope| {
        for _ in 0..settings.threads.max(1) {
            scope.spawn(work);
        }
    });
    if let Some(error) = lock(&stop).take() {
        return Err(error);
    }
    let lines: Vec<LogLine> = lines.iter().filter_map(|l| lock(l).take()).collect();
    let resumed = *lock(&resumed);
    Ok(RunSummary {
        earlier: earlier(&known, &lines, reports, findings),
        failed: lines.iter().filter(|l| l.answer.is_none()).count(),
        made_up: lines
            .iter()
            .filter(|l| l.answer.is_some() && !l.sentence_found)
            .count(),
        resumed,
        lines,
    })
}

/// Answers by report, task and hash of the prompt.
type Known<'a> = HashMap<(&'a str, &'a str, &'a str), &'a LogLine>;

/// The answers of a model that a log has.
fn known<'a>(log: &'a Log, model: &str) -> Known<'a> {
    let lines = log.lines().iter();
    let answered = lines.filter(|l| l.answer.is_some() && l.model == model);
    answered
        .map(|l| ((&*l.id, &*l.task, &*l.prompt), l))
        .collect()
}

/// Those of the known answers that none of `lines` asks again and whose prompt is what it would be now.
fn earlier(
    known: &Known<'_>,
    lines: &[LogLine],
    reports: &[Report],
    findings: &[Keywords],
) -> Vec<LogLine> {
    let asked: HashSet<(&str, &str)> = lines.iter().map(|l| (&*l.id, &*l.task)).collect();
    let ids: HashMap<&str, &Report> = reports.iter().map(|r| (&*r.id, r)).collect();
    let holds = |line: &LogLine| {
        let mut all = findings.iter().chain(&PAPER_KEYWORDS);
        let pathology = all.find(|k| k.task == line.task);
        let now = ids.get(&*line.id).zip(pathology);
        now.is_some_and(|(r, k)| prompt_hash(&prompt(k.pathology, &r.text)) == line.prompt)
    };
    let stay = known
        .values()
        .filter(|l| !asked.contains(&(&*l.id, &*l.task)) && holds(l));
    let mut stay: Vec<LogLine> = stay.map(|l| (*l).clone()).collect();
    stay.sort_by(|a, b| (&a.id, &a.task).cmp(&(&b.id, &b.task)));
    stay
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The answer, or why there is none after all repetitions.
fn ask(
    model: &dyn LanguageModel,
    prompt: &str,
    settings: &RunSettings,
) -> Result<std::result::Result<super::Answer, String>> {
    let mut pause = settings.pause;
    let mut last = String::new();
    for attempt in 0..=settings.retries {
        let mut wait = pause;
        match model.complete(prompt) {
            Ok(text) => match parse_answer(&text) {
                Ok(answer) => return Ok(Ok(answer)),
                Err(what) => last = what,
            },
            Err(Failure::Final(what)) => {
                return Err(Error::Model {
                    model: model.name().to_owned(),
                    what,
                });
            }
            Err(Failure::Passing { what, after }) => {
                last = what;
                wait = after.unwrap_or(pause).max(pause);
            }
        }
        if attempt < settings.retries {
            std::thread::sleep(wait);
            pause *= 2;
        }
    }
    Ok(Err(last))
}

fn line(
    question: Question,
    report: &Report,
    finding: &Keywords,
    model: &str,
    prompt: String,
    answer: std::result::Result<super::Answer, String>,
) -> LogLine {
    let (answer, error) = match answer {
        Ok(answer) => (Some(answer), None),
        Err(error) => (None, Some(error)),
    };
    LogLine {
        id: report.id.clone(),
        task: finding.task.to_owned(),
        keyword: question.keyword,
        model: model.to_owned(),
        prompt,
        sentence_found: answer
            .as_ref()
            .is_some_and(|a| a.sentence_is_in(&report.text)),
        answer,
        error,
    }
}
