//! Trains on synthetic scans: labels and masks mixed in one batch, then asks unseen scans.
//!
//! ```sh
//! cargo run --release -p uniferum-examples --example 04_train_on_phantoms -- 200
//! ```
//!
//! The number is that of training steps. The default of 3 shows the moving parts and learns
//! nothing; `uniferum demo` is the same at a size that learns.

use std::sync::Arc;

use candle_core::Device;
use uniferum_ct::transform::Augment;
use uniferum_data::{Dataset, Loader, Manifest, Split};
use uniferum_examples::{small_input, small_phantoms, standardise_cohort, temporary_folder};
use uniferum_fusion::{BertConfig, Prompts, UniferumConfig};
use uniferum_tasks::{Catalogue, Task};
use uniferum_train::{Intervals, TrainConfig, Trainer, evaluate};

fn main() -> anyhow::Result<()> {
    let steps = std::env::args().nth(1).map_or(Ok(3), |n| n.parse())?;
    let folder = temporary_folder()?;

    // 1. Scans with labels and masks, brought to one grid.
    let raw = small_phantoms(folder.path(), 12)?;
    let input = small_input();
    let ready = standardise_cohort(&raw, &folder.path().join("ready"), &input)?;

    // 2. One table for everything: here the phantoms', elsewhere several collections'.
    let catalogue = Catalogue::standard();
    let manifest = Manifest::read(ready, &catalogue, "phantom")?;
    let mut tasks: Vec<Task> = catalogue.group("phantom").into_iter().cloned().collect();
    tasks.extend(
        ["anatomy.lungs", "anatomy.heart"]
            .map(|id| catalogue.resolve(id))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?,
    );
    let dataset = Arc::new(Dataset::new(manifest, tasks, input.transform, 4, 1 << 28)?);

    // 3. The paper's architecture, narrower, over the words of these questions.
    let sentences: Vec<&str> = dataset.tasks.iter().map(|t| t.prompt.as_str()).collect();
    let prompts = Prompts::from_sentences(&sentences)?;
    let model = UniferumConfig {
        bert: BertConfig {
            hidden: 96,
            heads: 4,
            intermediate: 192,
            ..prompts.bert_config()
        },
        ..UniferumConfig::default()
    };

    // 4. The loop. `TrainConfig::default()` is the paper's recipe.
    let config = TrainConfig {
        steps,
        scans_per_step: 4,
        questions_per_scan: 4,
        learning_rate: 1e-3,
        warmup_steps: steps.min(10),
        ..TrainConfig::default()
    };
    let loader = Loader {
        dataset: Arc::clone(&dataset),
        scans: dataset.manifest.of(Split::Train),
        sampler: config.sampler,
        augment: Some(Augment::default()),
        scans_per_step: config.scans_per_step,
        questions_per_scan: config.questions_per_scan,
        seed: config.seed,
        device: Device::Cpu,
    };
    let mut trainer = Trainer::new(&model, prompts, config, &Device::Cpu)?;
    println!("{} parameters", trainer.parameters());
    trainer.run(&loader, |p| {
        println!(
            "step {:3}  loss {:.4}  {} questions",
            p.step, p.loss, p.questions
        );
    })?;

    // 5. Scans that it has not seen, with intervals.
    let test = dataset.manifest.of(Split::Test);
    let (model, prompts) = (trainer.model(), trainer.prompts());
    let intervals = Intervals::default();
    let report = evaluate(
        model,
        prompts,
        &dataset,
        &test,
        &Device::Cpu,
        &intervals,
        || {},
    )?;
    for task in &report.labels.tasks {
        let m = &task.metrics;
        println!(
            "{:45} AUROC {:.2?} [{:.2?}, {:.2?}]",
            m.task, m.auroc, m.ci_low, m.ci_high
        );
    }
    Ok(())
}
