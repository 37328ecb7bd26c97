//! A training loop of one's own: this project's data, model and losses, candle's optimiser.
//!
//! ```sh
//! cargo run --release -p uniferum-examples --example 06_own_training_loop -- 200
//! ```
//!
//! The number is that of training steps. `uniferum_train::Trainer` adds what long runs need: schedule,
//! clipping, gradients over several passes, validation, checkpoints that go on bit for bit.

use std::sync::Arc;

use candle_core::{DType, Device};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarMap};
use uniferum_data::{Batch, Dataset, Loader, Manifest, SamplerConfig, Split};
use uniferum_examples::{small_input, small_phantoms, standardise_cohort, temporary_folder};
use uniferum_fusion::{
    BertConfig, Freeze, Prompts, Uniferum, UniferumConfig, seeded_var_builder, trainable_vars,
};
use uniferum_metrics::losses::{LossConfig, MultitaskLoss, Targets, multitask_loss};
use uniferum_tasks::{Catalogue, Task};

fn main() -> anyhow::Result<()> {
    let steps = std::env::args().nth(1).map_or(Ok(3), |n| n.parse())?;
    let (folder, device) = (temporary_folder()?, Device::Cpu);

    // 1. Scans, labels and questions, as in 04_train_on_phantoms.
    let raw = small_phantoms(folder.path(), 8)?;
    let input = small_input();
    let ready = standardise_cohort(&raw, &folder.path().join("ready"), &input)?;
    let catalogue = Catalogue::standard();
    let manifest = Manifest::read(ready, &catalogue, "phantom")?;
    let mut tasks: Vec<Task> = catalogue.group("phantom").into_iter().cloned().collect();
    tasks.push(catalogue.resolve("anatomy.lungs")?);
    let dataset = Arc::new(Dataset::new(manifest, tasks, input.transform, 4, 1 << 28)?);

    // 2. A model from nothing. Its variables are candle's, for any optimiser.
    let sentences: Vec<&str> = dataset.tasks.iter().map(|t| t.prompt.as_str()).collect();
    let prompts = Prompts::from_sentences(&sentences)?;
    let config = UniferumConfig {
        bert: BertConfig {
            hidden: 96,
            heads: 4,
            intermediate: 192,
            ..prompts.bert_config()
        },
        ..UniferumConfig::default()
    };
    let vars = VarMap::new();
    let model = Uniferum::new(&config, seeded_var_builder(&vars, 0, DType::F32, &device))?;
    let trained = trainable_vars(&vars, Freeze::None);
    let parameters = ParamsAdamW {
        lr: 1e-3,
        ..ParamsAdamW::default()
    };
    let trained = trained.into_iter().map(|(_, var)| var).collect();
    let mut optimizer = AdamW::new(trained, parameters)?;

    // 3. Batches come from threads that read ahead; what is in them depends on seed and step alone.
    let loader = Loader {
        scans: dataset.manifest.of(Split::Train),
        dataset,
        sampler: SamplerConfig::default(),
        augment: None,
        scans_per_step: 2,
        questions_per_scan: 4,
        seed: 0,
        device,
    };
    for (step, batch) in loader.stream(0, steps).enumerate() {
        let batch = batch?;
        // Another dropout each step.
        model.set_dropout_seed(step as u64);
        let loss = loss(&model, &prompts, &batch)?;
        optimizer.backward_step(&loss.total)?;
        let (questions, total) = (batch.prompts.len(), loss.total.to_scalar::<f32>()?);
        println!(
            "step {:3}  loss {total:.4}  {questions} questions",
            step + 1
        );
    }
    Ok(())
}

/// Each scan is encoded once, however many questions are asked about it.
fn loss(model: &Uniferum, prompts: &Prompts, batch: &Batch) -> anyhow::Result<MultitaskLoss> {
    let text = prompts.encode(&batch.prompts, batch.images.device())?;
    let scans = model.vision().forward_t(&batch.images, true)?;
    let tokens = scans.index_select(&batch.image_of, 0)?;
    let answers = model.ask_t(&tokens, &text.ids, &text.mask)?;
    let targets = Targets {
        labels: &batch.labels,
        masks: &batch.masks,
        is_segmentation: &batch.is_segmentation,
    };
    let config = LossConfig::default();
    Ok(multitask_loss(
        &answers.cls,
        &answers.seg,
        &targets,
        &config,
    )?)
}
