//! The transformer against candle-transformers' BERT, which can infer but not train.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert;
use uniferum_fusion::{Bert, BertConfig, checkpoint::tensor_shapes};

use crate::{assert_close, formula, prompt_batch, small};

#[test]
fn text_encodes_as_with_candle_transformers() {
    let cfg = small();
    let tensors: HashMap<String, Tensor> = tensor_shapes(&cfg)
        .unwrap()
        .into_iter()
        .filter_map(|(name, shape)| {
            let own = name.strip_prefix("model.")?;
            Some((own.to_string(), formula::values(own, shape)))
        })
        .collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let (ids, mask) = prompt_batch(cfg.bert.vocab);
    let ours = Bert::new(&cfg.bert, vb.clone()).unwrap();
    let theirs = bert::BertModel::load(vb, &their_config(&cfg.bert)).unwrap();
    let types = ids.zeros_like().unwrap();
    let expected = theirs.forward(&ids, &types, Some(&mask)).unwrap();
    let got = ours.forward(&ids, &mask).unwrap();
    assert_close(&got, &expected, 1e-5, "hidden states");
}

fn their_config(cfg: &BertConfig) -> bert::Config {
    bert::Config {
        vocab_size: cfg.vocab,
        hidden_size: cfg.hidden,
        num_hidden_layers: cfg.layers,
        num_attention_heads: cfg.heads,
        intermediate_size: cfg.intermediate,
        max_position_embeddings: cfg.max_positions,
        type_vocab_size: cfg.type_vocab,
        layer_norm_eps: cfg.eps,
        ..bert::Config::default()
    }
}
