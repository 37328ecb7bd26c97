//! Sentences to padded token ids.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use tokenizers::Tokenizer;

use crate::config::BertConfig;
use crate::error::{Error, Result, file};
use crate::wordpiece;

/// What sizes of word tables are sometimes rounded up to.
const TABLE_ROUNDING: [usize; 6] = [1, 8, 16, 32, 64, 128];

/// A batch of sentences as the model takes it.
#[derive(Debug, Clone)]
pub struct PromptBatch {
    /// Token ids, `[B, T]`, of type `u32`.
    pub ids: Tensor,
    /// 1 for a token and 0 for padding, `[B, T]`, of type `u32`.
    pub mask: Tensor,
}

/// A BERT tokenizer with the padding and the checks that a model needs.
///
/// ```
/// use candle_core::Device;
/// use uniferum_fusion::Prompts;
/// # fn main() -> uniferum_fusion::Result<()> {
/// let prompts = Prompts::from_sentences(&["Is there emphysema?", "Segment the liver."])?;
/// let batch = prompts.encode(&["Is there emphysema?", "Segment"], &Device::Cpu)?;
/// // [CLS] is there emphysema ? [SEP]
/// assert_eq!(batch.ids.dims(), [2, 6]);
/// assert_eq!(batch.mask.to_vec2::<u32>()?, [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Prompts {
    tokenizer: Tokenizer,
    padding: u32,
}

const FILE_NAMES: [&str; 2] = ["tokenizer.json", "vocab.txt"];

/// What the file beside a vocabulary says of its case.
fn is_uncased(vocabulary: &Path) -> Result<bool> {
    let path = vocabulary.with_file_name("tokenizer_config.json");
    if !path.is_file() {
        return Ok(true);
    }
    let text = std::fs::read_to_string(&path).map_err(|e| file(&path, e))?;
    let config: serde_json::Value = serde_json::from_str(&text).map_err(|e| file(&path, e))?;
    let lower = config.get("do_lower_case");
    Ok(lower.and_then(serde_json::Value::as_bool).unwrap_or(true))
}

impl Prompts {
    /// Takes a tokenizer that frames each sentence with `[CLS]` and `[SEP]`.
    ///
    /// Padding and truncation that the tokenizer brings along are switched off: batches are
    /// padded here, and a sentence that is too long is an error rather than another
    /// sentence.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when it is not such a tokenizer.
    pub fn new(mut tokenizer: Tokenizer) -> Result<Self> {
        let special = |name: &str| {
            tokenizer
                .token_to_id(name)
                .ok_or_else(|| wrong(format!("a BERT tokenizer with a {name} token"), "none"))
        };
        let (padding, cls, sep) = (special("[PAD]")?, special("[CLS]")?, special("[SEP]")?);
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|e| wrong("a tokenizer without truncation", e))?;
        let prompts = Self { tokenizer, padding };
        let frame = prompts.ids("a")?;
        if frame.first() != Some(&cls) || frame.last() != Some(&sep) {
            let expected = "one that frames a sentence with [CLS] and [SEP]";
            return Err(wrong(expected, format!("ids {frame:?} for \"a\"")));
        }
        Ok(prompts)
    }

    /// Reads a `tokenizer.json`, or a `vocab.txt` of a BERT, which is uncased unless the
    /// `tokenizer_config.json` beside it says `"do_lower_case": false`.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read or is neither, [`Error::Tokenizer`] as
    /// [`new`](Self::new).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| file(path, e))?;
        if path.extension().is_some_and(|e| e == "txt") {
            let pieces = text.lines().map(|l| l.trim_end().to_string()).collect();
            let tokenizer = wordpiece::with_vocabulary(pieces, is_uncased(path)?)
                .map_err(|e| file(path, format!("not a WordPiece vocabulary: {e}")))?;
            return Self::new(tokenizer);
        }
        let tokenizer = text
            .parse::<Tokenizer>()
            .map_err(|e| file(path, format!("not a tokenizer.json: {e}")))?;
        Self::new(tokenizer)
    }

    /// The tokenizer's file in a folder, or beside a file of weights: `tokenizer.json`, or `vocab.txt`.
    ///
    /// # Errors
    /// [`Error::File`] naming the folder that has neither.
    pub fn find(checkpoint: impl AsRef<Path>) -> Result<PathBuf> {
        let path = checkpoint.as_ref();
        let folder = match path.is_dir() {
            true => path,
            false => path.parent().unwrap_or(Path::new("")),
        };
        let mut candidates = FILE_NAMES.iter().map(|name| folder.join(name));
        let missing = || file(folder, format!("no {} there", FILE_NAMES.join(" or ")));
        candidates.find(|p| p.is_file()).ok_or_else(missing)
    }

    /// Makes a small tokenizer for a model trained from scratch: a piece for each word of
    /// the sentences and for each letter.
    ///
    /// The same sentences give the same tokenizer, whatever their order.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the sentences cannot be split into words.
    pub fn from_sentences<S: AsRef<str>>(sentences: &[S]) -> Result<Self> {
        let tokenizer = wordpiece::from_sentences(sentences)
            .map_err(|e| wrong("sentences that can be split into words", e))?;
        Self::new(tokenizer)
    }

    /// Writes the tokenizer as `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.tokenizer.save(path, true).map_err(|e| file(path, e))
    }

    /// The tokenizer inside.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Number of word pieces.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The default transformer over this vocabulary.
    pub fn bert_config(&self) -> BertConfig {
        BertConfig {
            vocab: self.vocab_size(),
            ..BertConfig::default()
        }
    }

    /// Checks that a model was made for a vocabulary of this size, or of this size rounded up to 8, 16, 32, 64
    /// or 128.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] with both sizes.
    pub fn check(&self, bert: &BertConfig) -> Result<()> {
        let size = self.vocab_size();
        if TABLE_ROUNDING
            .iter()
            .any(|to| size.next_multiple_of(*to) == bert.vocab)
        {
            return Ok(());
        }
        let expected = format!("the {} word pieces that the model knows", bert.vocab);
        Err(wrong(
            expected,
            format!("{size}: this tokenizer belongs to another model"),
        ))
    }

    /// Turns sentences into ids, padded to the longest.
    ///
    /// # Shapes
    /// `B` sentences to two `[B, T]`.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty batch or an empty sentence.
    pub fn encode<S: AsRef<str>>(&self, sentences: &[S], device: &Device) -> Result<PromptBatch> {
        let mut rows = Vec::with_capacity(sentences.len());
        for sentence in sentences {
            let sentence = sentence.as_ref();
            if sentence.trim().is_empty() {
                return Err(empty("a question or an instruction", sentence));
            }
            rows.push(self.ids(sentence)?);
        }
        let Some(length) = rows.iter().map(Vec::len).max() else {
            return Err(empty("at least one sentence", ""));
        };
        let mut ids = Vec::with_capacity(rows.len() * length);
        let mut mask = Vec::with_capacity(rows.len() * length);
        for row in &rows {
            let padding = length - row.len();
            ids.extend(
                row.iter()
                    .copied()
                    .chain(std::iter::repeat_n(self.padding, padding)),
            );
            mask.extend(
                row.iter()
                    .map(|_| 1u32)
                    .chain(std::iter::repeat_n(0, padding)),
            );
        }
        let shape = (rows.len(), length);
        Ok(PromptBatch {
            ids: Tensor::from_vec(ids, shape, device)?,
            mask: Tensor::from_vec(mask, shape, device)?,
        })
    }

    fn ids(&self, sentence: &str) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(sentence, true)
            .map_err(|e| wrong(format!("a tokenizer that can read {sentence:?}"), e))?;
        Ok(encoding.get_ids().to_vec())
    }
}

fn wrong(expected: impl std::fmt::Display, got: impl std::fmt::Display) -> Error {
    Error::Tokenizer {
        expected: expected.to_string(),
        got: got.to_string(),
    }
}

fn empty(expected: &str, got: &str) -> Error {
    Error::Input {
        what: "prompt",
        expected: expected.to_string(),
        got: format!("{got:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_words_are_single_pieces_and_others_are_spelt() {
        let prompts = Prompts::from_sentences(&["Segment the heart."]).unwrap();
        let encoding = prompts.tokenizer().encode("The heart hat", true).unwrap();
        let tokens = ["[CLS]", "the", "heart", "h", "##a", "##t", "[SEP]"];
        assert_eq!(encoding.get_tokens(), tokens);
    }

    #[test]
    fn the_order_of_sentences_does_not_matter() {
        let one = Prompts::from_sentences(&["Is there a nodule?", "Segment it."]).unwrap();
        let two = Prompts::from_sentences(&["Segment it.", "Is there a nodule?"]).unwrap();
        let text = "is it a nodule?";
        assert_eq!(one.ids(text).unwrap(), two.ids(text).unwrap());
    }

    #[test]
    fn a_saved_tokenizer_reads_back_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let prompts = Prompts::from_sentences(&["Segment the heart."]).unwrap();
        prompts.save(&path).unwrap();
        let back = Prompts::from_file(&path).unwrap();
        assert_eq!(back.vocab_size(), prompts.vocab_size());
        let text = "Segment the left heart, please.";
        assert_eq!(back.ids(text).unwrap(), prompts.ids(text).unwrap());
    }

    #[test]
    fn a_vocabulary_file_is_a_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.txt");
        std::fs::write(
            &path,
            "[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nlung\n##s\n",
        )
        .unwrap();
        let prompts = Prompts::from_file(&path).unwrap();
        assert_eq!(prompts.ids("Lungs").unwrap(), [3, 6, 7, 4]);
    }

    #[test]
    fn bad_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let missing = Prompts::from_file(&path).unwrap_err().to_string();
        assert!(missing.contains("tokenizer.json"), "{missing}");
        std::fs::write(&path, "{}").unwrap();
        let broken = Prompts::from_file(&path).unwrap_err().to_string();
        assert!(broken.contains("not a tokenizer.json"), "{broken}");
        std::fs::write(folder.path().join("vocab.txt"), "a\nb\n[UNK]\n").unwrap();
        let useless = Prompts::from_file(folder.path().join("vocab.txt"));
        assert!(useless.is_err());
    }

    #[test]
    fn a_tokenizer_of_another_model_is_refused() {
        let prompts = Prompts::from_sentences(&["Segment the heart."]).unwrap();
        assert!(prompts.check(&prompts.bert_config()).is_ok());
        let error = prompts
            .check(&BertConfig::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("30522"), "{error}");
    }

    #[test]
    fn empty_prompts_are_refused() {
        let prompts = Prompts::from_sentences(&["Segment the heart."]).unwrap();
        assert!(prompts.encode(&["a", " "], &Device::Cpu).is_err());
        assert!(prompts.encode::<&str>(&[], &Device::Cpu).is_err());
    }
}
