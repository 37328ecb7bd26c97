//! Files of the Hugging Face hub: those in its local cache, and with the feature `hub` those that have to
//! be downloaded first.
//!
//! The cache has the layout of `huggingface_hub`, so that what Python downloaded is found here and the
//! other way round.

#[cfg(feature = "hub")]
mod download;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where files are looked for and, if need be, downloaded from.
#[derive(Clone, PartialEq, Eq)]
pub struct Hub {
    /// The server's address, without a slash at its end.
    pub endpoint: String,
    /// The token of an account, for repositories that not everybody may read. It goes into no message,
    /// and to no other server than the endpoint.
    pub token: Option<String>,
    /// The cache's folder.
    pub cache: PathBuf,
    /// Whether nothing may be downloaded.
    pub offline: bool,
}

/// One file, by the names that it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The best name first.
    pub any_of: &'a [&'a str],
    /// Whether a repository may do without it.
    pub optional: bool,
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file's name.
    pub file: &'a str,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes of the whole, where the server says.
    pub total: Option<u64>,
}

impl Hub {
    /// The address, token and cache that the usual variables name: `HF_ENDPOINT`, `HF_TOKEN`,
    /// `HF_HUB_CACHE`, `HF_HOME`, and `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| get(name).filter(|v| !v.trim().is_empty());
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let home = get("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = get("XDG_CACHE_HOME").map(PathBuf::from);
            let own = get("HOME").or_else(|| get("USERPROFILE"));
            let cache = cache.or_else(|| own.map(|home| Path::new(&home).join(".cache")));
            cache.unwrap_or_default().join("huggingface")
        });
        let cache = get("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        // Where `hf auth login` leaves it.
        let stored = || std::fs::read_to_string(home.join("token")).ok();
        let token = get("HF_TOKEN").or_else(stored);
        let offline = get("HF_HUB_OFFLINE").is_some_and(|v| {
            let v = v.trim().to_lowercase();
            ["1", "true", "yes", "on"].contains(&v.as_str())
        });
        Hub {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()),
            cache,
            offline,
        }
    }

    /// The folder of a repository's main revision in the cache, whatever it holds.
    pub fn cached(&self, repository: &str) -> Option<PathBuf> {
        let folder = self.folder(repository);
        let snapshots = folder.join("snapshots");
        if let Ok(commit) = std::fs::read_to_string(folder.join("refs").join("main")) {
            let main = snapshots.join(commit.trim());
            if main.is_dir() {
                return Some(main);
            }
        }
        // A cache that was copied without its references: its only revision is meant.
        let mut revisions = std::fs::read_dir(snapshots).ok()?.flatten();
        let only = revisions.next()?.path();
        revisions.next().is_none().then_some(only)
    }

    /// The folder that holds all the wanted files, after those that the cache lacks were downloaded.
    ///
    /// Nothing is asked of the network where the cache has all that is not optional.
    ///
    /// # Errors
    /// [`Error::Hub`] naming the file and the address where it is not to be had, or where the build has
    /// no feature `hub`; [`Error::Config`] for an address that this build cannot speak to.
    pub fn fetch(
        &self,
        repository: &str,
        wanted: &[Wanted<'_>],
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<PathBuf> {
        let cached = self.cached(repository);
        let lacks = |wanted: &&Wanted<'_>| {
            let has = |folder: &PathBuf| wanted.any_of.iter().any(|n| folder.join(n).is_file());
            !wanted.optional && !cached.as_ref().is_some_and(has)
        };
        let Some(missing) = wanted.iter().find(lacks) else {
            // All are optional, or all are here.
            return Ok(cached.unwrap_or_else(|| self.folder(repository)));
        };
        let missing = missing.any_of.join(" or ");
        if self.offline {
            let cache = self.cache.display();
            let what = format!("not in the cache {cache}, and HF_HUB_OFFLINE forbids to download");
            return Err(self.lost(repository, &missing, what));
        }
        self.download(repository, wanted, progress)
    }

    #[cfg(not(feature = "hub"))]
    fn download(
        &self,
        repository: &str,
        wanted: &[Wanted<'_>],
        _: &mut dyn FnMut(&Progress<'_>),
    ) -> Result<PathBuf> {
        let names: Vec<&str> = wanted.iter().flat_map(|w| w.any_of).copied().collect();
        let cache = self.cache.display();
        let what = format!("not in the cache {cache}, and this build cannot download");
        Err(self.lost(repository, &names.join(", "), what))
    }

    fn folder(&self, repository: &str) -> PathBuf {
        let name = format!("models--{}", repository.replace('/', "--"));
        self.cache.join(name)
    }

    fn lost(&self, repository: &str, file: &str, what: impl ToString) -> Error {
        Error::Hub {
            repository: repository.to_owned(),
            file: file.to_owned(),
            what: what.to_string(),
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)]) -> Hub {
        Hub::from_variables(|name| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn the_usual_variables_are_read() {
        let cache = |vars: &[(&str, &str)]| with(vars).cache;
        assert_eq!(
            cache(&[("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b")]),
            Path::new("/a")
        );
        assert_eq!(cache(&[("HF_HOME", "/b")]), Path::new("/b/hub"));
        let usual = Path::new("/home/me/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/home/me")]), usual);
        assert_eq!(cache(&[("USERPROFILE", "/home/me")]), usual);
        let hub = with(&[("HF_ENDPOINT", "http://mirror/"), ("HF_TOKEN", " secret\n")]);
        assert_eq!(hub.endpoint, "http://mirror");
        assert_eq!(hub.token.as_deref(), Some("secret"));
        assert!(!format!("{hub:?}").contains("secret"));
        assert!(!hub.offline && with(&[("HF_HUB_OFFLINE", "1")]).offline);
        assert_eq!(with(&[]).endpoint, "https://huggingface.co");
    }

    #[test]
    fn a_repository_is_found_by_its_reference_or_alone() {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub {
            cache: cache.path().to_owned(),
            ..with(&[])
        };
        let folder = cache.path().join("models--timm--net");
        let commit = folder.join("snapshots").join("abc");
        assert_eq!(hub.cached("timm/net"), None);
        std::fs::create_dir_all(&commit).unwrap();
        assert_eq!(hub.cached("timm/net"), Some(commit.clone()));
        std::fs::create_dir_all(folder.join("snapshots").join("def")).unwrap();
        assert_eq!(hub.cached("timm/net"), None);
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::write(folder.join("refs").join("main"), "abc\n").unwrap();
        assert_eq!(hub.cached("timm/net"), Some(commit));
    }

    #[test]
    fn offline_nothing_is_asked_and_the_error_names_file_and_cache() {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub {
            cache: cache.path().to_owned(),
            offline: true,
            ..with(&[("HF_ENDPOINT", "http://127.0.0.1:9")])
        };
        let weights = Wanted {
            any_of: &["model.safetensors", "pytorch_model.bin"],
            optional: false,
        };
        let fetch = || hub.fetch("timm/net", &[weights], &mut |_| ());
        let error = fetch().unwrap_err().to_string();
        for part in ["model.safetensors", "timm/net", "HF_HUB_OFFLINE"] {
            assert!(error.contains(part), "{error}");
        }
        let commit = cache.path().join("models--timm--net/snapshots/abc");
        std::fs::create_dir_all(&commit).unwrap();
        std::fs::write(commit.join("pytorch_model.bin"), "weights").unwrap();
        assert_eq!(fetch().unwrap(), commit);
    }
}
