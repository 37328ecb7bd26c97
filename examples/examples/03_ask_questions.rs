//! Asks one scan many questions: it is encoded once.
//!
//! ```sh
//! cargo run --release -p uniferum-examples --example 03_ask_questions -- \
//!     model.safetensors tokenizer.json scan.nii.gz
//! ```
//!
//! Without arguments the model has random weights and the scan is a phantom, so that the answers
//! mean nothing; `uniferum demo` leaves a trained model.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_nn::VarMap;
use uniferum::{InputStage, Predictor};
use uniferum_ct::{ReadOptions, read_ct};
use uniferum_data::InputSettings;
use uniferum_examples::{small_input, small_phantoms, temporary_folder};
use uniferum_fusion::{
    BertConfig, Prompts, Uniferum, UniferumConfig, checkpoint, seeded_var_builder,
};
use uniferum_tasks::Catalogue;

fn main() -> anyhow::Result<()> {
    let folder = temporary_folder()?;
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (model, tokenizer, scan) = match arguments.as_slice() {
        [model, tokenizer, scan] => (model.clone(), tokenizer.clone(), scan.clone()),
        _ => make_inputs(folder.path())?,
    };

    // Weights, words, and the preparation that the model was trained with (`input.json`).
    let predictor = Predictor::load(&model, &tokenizer, &Device::Cpu)?;
    let scan = read_ct(&scan, &ReadOptions::default())?;
    let input = predictor.prepare(&scan.volume, None, InputStage::Raw)?;

    // The expensive part, once for each scan.
    let encoded = predictor.encode(&input)?;

    // The cheap part, for as many questions as you like: of the catalogue, or in your own words.
    let catalogue = Catalogue::standard();
    let mut tasks: Vec<_> = catalogue.group("ct-rate").into_iter().cloned().collect();
    tasks.push(catalogue.resolve("Diagnose the presence of a foreign body in the airway")?);
    tasks.push(catalogue.resolve("anatomy.heart")?);
    for answer in predictor.ask(&encoded, &tasks)? {
        println!("{:6.3}  {}", answer.probability, answer.task.prompt);
        if let Some(mask) = &answer.mask {
            let volume = input.in_scan(mask.view())?;
            let inside = volume.voxels.iter().filter(|p| **p >= 0.5).count();
            let millilitres = volume.spacing().iter().product::<f64>() * inside as f64 / 1e3;
            println!("        {inside} voxels of the scan, {millilitres:.0} ml");
        }
    }
    Ok(())
}

/// A checkpoint with random weights, its tokenizer, and a phantom.
fn make_inputs(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf, PathBuf)> {
    let catalogue = Catalogue::standard();
    let sentences: Vec<&str> = catalogue
        .tasks()
        .iter()
        .map(|t| t.prompt.as_str())
        .collect();
    let prompts = Prompts::from_sentences(&sentences)?;
    let bert = BertConfig {
        hidden: 96,
        heads: 4,
        intermediate: 192,
        ..prompts.bert_config()
    };
    let config = UniferumConfig {
        bert,
        ..UniferumConfig::default()
    };
    let vars = VarMap::new();
    Uniferum::new(
        &config,
        seeded_var_builder(&vars, 0, DType::F32, &Device::Cpu),
    )?;

    let (model, tokenizer) = (
        folder.join("model.safetensors"),
        folder.join("tokenizer.json"),
    );
    checkpoint::save(&model, &vars, &config)?;
    prompts.save(&tokenizer)?;
    let settings: InputSettings = small_input();
    settings.save(folder)?;
    let cohort = small_phantoms(folder, 10)?;
    Ok((
        model,
        tokenizer,
        cohort.join("scans").join("phantom-0003.nii.gz"),
    ))
}
