//! Downloads from a server on this machine that behaves as the Hugging Face hub does.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Barrier, Mutex};

use sha2::{Digest, Sha256};
use uniferum_data::hub::{Hub, Wanted};

const WEIGHTS: Wanted = Wanted {
    any_of: &["model.safetensors", "pytorch_model.bin"],
    optional: false,
};
const CONFIG: Wanted = Wanted {
    any_of: &["config.json"],
    optional: true,
};

/// What the server does wrong, once each.
#[derive(Debug, Default, Clone, Copy)]
struct Trouble {
    /// Hangs up in the middle of the weights.
    cut_off: bool,
    /// Is busy at first.
    busy: bool,
    /// Sends other bytes than it promises.
    damaged: bool,
}

struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

fn weights() -> Vec<u8> {
    (0..300_000u32).flat_map(u32::to_le_bytes).collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

impl Server {
    fn start(trouble: Trouble) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, trouble) = (Arc::clone(&requests), Arc::new(Mutex::new(trouble)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, trouble) = (Arc::clone(&seen), Arc::clone(&trouble));
                std::thread::spawn(move || answer(stream.unwrap(), &seen, &trouble));
            }
        });
        Server { url, requests }
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub {
            endpoint: self.url.clone(),
            token: Some("secret".to_owned()),
            cache: cache.to_owned(),
            offline: false,
        }
    }

    fn count(&self, what: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|r| r.starts_with(what)).count()
    }
}

/// One request and its answer. The content of weights lies on "another server", `/cdn`.
fn answer(mut stream: TcpStream, seen: &Mutex<Vec<String>>, trouble: &Mutex<Trouble>) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    seen.lock().unwrap().push(request.clone());
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut trouble = trouble.lock().unwrap();
    let once = |flag: &mut bool| std::mem::take(flag);
    let commit = "X-Repo-Commit: abc123\r\n";
    let (status, headers, body) = match path {
        _ if once(&mut trouble.busy) => (503, String::new(), vec![]),
        "/old/net/resolve/main/config.json" => {
            let to = "Location: /new/net/resolve/main/config.json\r\n".to_owned();
            (307, to, vec![])
        }
        "/old/net/resolve/main/model.safetensors" => {
            let to = "Location: /new/net/resolve/main/model.safetensors\r\n".to_owned();
            (307, to, vec![])
        }
        "/new/net/resolve/main/config.json" => {
            let tag = "ETag: W/\"0123456789012345678901234567890123456789\"\r\n";
            (200, format!("{commit}{tag}"), b"{}".to_vec())
        }
        "/new/net/resolve/main/model.safetensors" => {
            let bytes = weights();
            let (tag, size) = (digest(&bytes), bytes.len());
            let linked = format!("X-Linked-ETag: \"{tag}\"\r\nX-Linked-Size: {size}\r\n");
            let host = request.lines().find_map(|l| {
                let (name, value) = l.split_once(": ")?;
                name.eq_ignore_ascii_case("host").then_some(value)
            });
            let to = format!("Location: http://{}/cdn\r\n", host.unwrap());
            (302, format!("{commit}{linked}{to}"), vec![])
        }
        "/cdn" => {
            let mut bytes = weights();
            if once(&mut trouble.damaged) {
                bytes[1000] ^= 1;
            }
            let range = request.to_lowercase();
            let from = range.split("range: bytes=").nth(1);
            match from.and_then(|r| r.split('-').next()?.parse::<usize>().ok()) {
                Some(from) => (206, String::new(), bytes.split_off(from)),
                None => (200, String::new(), bytes),
            }
        }
        "/private/net/resolve/main/model.safetensors" => {
            (401, "X-Error-Code: RepoNotFound\r\n".to_owned(), vec![])
        }
        _ => (404, "X-Error-Code: EntryNotFound\r\n".to_owned(), vec![]),
    };
    let head = format!(
        "HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    if method == "GET" {
        let sent = if path == "/cdn" && once(&mut trouble.cut_off) {
            &body[..body.len() / 3]
        } else {
            &body[..]
        };
        let _ = stream.write_all(sent);
    }
}

fn quiet() -> impl FnMut(&uniferum_data::hub::Progress<'_>) {
    |_| ()
}

#[test]
fn files_arrive_whole_in_the_usual_layout_although_the_line_is_cut() {
    let server = Server::start(Trouble {
        cut_off: true,
        busy: true,
        damaged: false,
    });
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path());
    let mut last = (String::new(), 0);
    let mut show = |p: &uniferum_data::hub::Progress<'_>| last = (p.file.to_owned(), p.done);
    let folder = hub.fetch("old/net", &[CONFIG, WEIGHTS], &mut show).unwrap();
    let repository = cache.path().join("models--old--net");
    assert_eq!(folder, repository.join("snapshots/abc123"));
    assert_eq!(
        last,
        ("model.safetensors".to_owned(), weights().len() as u64)
    );
    assert_eq!(
        std::fs::read(folder.join("model.safetensors")).unwrap(),
        weights()
    );
    assert_eq!(std::fs::read(folder.join("config.json")).unwrap(), b"{}");
    let blob = repository.join("blobs").join(digest(&weights()));
    assert_eq!(std::fs::read(&blob).unwrap(), weights());
    assert!(!blob.with_extension("incomplete").exists());
    assert_eq!(
        std::fs::read(repository.join("refs/main")).unwrap(),
        b"abc123"
    );
    // The second part was asked for by itself, and the token shown to the hub alone.
    assert_eq!(server.count("GET /cdn"), 2);
    let requests = server.requests.lock().unwrap().clone();
    let ranges = requests
        .iter()
        .filter(|r| r.starts_with("GET /cdn") && r.to_lowercase().contains("range: bytes="));
    assert_eq!(ranges.count(), 1);
    for request in &requests {
        assert_eq!(
            request.contains("secret"),
            !request.contains("/cdn"),
            "{request}"
        );
    }
    // What is here is not asked for again.
    assert_eq!(
        hub.fetch("old/net", &[CONFIG, WEIGHTS], &mut quiet())
            .unwrap(),
        folder
    );
    assert_eq!(server.requests.lock().unwrap().len(), requests.len());
}

#[test]
fn an_earlier_run_that_was_killed_is_gone_on_with() {
    let server = Server::start(Trouble::default());
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("models--new--net/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.incomplete", digest(&weights())));
    std::fs::write(part, &weights()[..500_000]).unwrap();
    let mut first = None;
    let mut show = |p: &uniferum_data::hub::Progress<'_>| first = first.or(Some(p.done));
    let folder = server
        .hub(cache.path())
        .fetch("new/net", &[WEIGHTS], &mut show)
        .unwrap();
    assert_eq!(first, Some(500_000));
    assert_eq!(
        std::fs::read(folder.join("model.safetensors")).unwrap(),
        weights()
    );
}

#[test]
fn two_who_want_the_same_get_it_once() {
    let server = Server::start(Trouble::default());
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| hub.fetch("new/net", &[WEIGHTS], &mut quiet()).unwrap());
        }
    });
    assert_eq!(server.count("GET /cdn"), 1);
}

#[test]
fn without_locks_each_gets_its_own_copy_and_nothing_is_left_behind() {
    let server = Server::start(Trouble {
        cut_off: true,
        ..Trouble::default()
    });
    let cache = tempfile::tempdir().unwrap();
    // Where the folder of locks should be is a file: no process gets a lock.
    std::fs::write(cache.path().join(".locks"), "").unwrap();
    let blobs = cache.path().join("models--new--net/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    // What a process with a lock may be writing is not touched.
    let others = blobs.join(format!("{}.incomplete", digest(&weights())));
    std::fs::write(&others, &weights()[..500_000]).unwrap();
    let hub = server.hub(cache.path());
    let together = Barrier::new(3);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                together.wait();
                let folder = hub.fetch("new/net", &[WEIGHTS], &mut quiet()).unwrap();
                let got = std::fs::read(folder.join("model.safetensors")).unwrap();
                assert!(got == weights());
            });
        }
    });
    assert_eq!(std::fs::read(&others).unwrap().len(), 500_000);
    let names = std::fs::read_dir(&blobs).unwrap();
    assert_eq!(names.count(), 2);
}

#[test]
fn damaged_content_is_not_kept() {
    let server = Server::start(Trouble {
        damaged: true,
        ..Trouble::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path());
    let error = hub
        .fetch("new/net", &[WEIGHTS], &mut quiet())
        .unwrap_err()
        .to_string();
    assert!(error.contains("SHA-256"), "{error}");
    let blobs = std::fs::read_dir(cache.path().join("models--new--net/blobs")).unwrap();
    assert_eq!(blobs.count(), 0);
    assert!(hub.fetch("new/net", &[WEIGHTS], &mut quiet()).is_ok());
}

#[test]
fn errors_name_the_file_and_the_address() {
    let server = Server::start(Trouble::default());
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path());
    let message = |hub: &Hub, repository: &str| {
        let error = hub.fetch(repository, &[WEIGHTS], &mut quiet()).unwrap_err();
        error.to_string()
    };
    let private = message(&hub, "private/net");
    assert!(
        private.contains("HF_TOKEN") && private.contains(&server.url),
        "{private}"
    );
    assert!(!private.contains("secret"), "{private}");
    let none = message(&hub, "empty/net");
    assert!(
        none.contains("pytorch_model.bin") && none.contains("no such file"),
        "{none}"
    );
    let nowhere = Hub {
        endpoint: "http://127.0.0.1:1".to_owned(),
        ..hub
    };
    let unreached = message(&nowhere, "new/net");
    let address = "http://127.0.0.1:1/new/net/resolve/main/model.safetensors";
    assert!(unreached.contains(address), "{unreached}");
}
