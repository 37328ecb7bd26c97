//! Where a model's first weights come from.

use std::path::{Path, PathBuf};

use candle_nn::VarMap;
use serde::{Deserialize, Serialize};
use uniferum_data::changes;
use uniferum_data::hub::{Hub, Progress, Wanted};
use uniferum_fusion::pretrained::{TextEncoder, init_image_encoder};
use uniferum_fusion::{BertConfig, Prompts, UniferumConfig, checkpoint};

use crate::error::{Error, Result};

/// Published weights to start from.
///
/// Each is a file, a folder as Hugging Face lays it out, or the name of a repository there, such as
/// `timm/tf_efficientnet_b0.in1k`, which is looked for in the local cache: only [`fetch`](Self::fetch)
/// downloads. `none` starts from random weights.
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

/// Files of weights, the safer first.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const TOKENIZER: [&str; 2] = ["tokenizer.json", "vocab.txt"];

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

    /// Downloads what is named by repository and not in the hub's cache; the other functions then find it
    /// there.
    ///
    /// # Errors
    /// [`Error::Init`] naming the file and its address, and what can be done where there is no network.
    pub fn fetch(&self, hub: &Hub, progress: &mut dyn FnMut(&Progress<'_>)) -> Result<()> {
        if self.checkpoint.is_some() {
            return Ok(());
        }
        let wanted = |any_of| Wanted {
            any_of,
            optional: false,
        };
        let weights = wanted(&WEIGHTS);
        // The configuration alone says how many heads there are. Weights, which take long, come last.
        let text = [wanted(&["config.json"]), wanted(&TOKENIZER), weights];
        let sources = [
            ("init.vision", &self.vision, &[weights][..]),
            ("init.text", &self.text, &text),
        ];
        for (field, source, wanted) in sources {
            if source == NONE || !is_repository(source) {
                continue;
            }
            let lost = |e: uniferum_data::Error| Error::Init {
                field,
                what: format!("{e}. {}", advice(source)),
            };
            hub.fetch(source, wanted, progress).map_err(lost)?;
        }
        Ok(())
    }

    /// The repositories that [`fetch`](Self::fetch) would have to download from.
    pub fn absent(&self, hub: &Hub) -> Vec<&str> {
        if self.checkpoint.is_some() {
            return Vec::new();
        }
        let sources = [self.vision.as_str(), self.text.as_str()].into_iter();
        let absent = |s: &&str| *s != NONE && is_repository(s) && hub.cached(s).is_none();
        sources.filter(absent).collect()
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
            let config = fitted(wanted, config, "the checkpoint's")?;
            return Ok((config, Prompts::from_file(Prompts::find(path)?)?));
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
            bert: text.config().clone(),
            ..wanted.clone()
        };
        let config = fitted(wanted, config, "the transformer's")?;
        Ok((config, Prompts::from_file(Prompts::find(folder)?)?))
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
        let mut candidates = WEIGHTS.iter().map(|name| place.join(name));
        candidates.find(|p| p.is_file()).ok_or_else(|| Error::Init {
            field: "init.vision",
            what: format!("{}: no {} there", place.display(), WEIGHTS.join(" or ")),
        })
    }
}

/// The network of weights that are there, with the wanted dropout, which is no size of it.
///
/// # Errors
/// [`Error::Config`] where another network is wanted than the default, which wants none.
fn fitted(wanted: &UniferumConfig, found: UniferumConfig, whose: &str) -> Result<UniferumConfig> {
    let with = |config: &UniferumConfig| {
        let bert = BertConfig {
            dropout: wanted.bert.dropout,
            vocab: found.bert.vocab,
            ..config.bert.clone()
        };
        UniferumConfig {
            bert,
            ..config.clone()
        }
    };
    let (found, wanted, usual) = (with(&found), with(wanted), with(&UniferumConfig::default()));
    if wanted != found && wanted != usual {
        let [found, wanted] = [&found, &wanted].map(|c| serde_json::json!(c));
        let lines = changes("model", &found, &wanted, &[]);
        let expected = format!("{whose} sizes, or none");
        return Err(Error::config("model", expected, lines.join("; ")));
    }
    Ok(found)
}

/// A path, or the folder of a repository in the local Hugging Face cache.
fn locate(field: &'static str, source: &str) -> Result<PathBuf> {
    let path = PathBuf::from(source);
    if path.exists() {
        return Ok(path);
    }
    if !is_repository(source) {
        return Err(Error::Init {
            field,
            what: format!("{source}: no such file or folder"),
        });
    }
    let hub = Hub::from_env();
    hub.cached(source).ok_or_else(|| Error::Init {
        field,
        what: format!(
            "{source} is neither a path nor in the Hugging Face cache {}. {}",
            hub.cache.display(),
            advice(source)
        ),
    })
}

/// Whether this is `owner/name`, and no path.
fn is_repository(source: &str) -> bool {
    let path = Path::new(source);
    !path.exists()
        && source.split('/').count() == 2
        && !source.starts_with(['.', '/', '~'])
        && path.extension().is_none_or(|e| !is_weights(e))
}

fn advice(source: &str) -> String {
    format!(
        "Without a network give the path of the weights in place of {source}; or fill the cache where \
         there is one (`hf download {source}`) and copy it here, or set HF_HOME; or write \"none\" \
         for random weights"
    )
}

fn is_weights(extension: &std::ffi::OsStr) -> bool {
    ["safetensors", "bin", "pth", "pt", "ckpt"]
        .iter()
        .any(|e| extension == *e)
}

#[cfg(test)]
mod tests {
    use super::*;

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
