//! Report labels against a server on this machine: retries, strictness, resuming, the audit.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uniferum_data::collections::Report;
use uniferum_data::reports::{
    Endpoint, HttpModel, Keywords, LogLine, PAPER_KEYWORDS, Question, RunSettings, RunSummary,
    agreement, audit_sample, run, select, write_audit, write_labels,
};

/// A canned reply: status, extra header, body.
type Reply = (u16, &'static str, String);

/// A server that answers each request with the next reply, then by the rule.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
    replies: Arc<Mutex<VecDeque<Reply>>>,
}

fn completion(content: &str) -> Reply {
    let body = serde_json::json!({"id": "x", "choices": [{"message": {"role": "assistant", "content": content}}]});
    (200, "", body.to_string())
}

fn said(present: bool, sentence: &str) -> String {
    let presence = if present { "Yes" } else { "No" };
    serde_json::json!({"KeySentence": sentence, "PresenceOfPathology": presence}).to_string()
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let replies = Arc::new(Mutex::new(VecDeque::new()));
        let (seen, queue) = (Arc::clone(&requests), Arc::clone(&replies));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, queue) = (Arc::clone(&seen), Arc::clone(&queue));
                std::thread::spawn(move || answer(stream.unwrap(), &seen, &queue));
            }
        });
        Server {
            url,
            requests,
            replies,
        }
    }

    fn model(&self) -> HttpModel {
        HttpModel::new(Endpoint {
            url: self.url.clone(),
            model: "small-model".to_owned(),
            key: Some("secret".to_owned()),
            timeout: Duration::from_secs(20),
            json_mode: true,
        })
        .unwrap()
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

/// Reads one request and answers: yes where the report part of the prompt says `effusion`.
fn answer(mut stream: TcpStream, seen: &Mutex<Vec<String>>, queue: &Mutex<VecDeque<Reply>>) {
    let mut request = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        let n = stream.read(&mut chunk).unwrap();
        request.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| {
                l.to_lowercase()
                    .strip_prefix("content-length:")
                    .map(|v| v.trim().parse::<usize>().unwrap())
            });
            if length.is_none_or(|l| body.len() >= l) {
                break;
            }
        }
        if n == 0 {
            return;
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let report = text
        .split("Below is the report:")
        .nth(1)
        .unwrap_or_default()
        .to_lowercase();
    let rule = || {
        let present = report.contains("effusion") && !report.contains("no effusion");
        completion(&said(present, if present { "Effusion." } else { "NONE" }))
    };
    let reply = queue.lock().unwrap().pop_front();
    let (status, header, body) = reply.unwrap_or_else(rule);
    seen.lock().unwrap().push(text);
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{header}\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
}

fn reports() -> Vec<Report> {
    let report = |i: usize, text: &str| Report {
        id: format!("i{i}"),
        patient: format!("p{i}"),
        text: text.to_owned(),
    };
    (0..8)
        .map(|i| match i {
            0..3 => report(i, "1. Embolism.\n2. Effusion."),
            3 => report(i, "No effusion. Emphysema."),
            _ => report(i, "Normal."),
        })
        .collect()
}

fn findings() -> Vec<Keywords> {
    let wanted = ["inspect.emphysema", "inspect.pleural-effusion"];
    PAPER_KEYWORDS
        .into_iter()
        .filter(|k| wanted.contains(&k.task))
        .collect()
}

fn quick() -> RunSettings {
    RunSettings {
        threads: 1,
        retries: 2,
        pause: Duration::from_millis(1),
    }
}

fn ask(server: &Server, log: &Path, questions: &[Question]) -> Result<RunSummary, String> {
    let model = server.model();
    run(
        &reports(),
        &findings(),
        questions,
        &model,
        log,
        &quick(),
        || (),
    )
    .map_err(|e| e.to_string())
}

fn all() -> Vec<Question> {
    select(&reports(), &findings(), None, 5)
}

#[test]
fn keyword_reports_and_as_many_others_are_selected() {
    let questions = all();
    let of = |finding, keyword| {
        questions
            .iter()
            .filter(|q| q.finding == finding && q.keyword == keyword)
            .count()
    };
    assert_eq!(
        [of(0, true), of(0, false), of(1, true), of(1, false)],
        [1, 1, 4, 4]
    );
    assert_eq!(questions, all(), "deterministic");
    assert_ne!(questions, select(&reports(), &findings(), None, 6));
    let few = select(&reports(), &findings(), Some(2), 5);
    assert_eq!(few.len(), 2 + 4);
}

#[test]
fn labels_come_from_answers_and_missing_stays_missing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start();
    let summary = ask(&server, &folder.path().join("log.jsonl"), &all()).unwrap();
    assert_eq!(
        (summary.lines.len(), summary.failed, summary.made_up),
        (10, 0, 0)
    );
    let request = server.requests.lock().unwrap()[0].clone();
    assert!(
        request.starts_with("POST /v1/chat/completions"),
        "{request}"
    );
    assert!(
        request
            .to_lowercase()
            .contains("authorization: bearer secret")
    );
    assert!(request.contains("\"model\":\"small-model\"") && request.contains("json_object"));
    let path = folder.path().join("labels.csv");
    write_labels(&path, &summary.lines).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        text.starts_with("id,inspect.emphysema,inspect.pleural-effusion\n"),
        "{text}"
    );
    let effusion = |id: &str| {
        let row = text
            .lines()
            .find(|l| l.starts_with(&format!("{id},")))
            .unwrap();
        row.split(',').nth(2).unwrap().to_owned()
    };
    assert_eq!(["i0", "i1", "i2", "i3"].map(effusion), ["1", "1", "1", "0"]);
    let log = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
    assert!(
        !log.contains("secret") && !log.contains("Normal."),
        "no key, no report"
    );
}

#[test]
fn a_run_about_one_finding_keeps_what_is_known_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let server = Server::start();
    let of = |finding: usize| -> Vec<Question> {
        let all = all().into_iter();
        all.filter(|q| q.finding == finding).collect()
    };
    let first = ask(&server, &log, &of(0)).unwrap();
    assert!(first.earlier.is_empty());
    let second = ask(&server, &log, &of(1)).unwrap();
    let ids = |lines: &[uniferum_data::reports::LogLine]| -> Vec<String> {
        let mut ids: Vec<String> = lines.iter().map(|l| l.id.clone() + &l.task).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&second.earlier), ids(&first.lines));
    // A report that says something else now was never answered.
    let mut changed = reports();
    changed[3].text = "Emphysema.".to_owned();
    let model = server.model();
    let third = run(&changed, &findings(), &of(1), &model, &log, &quick(), || ()).unwrap();
    assert_eq!(third.earlier.len(), first.lines.len() - 1);
}

#[test]
fn what_passes_is_asked_again_and_what_cannot_be_read_is_not_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start();
    server.replies.lock().unwrap().extend([
        (503, "", "busy".to_owned()),
        completion("Yes, there is an effusion."),
        completion(&said(true, "Made up.")),
        (429, "Retry-After: 0\r\n", "slow down".to_owned()),
        completion("{}"),
        (200, "", "no json".to_owned()),
    ]);
    let questions = &all()[2..4];
    let summary = ask(&server, &folder.path().join("log.jsonl"), questions).unwrap();
    assert_eq!(server.count(), 6);
    assert!(summary.lines[0].answer.as_ref().unwrap().present && !summary.lines[0].sentence_found);
    assert_eq!(summary.lines[1].answer, None);
    assert!(
        summary.lines[1]
            .error
            .as_ref()
            .unwrap()
            .contains("not a chat completion")
    );
    assert_eq!((summary.failed, summary.made_up), (1, 1));
    // The failed one is asked again, the other is not.
    let again = ask(&server, &folder.path().join("log.jsonl"), questions).unwrap();
    assert_eq!((server.count(), again.failed, again.resumed), (7, 0, 1));
}

#[test]
fn a_refusal_stops_the_run_and_a_later_one_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("deep/log.jsonl");
    let server = Server::start();
    let good = || completion(&said(false, "NONE"));
    server.replies.lock().unwrap().extend([
        good(),
        good(),
        good(),
        (401, "", "wrong key".to_owned()),
    ]);
    let error = ask(&server, &log, &all()).unwrap_err();
    assert!(
        error.contains("401") && error.contains("wrong key") && !error.contains("secret"),
        "{error}"
    );
    assert_eq!(server.count(), 4, "nothing is asked after a refusal");
    // A line that was being written when the power went.
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(b"{\"id\":\"i7\",\"ta").unwrap();
    let summary = ask(&server, &log, &all()).unwrap();
    assert_eq!(
        (summary.resumed, summary.lines.len(), server.count()),
        (3, 10, 4 + 7)
    );
    let again = ask(&server, &log, &all()).unwrap();
    assert_eq!((again.resumed, server.count()), (10, 11));
    // A changed report is asked about again.
    let mut changed = reports();
    changed[0].text.push_str(" Unchanged.");
    run(
        &changed,
        &findings(),
        &all(),
        &server.model(),
        &log,
        &quick(),
        || (),
    )
    .unwrap();
    assert!(server.count() > 11 && server.count() <= 13);
}

#[test]
fn a_server_that_answers_nothing_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let server = Server::start();
    let busy = || (503, "", "out of order".to_owned());
    server
        .replies
        .lock()
        .unwrap()
        .extend(std::iter::repeat_with(busy).take(8 * 3));
    let error = ask(&server, &log, &all()).unwrap_err();
    assert!(
        error.contains("first 8 questions") && error.contains("503"),
        "{error}"
    );
    assert_eq!(server.count(), 8 * 3);
    // Mended, it is asked all of it.
    let summary = ask(&server, &log, &all()).unwrap();
    assert_eq!((summary.resumed, summary.failed), (0, 0));
}

#[test]
fn several_at_a_time_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start();
    let settings = RunSettings {
        threads: 5,
        ..quick()
    };
    let answers = |log: &str, settings: &RunSettings| -> Vec<LogLine> {
        let log = folder.path().join(log);
        run(
            &reports(),
            &findings(),
            &all(),
            &server.model(),
            &log,
            settings,
            || (),
        )
        .unwrap()
        .lines
    };
    assert_eq!(answers("a", &quick()), answers("b", &settings));
}

#[test]
fn addresses_are_checked_before_anything_is_sent() {
    let with = |url: &str| {
        HttpModel::new(Endpoint {
            url: url.to_owned(),
            model: "m".to_owned(),
            key: Some("secret".to_owned()),
            timeout: Duration::from_secs(1),
            json_mode: false,
        })
    };
    let error = with("127.0.0.1:80/v1").unwrap_err().to_string();
    assert!(error.contains("http://"), "{error}");
    assert_eq!(
        with("https://127.0.0.1:1/v1").is_ok(),
        cfg!(feature = "tls")
    );
    assert!(!format!("{:?}", with("http://127.0.0.1:1/v1").unwrap()).contains("secret"));
}

#[test]
fn the_audit_sample_is_balanced_and_scored() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start();
    let lines = ask(&server, &folder.path().join("log.jsonl"), &all())
        .unwrap()
        .lines;
    let sample = audit_sample(&lines, &reports(), 4, 1);
    let of = |task: &str| sample.iter().filter(|r| r.task == task).collect::<Vec<_>>();
    let effusion = of("inspect.pleural-effusion");
    assert_eq!(effusion.len(), 4);
    assert_eq!(effusion.iter().filter(|r| r.present).count(), 2);
    assert_eq!(of("inspect.emphysema").len(), 2);
    assert_eq!(sample, audit_sample(&lines, &reports(), 4, 1));
    let path = folder.path().join("audit.csv");
    write_audit(&path, &sample, &[]).unwrap();
    assert_eq!(agreement(&path).unwrap(), (0, 0));
    let table = std::fs::read_to_string(&path).unwrap();
    assert!(table.contains("\"1. Embolism.\n2. Effusion.\""), "{table}");
    // A review outlives another run, also of a row that is no longer drawn.
    let (first, rest) = (&sample[0], &sample[1..]);
    let reviewed = table.replacen(",\n", ",yes\n", 1);
    assert_ne!(reviewed, table);
    std::fs::write(&path, &reviewed).unwrap();
    write_audit(&path, &sample, &[]).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), reviewed);
    write_audit(&path, rest, &[]).unwrap();
    let last = std::fs::read_to_string(&path).unwrap();
    assert!(
        last.trim_end().ends_with(",yes") && last.contains(&first.id),
        "{last}"
    );
    // Another model's answers take the place of those before, and another task's rows stay.
    let row = |task: &str, id: &str, review: &str| format!("{task},{id},yes,old,r,{review}\n");
    let head = "task,id,model,key_sentence,report,reviewer\n";
    let (task, id) = (&lines[0].task, &lines[0].id);
    let own = row(task, id, "yes") + &row(task, "undrawn", "") + &row("another", "i1", "");
    std::fs::write(&path, head.to_owned() + &own).unwrap();
    let mut answered = lines[0].clone();
    answered.answer = Some(uniferum_data::reports::Answer {
        present: false,
        key_sentence: None,
    });
    write_audit(&path, &[], &[answered]).unwrap();
    let last = std::fs::read_to_string(&path).unwrap();
    assert!(last.contains(&format!("{task},{id},no,,r,yes")), "{last}");
    assert!(
        last.contains("another,i1,yes,old,r,") && !last.contains("undrawn"),
        "{last}"
    );
    let rows = "task,id,model,key_sentence,report,reviewer\na,1,yes,s,r,yes\na,2,no,s,r,Y\na,3,no,s,r,n\na,4,no,s,r,\n";
    std::fs::write(&path, rows).unwrap();
    assert_eq!(agreement(&path).unwrap(), (2, 3));
    std::fs::write(&path, rows.replace(",Y\n", ",unsure\n")).unwrap();
    assert!(agreement(&path).unwrap_err().to_string().contains("unsure"));
}
