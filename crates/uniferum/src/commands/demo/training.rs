//! The demonstration's two trainings: the encoder alone, then the whole model.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use indicatif::ProgressBar;
use uniferum::fusion::Prompts;
use uniferum_data::{Dataset, Loader, Split};
use uniferum_tasks::{Catalogue, TaskKind};
use uniferum_train::{Baseline, BaselineConfig, Fusion, Learner, TrainConfig, Trainer};

use super::CACHE_BYTES;
use super::plan::Plan;
use crate::global::Global;

/// Trains the model in `out`, or goes on where a stopped run was.
pub(super) fn train(
    out: &Path,
    plan: &Plan,
    catalogue: &Catalogue,
    dataset: &Arc<Dataset>,
    global: &Global,
) -> anyhow::Result<Trainer> {
    let all = catalogue.tasks().iter();
    let sentences: Vec<&str> = all.map(|t| t.prompt.as_str()).collect();
    let prompts = Prompts::from_sentences(&sentences)?;
    prompts.save(out.join("tokenizer.json"))?;
    plan.input.save(out)?;
    let model = plan.model(&prompts);
    let mut trainer = Trainer::<Fusion>::new(&model, prompts, plan.train.clone(), &Device::Cpu)?;
    let encoder = encoder(out, plan, dataset, global)?;
    trainer.learner().take_encoder(encoder.learner())?;
    drop(encoder);
    let loader = loader(dataset, plan, &plan.train);
    let (summary, steps) = loader.summary();
    let epochs = plan.train.steps as f64 / steps as f64;
    global.hint(format!(
        "{} scans, {epochs:.1} epochs of {steps} steps; an epoch asks\n  {}",
        loader.scans.len(),
        summary.join("\n  ")
    ));
    let bar = global.bar(plan.train.steps, "training");
    run(&mut trainer, &out.join("run"), &loader, &bar)?;
    Ok(trainer)
}

/// The image encoder with a logit a label, the paper's baseline.
///
/// From random weights the transformer learns next to nothing before the encoder shows it something; the
/// paper starts from ImageNet, of which a demonstration without downloads has nothing.
fn encoder(
    out: &Path,
    plan: &Plan,
    dataset: &Dataset,
    global: &Global,
) -> anyhow::Result<Trainer<Baseline>> {
    let is_label = |t: &&uniferum_tasks::Task| t.kind != TaskKind::Segmentation;
    let labels: Vec<_> = dataset.tasks.iter().filter(is_label).cloned().collect();
    let recipe = plan.encoder_recipe();
    let config = BaselineConfig {
        dropout: 0.0,
        ..BaselineConfig::default()
    };
    let baseline = Baseline::new(&config.for_tasks(&labels), &recipe, &Device::Cpu)?;
    let mut trainer = Trainer::with(baseline, recipe.clone(), &Device::Cpu)?;
    let transform = plan.input.transform.clone();
    let manifest = dataset.manifest.clone();
    let labelled = Arc::new(Dataset::new(manifest, labels, transform, 4, CACHE_BYTES)?);
    let loader = loader(&labelled, plan, &recipe);
    let bar = global.bar(recipe.steps, "encoder");
    run(&mut trainer, &out.join("encoder"), &loader, &bar)?;
    Ok(trainer)
}

fn loader(dataset: &Arc<Dataset>, plan: &Plan, recipe: &TrainConfig) -> Loader {
    Loader {
        dataset: Arc::clone(dataset),
        scans: dataset.manifest.of(Split::Train),
        sampler: recipe.sampler,
        augment: Some(plan.augment.clone()),
        scans_per_step: recipe.scans_per_step,
        questions_per_scan: recipe.questions_per_scan,
        seed: plan.seed,
        device: Device::Cpu,
    }
}

fn run<L: Learner>(
    trainer: &mut Trainer<L>,
    folder: &Path,
    loader: &Loader,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let done = trainer.resume_in(folder)?;
    bar.set_position(done);
    bar.reset_eta();
    trainer.run(loader, |p| {
        bar.set_position(p.step);
        bar.set_message(format!("loss {:.3}", p.loss));
    })?;
    bar.finish_and_clear();
    Ok(())
}
