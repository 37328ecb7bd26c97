//! What the demonstration leaves: tables, numbers and a page to look at.

use std::path::Path;

use anyhow::Context;
use ndarray::Array3;
use uniferum::report::evaluation::{add_evaluation, mean_auroc};
use uniferum::report::html::Page;
use uniferum::report::plots::{Series, series_svg};
use uniferum::report::slices::{Overlay, Plane, Window, fullest_slice, inline_image, slice_png};
use uniferum::{InputStage, Predictor};
use uniferum_data::Dataset;
use uniferum_tasks::{Task, TaskKind};
use uniferum_train::EvaluationReport;

use super::plan::Plan;

const PREDICTED: [u8; 3] = [255, 140, 0];
const TRUE: [u8; 3] = [0, 170, 255];

/// What the page tells besides the evaluation.
pub(super) struct Story<'a> {
    pub(super) plan: &'a Plan,
    pub(super) parameters: usize,
    pub(super) train_scans: usize,
    pub(super) test_scans: &'a [usize],
    pub(super) log: &'a [Step],
}

/// What the page needs of a line of the training log.
#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct Step {
    step: u64,
    label_loss: Option<f32>,
    mask_loss: Option<f32>,
}

/// The steps of `log.jsonl`; of one that was done twice, because a run was stopped, the later.
pub(super) fn read_log(path: &Path) -> anyhow::Result<Vec<Step>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut steps = std::collections::BTreeMap::new();
    for step in text
        .lines()
        .filter_map(|l| serde_json::from_str::<Step>(l).ok())
    {
        steps.insert(step.step, step);
    }
    Ok(steps.into_values().collect())
}

/// `metrics.json`.
pub(super) fn write_metrics(path: &Path, report: &EvaluationReport) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// `report.html`.
pub(super) fn write_page(
    path: &Path,
    story: &Story<'_>,
    report: &EvaluationReport,
    predictor: &Predictor,
    dataset: &Dataset,
) -> anyhow::Result<()> {
    let mut page = Page::new("Uniferum on synthetic chest CT");
    page.note(
        "One model answers all questions: each scan was encoded once, then asked for every finding, \
         the outcome and the organs by a sentence. All scans are synthetic; nothing here says how \
         well the model would do on patients.",
    );
    page.facts(&key_figures(story, report));
    add_evaluation(&mut page, report);
    page.section("Masks on test scans");
    page.note(
        "Orange: predicted probability. Blue: the true mask. Patient's right is on the left.",
    );
    page.figures(&mask_figures(story, predictor, dataset)?);
    page.section("Training");
    page.figures(&[(
        training_curve(story.log),
        "Mean loss by kind of question".to_owned(),
    )]);
    let folder = path.parent().unwrap_or(Path::new(".")).display();
    let first = story
        .test_scans
        .first()
        .map(|&scan| dataset.manifest.scans[scan].name());
    let name = first.unwrap_or_else(|| "phantom-0000".to_owned());
    page.note(&format!(
        "The settings are in demo.json, the model in model.safetensors and model.json. Ask it about \
         a test scan, as predictions.csv has it: uniferum predict {folder}/phantoms/scans/{name}.nii.gz \
         --mask {folder}/phantoms/masks/{name}.nii.gz --checkpoint {folder}/model.safetensors --tasks phantom",
    ));
    page.write(path).with_context(|| path.display().to_string())
}

fn key_figures(story: &Story<'_>, report: &EvaluationReport) -> Vec<(String, String)> {
    let [x, y, z] = story.plan.input.transform.shape;
    let fact = |name: &str, value: String| (name.to_owned(), value);
    vec![
        fact(
            "macro AUROC on test scans (95 % interval)",
            mean_auroc(&report.labels),
        ),
        fact(
            "training / test scans",
            format!("{} / {}", story.train_scans, story.test_scans.len()),
        ),
        fact(
            "trained parameters",
            format!("{:.1} million", story.parameters as f64 / 1e6),
        ),
        fact("voxels of the model's array", format!("{x} x {y} x {z}")),
        fact("training steps", story.plan.train.steps.to_string()),
    ]
}

/// Two test scans with each of the organs.
fn mask_figures(
    story: &Story<'_>,
    predictor: &Predictor,
    dataset: &Dataset,
) -> anyhow::Result<Vec<(String, String)>> {
    let is_mask = |t: &&Task| t.kind == TaskKind::Segmentation && !t.is_nodule();
    let tasks: Vec<Task> = dataset.tasks.iter().filter(is_mask).cloned().collect();
    let mut figures = Vec::new();
    for &scan in story.test_scans.iter().take(2) {
        let example = dataset.example(scan)?;
        let volume =
            uniferum_ct::Volume::new(example.volume.voxels.mapv(f32::from), example.volume.affine);
        let input = predictor.prepare(&volume, None, InputStage::Standardised)?;
        let answers = predictor.ask(&predictor.encode(&input)?, &tasks)?;
        for answer in &answers {
            let Some(cells) = &answer.mask else { continue };
            let Some(mask) = &example.mask else { continue };
            let image = input.array();
            let transform = &predictor.settings().transform;
            let truth = transform.model_mask(mask, &answer.task.mask_labels)?;
            let truth = truth.mapv(f32::from);
            let predicted = enlarged(cells, image.dim());
            let picture = picture(image, &predicted, &truth, coronal_mm(predictor))?;
            let caption = format!(
                "{} · {}",
                dataset.manifest.scans[scan].name(),
                answer.task.name
            );
            figures.push((picture, caption));
        }
    }
    Ok(figures)
}

/// Width and height of the model's field of view from the front, mm: a pixel each.
fn coronal_mm(predictor: &Predictor) -> [u32; 2] {
    let settings = predictor.settings();
    let (spacing, crop) = (settings.standardise.spacing_mm, settings.transform.crop);
    [0, 2].map(|axis| (spacing[axis] * crop[axis] as f64).round() as u32)
}

/// Truth and prediction side by side, in the coronal slice that shows most of the truth.
fn picture(
    image: &Array3<f32>,
    predicted: &Array3<f32>,
    truth: &Array3<f32>,
    size: [u32; 2],
) -> anyhow::Result<String> {
    let plane = Plane::Coronal;
    let index = fullest_slice(truth, plane);
    let mut pair = String::new();
    for (mask, colour, what) in [
        (truth, TRUE, "true mask"),
        (predicted, PREDICTED, "prediction"),
    ] {
        let overlay = Overlay {
            mask,
            colour,
            opacity: 0.45,
        };
        let png = slice_png(image, plane, index, Window::CHEST, &[overlay])?;
        pair.push_str(&inline_image(&png, size, what));
    }
    Ok(format!("<div style=\"display:flex;gap:4px\">{pair}</div>"))
}

/// Repeats each cell so that the mask covers the image.
fn enlarged(cells: &Array3<f32>, (x, y, z): (usize, usize, usize)) -> Array3<f32> {
    let (a, b, c) = cells.dim();
    Array3::from_shape_fn((x, y, z), |(i, j, k)| {
        cells[[i * a / x, j * b / y, k * c / z]]
    })
}

fn training_curve(log: &[Step]) -> String {
    let points = |f: fn(&Step) -> Option<f32>| -> Vec<(f64, f64)> {
        let point = |p: &Step| Some((p.step as f64, f64::from(f(p)?)));
        log.iter().filter_map(point).collect()
    };
    let width = log.len().div_ceil(60);
    let series = [
        Series::averaged("labels", &points(|p| p.label_loss), width),
        Series::averaged("masks (weighted)", &points(|p| p.mask_loss), width),
    ];
    series_svg("Training loss", ("step", "loss"), &series)
}
