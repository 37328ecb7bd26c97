//! A small WordPiece tokenizer made from the sentences that it will have to read.

use std::collections::BTreeSet;

use tokenizers::decoders::wordpiece::WordPiece as Decoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

/// BERT's special tokens in the order of its own vocabulary.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const CLS: u32 = 2;
const SEP: u32 = 3;

/// One piece for each word of the sentences, and one for each letter both at the beginning
/// and inside of a word, so that other English words can still be spelt.
pub(crate) fn from_sentences<S: AsRef<str>>(sentences: &[S]) -> tokenizers::Result<Tokenizer> {
    let mut pieces = BTreeSet::new();
    for character in ('a'..='z').chain('0'..='9') {
        pieces.insert(character.to_string());
        pieces.insert(format!("##{character}"));
    }
    for character in ".,;:?!()-/'%".chars() {
        pieces.insert(character.to_string());
    }
    let splitter = with_vocabulary(SPECIAL.map(String::from).to_vec(), true)?;
    for sentence in sentences {
        for word in words(&splitter, sentence.as_ref())? {
            pieces.insert(word);
        }
    }
    let vocabulary = SPECIAL.map(String::from).into_iter().chain(pieces);
    with_vocabulary(vocabulary.collect(), true)
}

/// BERT's tokenizer over a vocabulary, of which the line number is the id.
pub(crate) fn with_vocabulary(
    pieces: Vec<String>,
    lowercase: bool,
) -> tokenizers::Result<Tokenizer> {
    let id = |piece: &str, usual: u32| {
        let found = pieces.iter().position(|p| p == piece);
        found.map_or(usual, |i| i as u32)
    };
    let (cls, sep) = (id("[CLS]", CLS), id("[SEP]", SEP));
    let model = WordPiece::builder()
        .vocab(WordPiece::read_bytes(pieces.join("\n").as_bytes())?)
        .unk_token("[UNK]".into())
        .build()?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase)))?
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_post_processor(Some(BertProcessing::new(
            ("[SEP]".into(), sep),
            ("[CLS]".into(), cls),
        )))
        .with_decoder(Some(Decoder::default()));
    tokenizer.add_special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)))?;
    Ok(tokenizer)
}

/// Splits a sentence into the words that WordPiece would be given.
fn words(tokenizer: &Tokenizer, sentence: &str) -> tokenizers::Result<Vec<String>> {
    use tokenizers::{
        NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
        PreTokenizer,
    };
    let mut text = NormalizedString::from(sentence);
    if let Some(normalizer) = tokenizer.get_normalizer() {
        normalizer.normalize(&mut text)?;
    }
    let mut split = PreTokenizedString::from(text);
    BertPreTokenizer.pre_tokenize(&mut split)?;
    Ok(split
        .get_splits(OffsetReferential::Normalized, OffsetType::Byte)
        .into_iter()
        .map(|(word, _, _)| word.to_string())
        .collect())
}
