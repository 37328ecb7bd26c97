//! The configuration behind a bare file of weights.

use std::collections::HashMap;

use candle_core::Tensor;
use uniferum_encoder::{EncoderConfig, Variant};

use crate::config::{BertConfig, NormPlacement, UniferumConfig};
use crate::error::{Result, config};

/// Width of a head in every published BERT.
pub(crate) const HEAD_WIDTH: usize = 64;

/// Deduces the configuration from the tensors' shapes.
///
/// Heads leave no trace in the shapes: they are taken to be 64 wide, as in BERT and
/// GatorTron.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) naming what the shapes do not tell.
pub fn infer_config(tensors: &HashMap<String, Tensor>) -> Result<UniferumConfig> {
    let hidden = dim(
        tensors,
        "model.embeddings.word_embeddings.weight",
        1,
        "bert.hidden",
    )?;
    if hidden == 0 || !hidden.is_multiple_of(HEAD_WIDTH) {
        let expected = format!("a model.json, or a width that is a multiple of {HEAD_WIDTH}");
        return Err(config(
            "bert.heads",
            expected,
            format!("a width of {hidden}"),
        ));
    }
    let mask_logits = dim(tensors, "lm_head_seg.weight", 0, "patch")?;
    let patch = (1..=32).find(|p: &usize| p.pow(3) == mask_logits);
    Ok(UniferumConfig {
        encoder: infer_encoder(tensors)?,
        bert: infer_bert(tensors, "model.")?,
        patch: patch
            .ok_or_else(|| config("patch", "a cube of mask logits for each token", mask_logits))?,
    })
}

/// Sizes of the transformer whose names begin with `prefix`.
pub(crate) fn infer_bert(tensors: &HashMap<String, Tensor>, prefix: &str) -> Result<BertConfig> {
    let dim = |name: &str, axis, field| dim(tensors, &format!("{prefix}{name}"), axis, field);
    let hidden = dim("embeddings.word_embeddings.weight", 1, "bert.hidden")?;
    let norm = if tensors.contains_key(&format!("{prefix}encoder.ln.weight")) {
        NormPlacement::Pre
    } else {
        NormPlacement::Post
    };
    let feed_forward = "encoder.layer.0.intermediate.dense.weight";
    Ok(BertConfig {
        hidden,
        heads: (hidden / HEAD_WIDTH).max(1),
        intermediate: dim(feed_forward, 0, "bert.intermediate")?,
        layers: layers(tensors, &format!("{prefix}encoder.layer.")),
        vocab: dim("embeddings.word_embeddings.weight", 0, "bert.vocab")?,
        max_positions: dim(
            "embeddings.position_embeddings.weight",
            0,
            "bert.max_positions",
        )?,
        type_vocab: dim(
            "embeddings.token_type_embeddings.weight",
            0,
            "bert.type_vocab",
        )?,
        norm,
        ..BertConfig::default()
    })
}

fn dim(
    tensors: &HashMap<String, Tensor>,
    name: &str,
    axis: usize,
    field: &'static str,
) -> Result<usize> {
    let found = tensors.get(name).and_then(|t| t.dims().get(axis).copied());
    found.ok_or_else(|| {
        let expected = format!("a model.json, or the tensor {name} to deduce it from");
        config(field, expected, "neither")
    })
}

fn layers(tensors: &HashMap<String, Tensor>, prefix: &str) -> usize {
    let index = |name: &String| {
        let rest = name.strip_prefix(prefix)?;
        rest.split('.').next()?.parse::<usize>().ok()
    };
    tensors.keys().filter_map(index).max().map_or(0, |i| i + 1)
}

fn infer_encoder(tensors: &HashMap<String, Tensor>) -> Result<EncoderConfig> {
    let shape = |name: &str| {
        let tensor = tensors.get(&format!("vision_model.model.{name}"))?;
        Some(tensor.dims().to_vec())
    };
    let in_channels = shape("conv_stem.weight").and_then(|s| s.get(1).copied());
    let candidates = [
        Variant::B0,
        Variant::B1,
        Variant::B2,
        Variant::B3,
        Variant::B4,
    ];
    for variant in candidates {
        let cfg = EncoderConfig {
            variant,
            in_channels: in_channels.unwrap_or(1),
        };
        let Some(last) = cfg.blocks().last().copied() else {
            continue;
        };
        let head = vec![cfg.out_channels(), last.out_channels, 1, 1, 1];
        let next = format!("blocks.{}.{}.conv_pw.weight", last.stage, last.index + 1);
        let same_depth = cfg
            .blocks()
            .iter()
            .all(|b| shape(&format!("blocks.{}.{}.conv_dw.weight", b.stage, b.index)).is_some());
        if shape("conv_head.weight") == Some(head) && same_depth && shape(&next).is_none() {
            return Ok(cfg);
        }
    }
    Err(config(
        "encoder.variant",
        "a model.json, or the tensors of an EfficientNet-B0 to B4 under vision_model.model.",
        "neither",
    ))
}
