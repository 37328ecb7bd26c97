//! Where a model's first weights come from.

use std::path::{Path, PathBuf};

use candle_nn::VarMap;
use serde::{Deserialize, Serialize};
use uniferum_fusion::pretrained::{TextEncoder, init_image_encoder};
use uniferum_fusion::{BertConfig, Prompts, UniferumConfig, checkpoint};

use crate::error::{Error, Result};

/// Published weights to start from.
///
/// Each is a file, a folder as Hugging Face lays it out, or the name of a repository there, such as
/// `timm/tf_efficientnet_b0.in1k`, which is looked for in the local cache: nothing is downloaded. `none`
/// starts from random weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Init {
    /// An ImageNet EfficientNet of the encoder's variant, under timm's names; inflated to 3-D.
    pub vision: String,
    /// A BERT: its first layers become the fusion transformer, and its tokenizer comes along.
    pub text: String,
    /// A checkpoint of this project or of the public release, in place of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
}

/// No published weights.
pub(crate) const NONE: &str = "none";

impl Default for Init {
    /// The paper's: EfficientNet-B0 of ImageNet and PubMedBERT (section 3.6).
    fn default() -> Self {
        Self {
            vision: "timm/tf_efficientnet_b0.in1k".into(),
            text: "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract".into(),
            checkpoint: None,
        }
    }
}

impl Init {
    /// Random weights.
    pub fn none() -> Self {
        Self {
            vision: NONE.into(),
            text: NONE.into(),
            checkpoint: None,
        }
    }

    /// The model's configuration with the sizes of the published transformer, and its tokenizer.
    ///
    /// Without one the tokenizer is made from `sentences`.
    ///
    /// # Errors
    /// [`Error::Init`] where something is not found, [`Error::Model`] where it does not fit.
    pub fn model(
        &self,
        wanted: &UniferumConfig,
        sentences: &[&str],
    ) -> Result<(UniferumConfig, Prompts)> {
        if let Some(path) = &self.checkpoint {
            let config = match checkpoint::read_config(path)? {
                Some(config) => config,
                None => checkpoint::load(path, &candle_core::Device::Cpu)?.config,
            };
            let folder = if path.is_dir() {
                Some(path.as_path())
            } else {
                path.parent()
            };
            return Ok((config, tokenizer_in(folder.unwrap_or(Path::new(".")))?));
        }
        if self.text == NONE {
            let prompts = Prompts::from_sentences(sentences)?;
            let bert = BertConfig {
                vocab: prompts.vocab_size(),
                ..wanted.bert.clone()
            };
            let config = UniferumConfig {
                bert,
                ..wanted.clone()
            };
            return Ok((config, prompts));
        }
        let folder = locate("init.text", &self.text)?;
        let text = TextEncoder::read(&folder, wanted.bert.layers)?;
        let config = UniferumConfig {
            bert: BertConfig {
                dropout: wanted.bert.dropout,
                ..text.config().clone()
            },
            ..wanted.clone()
        };
        let beside = if folder.is_dir() {
            folder
        } else {
            folder.parent().unwrap_or(Path::new(".")).to_owned()
        };
        Ok((config, tokenizer_in(&beside)?))
    }

    /// Fills a model that was made from [`model`](Self::model)'s configuration.
    ///
    /// # Errors
    /// As [`model`](Self::model).
    pub fn fill(&self, vars: &VarMap, config: &UniferumConfig) -> Result<()> {
        if let Some(path) = &self.checkpoint {
            return Ok(checkpoint::load_into(path, vars, config)?);
        }
        if self.text != NONE {
            let folder = locate("init.text", &self.text)?;
            TextEncoder::read(&folder, config.bert.layers)?.init(vars, config)?;
        }
        if self.vision != NONE {
            init_image_encoder(self.vision_file()?, vars, config)?;
        }
        Ok(())
    }

    /// The file of the image encoder's weights.
    ///
    /// # Errors
    /// [`Error::Init`].
    pub fn vision_file(&self) -> Result<PathBuf> {
        let place = locate("init.vision", &self.vision)?;
        if !place.is_dir() {
            return Ok(place);
        }
        let names = ["model.safetensors", "pytorch_model.bin"];
        let found = names.iter().map(|n| place.join(n)).find(|p| p.is_file());
        found.ok_or_else(|| Error::Init {
            field: "init.vision",
            what: format!("{}: no {} there", place.display(), names.join(" or ")),
        })
    }
}

/// The tokenizer of a folder: `tokenizer.json`, or `vocab.txt`.
pub(crate) fn tokenizer_in(folder: &Path) -> Result<Prompts> {
    let names = ["tokenizer.json", "vocab.txt"];
    let found = names.iter().map(|n| folder.join(n)).find(|p| p.is_file());
    let file = found.ok_or_else(|| Error::Init {
        field: "tokenizer",
        what: format!("{}: no {} there", folder.display(), names.join(" or ")),
    })?;
    Ok(Prompts::from_file(file)?)
}

/// A path, or the folder of a repository in the local Hugging Face cache.
fn locate(field: &'static str, source: &str) -> Result<PathBuf> {
    let path = PathBuf::from(source);
    if path.exists() {
        return Ok(path);
    }
    let is_repository = source.split('/').count() == 2
        && !source.starts_with(['.', '/', '~'])
        && path.extension().is_none_or(|e| !is_weights(e));
    if !is_repository {
        return Err(Error::Init {
            field,
            what: format!("{source}: no such file or folder"),
        });
    }
    let cache = cache_folder(|name| std::env::var_os(name).map(PathBuf::from));
    snapshot(&cache, source).ok_or_else(|| Error::Init {
        field,
        what: format!(
            "{source} is neither a path nor in the Hugging Face cache {}; nothing is downloaded here. \
             Where there is a network, `hf download {source}` fills the cache (copy it, or set \
             HF_HOME); else give the path of the weights, or \"none\" for random ones",
            cache.display()
        ),
    })
}

fn is_weights(extension: &std::ffi::OsStr) -> bool {
    ["safetensors", "bin", "pth", "pt", "ckpt"]
        .iter()
        .any(|e| extension == *e)
}

/// `HF_HUB_CACHE`, `HF_HOME/hub`, or `~/.cache/huggingface/hub`.
fn cache_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    if let Some(cache) = variable("HF_HUB_CACHE") {
        return cache;
    }
    if let Some(home) = variable("HF_HOME") {
        return home.join("hub");
    }
    let cache = variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_default();
    cache.join("huggingface").join("hub")
}

/// The folder of a repository's main revision.
fn snapshot(cache: &Path, repository: &str) -> Option<PathBuf> {
    let folder = cache.join(format!("models--{}", repository.replace('/', "--")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_where_its_variables_say() {
        let with = |vars: &'static [(&'static str, &'static str)]| {
            cache_folder(move |name| {
                let found = vars.iter().find(|(n, _)| *n == name);
                found.map(|(_, v)| PathBuf::from(v))
            })
        };
        assert_eq!(
            with(&[("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b")]),
            Path::new("/a")
        );
        assert_eq!(with(&[("HF_HOME", "/b")]), Path::new("/b/hub"));
        let usual = Path::new("/home/me/.cache/huggingface/hub");
        assert_eq!(with(&[("HOME", "/home/me")]), usual);
    }

    #[test]
    fn a_repository_is_found_by_its_reference_or_alone() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--timm--net");
        let commit = folder.join("snapshots").join("abc");
        assert_eq!(snapshot(cache.path(), "timm/net"), None);
        std::fs::create_dir_all(&commit).unwrap();
        assert_eq!(snapshot(cache.path(), "timm/net"), Some(commit.clone()));
        std::fs::create_dir_all(folder.join("snapshots").join("def")).unwrap();
        assert_eq!(snapshot(cache.path(), "timm/net"), None);
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::write(folder.join("refs").join("main"), "abc\n").unwrap();
        assert_eq!(snapshot(cache.path(), "timm/net"), Some(commit));
    }

    #[test]
    fn what_is_missing_is_explained() {
        let message = |source: &str| locate("init.text", source).unwrap_err().to_string();
        let missing = message("nobody/no-such-model");
        assert!(
            missing.contains("hf download nobody/no-such-model"),
            "{missing}"
        );
        let path = message("weights/model.safetensors");
        assert!(path.contains("no such file"), "{path}");
    }
}
