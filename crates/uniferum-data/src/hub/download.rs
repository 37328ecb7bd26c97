//! From the hub's server into its cache.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use uniferum_ct::io::cache::Hash;
use uniferum_ct::replace_atomically;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::{Hub, Progress, Wanted};
use crate::error::Result;
use crate::http;

/// Longest wait for a connection, an answer, or the next bytes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Tries of a file that got no further than the one before.
const TRIES: usize = 3;
/// Renamed repositories are sent on by the server.
const REDIRECTS: usize = 4;
const CHUNK: usize = 1 << 20;
const USER_AGENT: &str = concat!("uniferum/", env!("CARGO_PKG_VERSION"));

/// What the server says of a file.
struct Facts {
    /// Where it is, on the server itself.
    url: String,
    commit: String,
    /// Its name in the cache; the SHA-256 of large files.
    etag: String,
    size: Option<u64>,
}

/// Why a try failed.
enum Failure {
    /// The next may go better.
    Passing(String),
    Final(String),
}

type Tried<T> = std::result::Result<T, Failure>;

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Passing(error.to_string())
    }
}

impl Hub {
    /// Downloads what is not in the cache yet, file by file in order.
    pub(super) fn download(
        &self,
        repository: &str,
        wanted: &[Wanted<'_>],
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<PathBuf> {
        http::check_address("HF_ENDPOINT", &self.endpoint)?;
        let mut found = None;
        for wanted in wanted {
            let mut place = None;
            for name in wanted.any_of {
                place = self.file(repository, name, progress)?;
                if place.is_some() {
                    break;
                }
            }
            if place.is_none() && !wanted.optional {
                let what = format!("the repository at {} has no such file", self.endpoint);
                return Err(self.lost(repository, &wanted.any_of.join(" or "), what));
            }
            found = place.or(found);
        }
        Ok(found.unwrap_or_else(|| self.folder(repository)))
    }

    /// The revision's folder with this file in it; `None` where the repository has not the file.
    fn file(
        &self,
        repository: &str,
        name: &str,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<Option<PathBuf>> {
        let url = format!("{}/{repository}/resolve/main/{name}", self.endpoint);
        let fail = |failure| {
            let (Failure::Passing(what) | Failure::Final(what)) = failure;
            self.lost(repository, name, format!("{url}: {what}"))
        };
        let Some(facts) = persist(|| self.facts(&url)).map_err(fail)? else {
            return Ok(None);
        };
        let folder = self.folder(repository);
        let io =
            |e: std::io::Error| self.lost(repository, name, format!("{}: {e}", folder.display()));
        let blob = folder.join("blobs").join(&facts.etag);
        std::fs::create_dir_all(folder.join("blobs")).map_err(io)?;
        self.blob(repository, &facts, &blob, name, progress)
            .map_err(fail)?;
        let revision = folder.join("snapshots").join(&facts.commit);
        std::fs::create_dir_all(&revision).map_err(io)?;
        link(&blob, &revision.join(name)).map_err(io)?;
        let refs = folder.join("refs");
        std::fs::create_dir_all(&refs).map_err(io)?;
        replace_atomically(&refs.join("main"), ".part", |p| {
            std::fs::write(p, &facts.commit)
        })
        .map_err(io)?;
        Ok(Some(revision))
    }

    fn lock(&self, repository: &str, etag: &str) -> std::io::Result<File> {
        let name = repository.replace('/', "--");
        let folder = self.cache.join(".locks").join(format!("models--{name}"));
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{etag}.lock"));
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.lock()?;
        Ok(file)
    }

    /// Asks the server about a file without getting it.
    fn facts(&self, url: &str) -> Tried<Option<Facts>> {
        let agent = agent(0);
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS {
            let asked = agent.head(&url).header("Accept-Encoding", "identity");
            let answer = match &self.token {
                Some(token) => asked
                    .header("Authorization", format!("Bearer {token}"))
                    .call(),
                None => asked.call(),
            };
            let answer = answer.map_err(|e| Failure::Passing(e.to_string()))?;
            let status = answer.status().as_u16();
            let location = header(answer.headers(), "location");
            match location {
                // Another place of the same server; the content itself lies on another one.
                Some(place) if (300..400).contains(&status) && place.starts_with('/') => {
                    url = format!("{}{place}", origin(&self.endpoint));
                }
                _ => return self.judge(url, &answer),
            }
        }
        Err(Failure::Final("sent from place to place".to_owned()))
    }

    fn judge(&self, url: String, answer: &Response<Body>) -> Tried<Option<Facts>> {
        let status = answer.status().as_u16();
        let get = |name| header(answer.headers(), name);
        let code = get("x-error-code").unwrap_or_default();
        match status {
            200..=399 => {}
            404 if code == "EntryNotFound" || code.is_empty() => return Ok(None),
            401 | 403 | 404 => {
                let token = match self.token {
                    Some(_) => {
                        "there is no such repository, or the account of the token (HF_TOKEN, or `hf auth \
                         login`) may not read it"
                    }
                    None => "there is no such repository, or it wants an account (HF_TOKEN)",
                };
                return Err(Failure::Final(format!("status {status} {code}: {token}")));
            }
            408 | 429 | 500..=599 => return Err(Failure::Passing(format!("status {status}"))),
            _ => return Err(Failure::Final(format!("status {status} {code}"))),
        }
        let etag = get("x-linked-etag").or_else(|| get("etag"));
        let etag = etag.map(|e| e.trim_start_matches("W/").trim_matches('"').to_owned());
        // The length of a redirection's own body says nothing.
        let own = get("content-length").filter(|_| status < 300);
        let size = get("x-linked-size").or(own);
        let (Some(commit), Some(etag)) = (get("x-repo-commit"), etag) else {
            let what = "the answer names neither revision nor content: is it a hub";
            return Err(Failure::Final(what.to_owned()));
        };
        if !is_plain(commit) || !is_plain(&etag) {
            let what = format!("a revision {commit:?} or content {etag:?} that is no file name");
            return Err(Failure::Final(what));
        }
        Ok(Some(Facts {
            url,
            commit: commit.to_owned(),
            etag,
            size: size.and_then(|s| s.parse().ok()),
        }))
    }

    /// Gets a content that is not here yet, once for all processes that want it.
    fn blob(
        &self,
        repository: &str,
        facts: &Facts,
        blob: &Path,
        name: &str,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Tried<()> {
        // The lock ends with the process.
        let lock = self.lock(repository, &facts.etag);
        if blob.is_file() {
            return Ok(());
        }
        match lock {
            Ok(_lock) => {
                let part = blob.with_file_name(format!("{}.incomplete", facts.etag));
                self.content(facts, &part, name, progress)?;
                Ok(std::fs::rename(&part, blob)?)
            }
            // Some network file systems know no locks. A part that two processes write would be
            // damaged, so that each has its own, and none goes on with what another began.
            Err(error) => {
                let cache = self.cache.display();
                eprintln!(
                    "warning: {cache}: no lock to be had ({error}): processes that start together \
                     download {name} each for itself"
                );
                replace_atomically(blob, ".incomplete", |part| {
                    self.content(facts, part, name, progress)
                })
            }
        }
    }

    /// Gets the content into a file, going on where an earlier try was cut off, and checks it.
    fn content(
        &self,
        facts: &Facts,
        part: &Path,
        name: &str,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Tried<()> {
        let (mut tries, mut most) = (0, length(part));
        while let Err(failure) = self.rest(facts, part, name, progress) {
            // Getting again what was here before is no progress, or a false size would be fetched for ever.
            tries = if length(part) > most { 0 } else { tries + 1 };
            most = most.max(length(part));
            if tries == TRIES || matches!(failure, Failure::Final(_)) {
                return Err(failure);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        check(part, facts).map_err(|what| {
            // Nothing of it can be trusted.
            let _ = std::fs::remove_file(part);
            Failure::Final(what)
        })
    }

    fn rest(
        &self,
        facts: &Facts,
        part: &Path,
        name: &str,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Tried<()> {
        let mut have = length(part);
        if facts.size == Some(have) && have > 0 {
            return Ok(());
        }
        let mut asked = agent(5)
            .get(&facts.url)
            .header("Accept-Encoding", "identity");
        if let Some(token) = &self.token {
            asked = asked.header("Authorization", format!("Bearer {token}"));
        }
        if have > 0 {
            asked = asked.header("Range", format!("bytes={have}-"));
        }
        let mut answer = asked.call().map_err(|e| Failure::Passing(e.to_string()))?;
        match answer.status().as_u16() {
            206 if have > 0 => {}
            // The whole again: a server without ranges, or a part that does not fit.
            200 => have = 0,
            416 => {
                std::fs::remove_file(part)?;
                return Err(Failure::Passing("the part here does not fit".to_owned()));
            }
            status @ (408 | 429 | 500..=599) => {
                return Err(Failure::Passing(format!("status {status}")));
            }
            status => return Err(Failure::Final(format!("status {status}"))),
        }
        let mut file = OpenOptions::new().create(true).append(true).open(part)?;
        file.set_len(have)?;
        let mut body = answer.body_mut().as_reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            let total = facts.size;
            progress(&Progress {
                file: name,
                done: have,
                total,
            });
            let n = match body.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            // A full disk will not be less full in a moment.
            file.write_all(&chunk[..n])
                .map_err(|e| Failure::Final(format!("{}: {e}", part.display())))?;
            have += n as u64;
        }
        file.sync_all()?;
        match facts.size {
            Some(size) if have < size => Err(Failure::Passing(format!(
                "cut off after {have} of {size} bytes"
            ))),
            _ => Ok(()),
        }
    }
}

/// Tries again what may go better.
fn persist<T>(mut work: impl FnMut() -> Tried<T>) -> Tried<T> {
    for _ in 1..TRIES {
        match work() {
            Err(Failure::Passing(_)) => std::thread::sleep(Duration::from_millis(500)),
            done => return done,
        }
    }
    work()
}

fn agent(redirects: u32) -> Agent {
    http::settings()
        .max_redirects(redirects)
        .max_redirects_will_error(false)
        .user_agent(USER_AGENT)
        .timeout_resolve(Some(PATIENCE))
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .build()
        .into()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `https://host` of an address that may have a path.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

/// Whether a server's word can be the name of a file in the cache.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.is_empty() && name.chars().all(plain)
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

/// Size, and for large files, whose tag it is, SHA-256.
fn check(path: &Path, facts: &Facts) -> std::result::Result<(), String> {
    let got = length(path);
    if facts.size.is_some_and(|size| size != got) {
        let expected = facts.size.unwrap_or_default();
        return Err(format!("expected {expected} bytes, got {got}"));
    }
    let is_digest = facts.etag.len() == 64 && facts.etag.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_digest {
        return Ok(());
    }
    let got = Hash::of_file(path).map_err(|e| e.to_string())?.to_string();
    if got == facts.etag {
        return Ok(());
    }
    Err(format!(
        "damaged on the way: expected SHA-256 {}, got {got}",
        facts.etag
    ))
}

/// The revision's name for a content, in place of a link to content that is gone.
fn link(blob: &Path, name: &Path) -> std::io::Result<()> {
    if name.is_file() {
        return Ok(());
    }
    replace_atomically(name, ".part", |part| match symlink(blob, part) {
        Err(e) if e.kind() == ErrorKind::Unsupported => std::fs::copy(blob, part).map(|_| ()),
        done => done,
    })
}

#[cfg(unix)]
fn symlink(blob: &Path, name: &Path) -> std::io::Result<()> {
    let etag = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), name)
}

/// Links need rights there that users seldom have.
#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}
