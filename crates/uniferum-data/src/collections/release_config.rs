//! The training file of the paper's public release, read into this project's settings.

use std::path::Path;

use serde_json::{Map, Value, json};
use uniferum_ct::transform::{Augment, ModelTransform};

use crate::error::{Error, Result};

/// What a YAML file of the release says, in this project's terms.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseConfig {
    /// Settings of training by the names of `uniferum_train::TrainConfig`; what the file leaves open is
    /// as the release's trainer has it.
    pub train: Map<String, Value>,
    /// The model's array.
    pub transform: ModelTransform,
    /// Augmentation; [`Augment::none`] where the file has none.
    pub augment: Augment,
    /// Layers of the fusion transformer.
    pub bert_layers: usize,
    /// Where the transformer begins, such as a name on the Hugging Face hub.
    pub text_model: Option<String>,
    /// The image encoder's timm name.
    pub image_model: Option<String>,
    /// The table of questions.
    pub input_file: Option<String>,
    /// The folder of results.
    pub output_dir: Option<String>,
    /// What has no counterpart here, or differs.
    pub notes: Vec<String>,
}

/// Keys of `hf_TrainingArguments` and ours.
const NUMBERS: [(&str, &str); 9] = [
    ("max_steps", "steps"),
    ("learning_rate", "learning_rate"),
    ("warmup_steps", "warmup_steps"),
    ("weight_decay", "weight_decay"),
    ("max_grad_norm", "clip_norm"),
    ("adam_beta1", "beta1"),
    ("adam_beta2", "beta2"),
    ("seed", "seed"),
    ("save_total_limit", "keep_checkpoints"),
];

/// Those of [`NUMBERS`] that are no counts.
const FRACTIONS: [&str; 5] = [
    "learning_rate",
    "weight_decay",
    "clip_norm",
    "beta1",
    "beta2",
];

/// Keys that [`training`] reads besides.
const OTHERS: [&str; 7] = [
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "save_steps",
    "eval_steps",
    "bf16",
    "fp16",
    "lr_scheduler_type",
];

/// Keys that say nothing about the result.
const IDLE: [&str; 10] = [
    "dataloader_num_workers",
    "logging_steps",
    "logging_dir",
    "output_dir",
    "remove_unused_columns",
    "report_to",
    "eval_strategy",
    "evaluation_strategy",
    "save_strategy",
    "dataloader_pin_memory",
];

const TOP: [&str; 9] = [
    "hf_TrainingArguments",
    "input_file",
    "llm_args",
    "vision_args",
    "predict_transform",
    "train_transform",
    "train_transform_imgonly",
    "freeze_llm",
    "loss_fct_cls",
];

impl ReleaseConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Table`] where it is no YAML, a value has the wrong type, or a transform has no counterpart.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::table(path, None, e))?;
        Self::parse(&text).map_err(|what| Error::table(path, None, what))
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// A sentence with the key.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let root: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        let root = root
            .as_object()
            .ok_or("the file is no list of keys and values")?;
        let mut notes = Vec::new();
        for key in root.keys().filter(|k| !TOP.contains(&k.as_str())) {
            notes.push(format!("{key} has no counterpart and is left out"));
        }
        let section = |name: &str| root.get(name).and_then(Value::as_object);
        let arguments = section("hf_TrainingArguments").ok_or("no hf_TrainingArguments")?;
        let mut train = training(arguments, &mut notes)?;
        // The release freezes the transformer unless told otherwise.
        let frozen = root
            .get("freeze_llm")
            .and_then(Value::as_bool)
            .unwrap_or(true);
        train.insert("freeze".into(), json!(if frozen { "bert" } else { "none" }));
        let text_of = |section: Option<&Map<String, Value>>, key: &str| {
            Some(section?.get(key)?.as_str()?.to_owned())
        };
        let (llm, vision) = (section("llm_args"), section("vision_args"));
        let image = vision.and_then(|v| v.get("model_args")?.as_object());
        let layers = llm.and_then(|l| l.get("bert_encoder_layers")?.as_u64());
        let transform = model_transform(root.get("predict_transform"))?;
        let augment = augment(root, &transform, &mut notes)?;
        let unused = [
            (Some(root), "loss_fct_cls"),
            (vision, "seqlen"),
            (llm, "model_class"),
        ];
        let unused = unused
            .into_iter()
            .filter(|(section, key)| section.is_some_and(|section| section.contains_key(*key)));
        notes.extend(unused.map(|(_, key)| format!("{key} has no counterpart and is left out")));
        notes.push(
            "the release reads volumes that it standardised itself: prepare with compat = \"release\"".into(),
        );
        Ok(ReleaseConfig {
            train,
            transform,
            augment,
            bert_layers: layers.unwrap_or(4) as usize,
            text_model: text_of(llm, "model_id"),
            image_model: text_of(image, "model_name"),
            input_file: root.get("input_file").and_then(plain),
            output_dir: arguments.get("output_dir").and_then(plain),
            notes,
        })
    }
}

/// Text; the release's own file has `[INPUT_PARQUET]` to fill in, which is a list.
fn plain(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// A number, also one that YAML 1.2 takes for text, such as `5.e-5`.
fn number(key: &str, value: &Value) -> std::result::Result<f64, String> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    number.ok_or_else(|| format!("{key}: expected a number, got {value}"))
}

/// A count without its point; what is none stays as it is, for whoever checks the setting to refuse.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value >= 0.0 {
        json!(value as u64)
    } else {
        json!(value)
    }
}

/// The settings of training by our names; what has no counterpart becomes a note.
fn training(
    arguments: &Map<String, Value>,
    notes: &mut Vec<String>,
) -> std::result::Result<Map<String, Value>, String> {
    let get = |key: &str| arguments.get(key).map(|v| number(key, v)).transpose();
    let mut train = Map::new();
    train.insert("seed".into(), json!(42));
    for (theirs, ours) in NUMBERS {
        if let Some(value) = get(theirs)? {
            let value = if FRACTIONS.contains(&ours) {
                json!(value)
            } else {
                whole(value)
            };
            train.insert(ours.into(), value);
        }
    }
    let per_pass = get("per_device_train_batch_size")?.unwrap_or(8.0);
    let passes = get("gradient_accumulation_steps")?.unwrap_or(1.0);
    train.insert("scans_per_pass".into(), whole(per_pass));
    train.insert("scans_per_step".into(), whole(per_pass * passes));
    let save = get("save_steps")?.unwrap_or(500.0);
    train.insert("checkpoint_every".into(), whole(save));
    train.insert(
        "validate_every".into(),
        whole(get("eval_steps")?.unwrap_or(save)),
    );
    let flag = |key: &str| arguments.get(key).and_then(Value::as_bool).unwrap_or(false);
    if flag("bf16") {
        train.insert("precision".into(), json!("bf16"));
    }
    if flag("fp16") {
        notes.push("fp16 has no counterpart: single precision is used".into());
    }
    let scheduler = arguments.get("lr_scheduler_type").and_then(Value::as_str);
    if scheduler.is_some_and(|s| s != "linear") {
        return Err(format!(
            "lr_scheduler_type: only linear is known, got {scheduler:?}"
        ));
    }
    let known = |key: &str| {
        NUMBERS.iter().any(|(theirs, _)| *theirs == key)
            || OTHERS.contains(&key)
            || IDLE.contains(&key)
    };
    for key in arguments.keys().filter(|k| !known(k)) {
        notes.push(format!(
            "hf_TrainingArguments.{key} has no counterpart and is left out"
        ));
    }
    Ok(train)
}

/// The steps of a list of transforms by name.
fn steps(list: Option<&Value>) -> Vec<(&str, &Map<String, Value>)> {
    let list = list.and_then(Value::as_array);
    let entries = list.into_iter().flatten().filter_map(Value::as_object);
    entries
        .filter_map(|e| Some((e.get("name")?.as_str()?, e)))
        .collect()
}

fn size(step: &Map<String, Value>, key: &str) -> std::result::Result<[usize; 3], String> {
    let list = step.get(key).and_then(Value::as_array);
    let sides: Option<Vec<usize>> =
        list.and_then(|l| l.iter().map(|v| v.as_u64().map(|n| n as usize)).collect());
    sides
        .and_then(|s| s.try_into().ok())
        .ok_or_else(|| format!("{key}: expected three sizes"))
}

fn model_transform(list: Option<&Value>) -> std::result::Result<ModelTransform, String> {
    let mut transform = ModelTransform::default();
    for (name, step) in steps(list) {
        match name {
            "SpatialPad" => transform.crop = size(step, "spatial_size")?,
            "CenterSpatialCrop" => transform.crop = size(step, "roi_size")?,
            "Resize" => transform.shape = size(step, "spatial_size")?,
            other => return Err(format!("predict_transform: {other} has no counterpart")),
        }
    }
    transform.validate().map_err(|e| e.to_string())?;
    Ok(transform)
}

fn augment(
    root: &Map<String, Value>,
    transform: &ModelTransform,
    notes: &mut Vec<String>,
) -> std::result::Result<Augment, String> {
    let both = steps(root.get("train_transform"));
    let image_only = steps(root.get("train_transform_imgonly"));
    let mut augment = Augment::none();
    let get = |step: &Map<String, Value>, key: &str, otherwise: f64| {
        step.get(key).map_or(Ok(otherwise), |v| number(key, v))
    };
    for (name, step) in both.into_iter().chain(image_only) {
        match name {
            "SpatialPad" | "CenterSpatialCrop" => {}
            "Resize" if size(step, "spatial_size")? == transform.shape => {}
            "RandRotate" => {
                let angles = [
                    get(step, "range_x", 0.0)?,
                    get(step, "range_y", 0.0)?,
                    get(step, "range_z", 0.0)?,
                ];
                if angles.iter().any(|a| *a != angles[0]) {
                    notes.push(
                        "RandRotate: the largest of the three ranges is used for all axes".into(),
                    );
                }
                let largest = angles.into_iter().fold(0.0, f64::max);
                augment.rotate_degrees = largest.to_degrees();
                augment.rotate_probability = get(step, "prob", 0.1)?;
            }
            "RandZoom" => {
                augment.zoom = [get(step, "min_zoom", 0.9)?, get(step, "max_zoom", 1.1)?];
                augment.zoom_probability = get(step, "prob", 0.1)?;
            }
            "RandGaussianNoise" => {
                augment.noise_std = get(step, "std", 0.1)?;
                augment.noise_probability = get(step, "prob", 0.1)?;
            }
            "RandShiftIntensity" => {
                augment.offset = get(step, "offsets", 0.0)?;
                augment.offset_probability = get(step, "prob", 0.1)?;
            }
            other => return Err(format!("train_transform: {other} has no counterpart")),
        }
    }
    augment.validate().map_err(|e| e.to_string())?;
    Ok(augment)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form of the release's file, with its odd spelling of numbers and its places to fill in.
    const TEXT: &str = "
hf_TrainingArguments:
  dataloader_num_workers: 64
  learning_rate: 5.e-5
  max_steps: 25000
  output_dir: [OUTPUTDIR]
  per_device_train_batch_size: 8
  gradient_accumulation_steps: 8
  save_steps: 5000
  weight_decay: 0.0001
  warmup_steps: 25
  optim: adamw_torch
input_file: table.parquet
llm_args: {bert_encoder_layers: 4, model_class: BertModel, model_id: some-bert}
vision_args:
  model_args: {model_name: tf_efficientnet_b0.in1k, in_chans: 1}
  seqlen: 258
predict_transform:
  - {name: SpatialPad, spatial_size: [384, 320, 256], constant_values: 0.0}
  - {name: CenterSpatialCrop, roi_size: [384, 320, 256]}
  - {name: Resize, spatial_size: [256, 160, 128]}
train_transform:
  - {name: RandRotate, prob: 0.5, range_x: 0.261799166, range_y: 0.261799166, range_z: 0.261799166}
  - {name: RandZoom, prob: 0.5, max_zoom: 1.1, min_zoom: 0.9}
  - {name: Resize, spatial_size: [256, 160, 128]}
train_transform_imgonly:
  - {name: RandGaussianNoise, std: 0.01, prob: 0.5}
  - {name: RandShiftIntensity, offsets: 0.01, prob: 0.5}
";

    #[test]
    fn the_releases_file_is_the_papers_recipe_with_a_frozen_transformer() {
        let config = ReleaseConfig::parse(TEXT).unwrap();
        let t = &config.train;
        assert_eq!(t["steps"], 25_000);
        assert_eq!(t["learning_rate"], 5e-5);
        assert_eq!(
            (&t["scans_per_pass"], &t["scans_per_step"]),
            (&json!(8), &json!(64))
        );
        assert_eq!(
            (&t["checkpoint_every"], &t["validate_every"]),
            (&json!(5000), &json!(5000))
        );
        assert_eq!((&t["freeze"], &t["seed"]), (&json!("bert"), &json!(42)));
        assert_eq!(config.transform, ModelTransform::default());
        let augment = config.augment;
        assert!((augment.rotate_degrees - 15.0).abs() < 1e-3);
        assert_eq!(
            Augment {
                rotate_degrees: 15.0,
                ..augment
            },
            Augment::default()
        );
        assert_eq!(
            config.image_model.as_deref(),
            Some("tf_efficientnet_b0.in1k")
        );
        assert_eq!(
            (config.text_model.as_deref(), config.bert_layers),
            (Some("some-bert"), 4)
        );
        assert_eq!(
            (config.input_file.as_deref(), config.output_dir),
            (Some("table.parquet"), None)
        );
        assert!(
            config.notes.iter().any(|n| n.contains("optim")),
            "{:?}",
            config.notes
        );
    }

    #[test]
    fn what_cannot_be_followed_is_refused_or_told() {
        let fails = |from: &str, to: &str, part: &str| {
            let text = TEXT.replace(from, to);
            assert_ne!(text, TEXT);
            let error = ReleaseConfig::parse(&text).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        fails("max_steps: 25000", "max_steps: many", "max_steps");
        fails("name: RandZoom", "name: RandAffine", "RandAffine");
        fails("hf_TrainingArguments", "training", "hf_TrainingArguments");
        fails(
            "  warmup_steps: 25",
            "  lr_scheduler_type: cosine",
            "cosine",
        );
        fails(
            "[256, 160, 128]}\ntrain",
            "[256, 160]}\ntrain",
            "three sizes",
        );
        let free =
            ReleaseConfig::parse(&format!("freeze_llm: false\nlora_args: {{r: 8}}{TEXT}")).unwrap();
        assert_eq!(free.train["freeze"], "none");
        assert!(free.notes.iter().any(|n| n.contains("lora_args")));
        assert!(ReleaseConfig::parse("- a").is_err() && ReleaseConfig::parse("a: [").is_err());
    }
}
