//! Transformer and whole model in evaluation.

use uniferum_encoder::Precision;
use uniferum_fusion::{Bert, BertConfig, NormPlacement, Uniferum};

use crate::{assert_close, formula, golden, prompt_batch, small};

#[test]
fn both_kinds_of_transformer_agree() {
    let golden = golden("bert.safetensors");
    for (norm, key) in [(NormPlacement::Post, "post"), (NormPlacement::Pre, "pre")] {
        let cfg = BertConfig {
            norm,
            ..small().bert
        };
        let (ids, mask) = prompt_batch(cfg.vocab);
        let bert = Bert::new(&cfg, formula::builder()).unwrap();
        assert_close(&bert.forward(&ids, &mask).unwrap(), &golden[key], 1e-4, key);
    }
}

#[test]
fn logits_of_both_heads_agree() {
    let golden = golden("logits.safetensors");
    let cfg = small();
    let model = Uniferum::new(&cfg, formula::builder()).unwrap();
    let (ids, mask) = prompt_batch(cfg.bert.vocab);
    for [x, y, z] in [[64, 32, 96], [45, 70, 33]] {
        let side = format!("{x}x{y}x{z}");
        let image = formula::values(&format!("{side}.image"), (2, 1, x, y, z));
        let output = model.forward_t(&image, &ids, &mask, false).unwrap();
        assert_close(&output.cls, &golden[&format!("{side}.cls")], 1e-4, "cls");
        assert_close(&output.seg, &golden[&format!("{side}.seg")], 1e-4, "seg");
    }
}

#[test]
fn asking_many_questions_at_once_is_asking_them_one_by_one() {
    let cfg = small();
    let model = Uniferum::new(&cfg, formula::builder()).unwrap();
    let (ids, mask) = prompt_batch(cfg.bert.vocab);
    let image = formula::values("asked.image", (1, 1, 32, 64, 32));
    let tokens = model.encode(&image).unwrap();
    let together = model.ask(&tokens, &ids, &mask).unwrap();
    for question in 0..2 {
        let row = |t: &candle_core::Tensor| t.narrow(0, question, 1).unwrap();
        let alone = model
            .forward_t(&image, &row(&ids), &row(&mask), false)
            .unwrap();
        assert_close(&alone.cls, &row(&together.cls), 1e-5, "cls");
        assert_close(&alone.seg, &row(&together.seg), 1e-5, "seg");
    }
}

#[test]
fn many_questions_pass_the_packed_maps_and_answer_as_the_padded_batch_does() {
    for norm in [NormPlacement::Post, NormPlacement::Pre] {
        let mut cfg = small();
        cfg.bert.norm = norm;
        let mut model = Uniferum::new(&cfg, formula::builder()).unwrap();
        let image = formula::values("image", (1, 1, 64, 64, 64));
        let (ids, mask) = prompt_batch(cfg.bert.vocab);
        let [ids, mask] = [ids, mask].map(|t| candle_core::Tensor::cat(&vec![t; 8], 0).unwrap());
        let padded = model.forward_t(&image, &ids, &mask, false).unwrap();
        let packed = model.ask(&model.encode(&image).unwrap(), &ids, &mask);
        let packed = packed.unwrap();
        assert_close(&packed.cls, &padded.cls, 1e-5, "classification");
        assert_close(&packed.seg, &padded.seg, 1e-5, "masks");
        model.set_inference_precision(Precision::Bf16);
        let packed = model.ask(&model.encode(&image).unwrap(), &ids, &mask);
        let packed = packed.unwrap();
        assert_close(&packed.cls, &padded.cls, 4e-2, "classification in bf16");
        assert_close(&packed.seg, &padded.seg, 4e-2, "masks in bf16");
    }
}

#[test]
fn each_head_alone_answers_as_both_do_and_as_the_padded_batch() {
    for norm in [NormPlacement::Post, NormPlacement::Pre] {
        let mut cfg = small();
        cfg.bert.norm = norm;
        let model = Uniferum::new(&cfg, formula::builder()).unwrap();
        let image = formula::values("image", (1, 1, 64, 64, 64));
        let (ids, mask) = prompt_batch(cfg.bert.vocab);
        let padded = model.forward_t(&image, &ids, &mask, false).unwrap();
        let tokens = model.encode(&image).unwrap();
        let both = model.ask(&tokens, &ids, &mask).unwrap();
        assert_close(&both.cls, &padded.cls, 1e-5, "packed classification");
        assert_close(&both.seg, &padded.seg, 1e-5, "packed masks");
        let cls = model.classify(&tokens, &ids, &mask).unwrap();
        assert_close(&cls, &both.cls, 1e-5, "classification alone");
        let seg = model.segment(&tokens, &ids, &mask).unwrap();
        assert_close(&seg, &both.seg, 1e-5, "masks alone");
    }
}
