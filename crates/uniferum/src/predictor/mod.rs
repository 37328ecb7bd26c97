//! A trained model with everything that it needs to answer questions about a scan.

mod input;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::sigmoid;
use ndarray::Array3;
use uniferum_ct::{CtVolume, Volume};
use uniferum_data::{InputSettings, image_tensor};
use uniferum_fusion::{PromptBatch, Prompts, Uniferum, mask_volume};
use uniferum_tasks::{Task, TaskKind, trained};

use crate::error::{Error, Result};

pub use input::{InputStage, ModelInput};

/// A model, its tokenizer and the way its scans are prepared.
///
/// A scan is encoded once; any number of questions is then asked of the encoding.
///
/// ```no_run
/// use candle_core::Device;
/// use uniferum::{InputStage, Predictor};
/// use uniferum_ct::{ReadOptions, read_ct};
/// use uniferum_tasks::Catalogue;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let predictor = Predictor::load("model.safetensors", "tokenizer.json", &Device::Cpu)?;
/// let scan = read_ct("scan.nii.gz", &ReadOptions::default())?;
/// let input = predictor.prepare(&scan.volume, None, InputStage::Raw)?;
/// let encoded = predictor.encode(&input)?;
/// let catalogue = Catalogue::standard();
/// let tasks = [
///     catalogue.resolve("ct-rate.pleural-effusion")?,
///     catalogue.resolve("Segment the lungs in the image.")?,
/// ];
/// for answer in predictor.ask(&encoded, &tasks)? {
///     println!("{} {:.3}", answer.task.id, answer.probability);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Predictor {
    model: Uniferum,
    prompts: Prompts,
    settings: InputSettings,
    trained: Option<Vec<Task>>,
    device: Device,
}

/// The answer to a question.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The question.
    pub task: Task,
    /// The logit; for a mask the largest of its cells.
    pub logit: f32,
    /// Sigmoid of the logit.
    pub probability: f32,
    /// For a mask the probability of each cell, `[X/8, Y/8, Z/8]` of the model's array.
    pub mask: Option<Array3<f32>>,
}

/// The vision tokens of a scan.
#[derive(Debug, Clone)]
pub struct Encoded {
    tokens: Tensor,
    grid: [usize; 3],
}

impl Encoded {
    /// The tokens with the CLS and SEP vectors round them, `[1, L + 2, E]`.
    pub fn tokens(&self) -> &Tensor {
        &self.tokens
    }
}

impl Predictor {
    /// Loads a checkpoint, a `tokenizer.json` (or `vocab.txt`) and, where they lie beside the checkpoint,
    /// `input.json` with the preparation that the model was trained with and `questions.json` with what it
    /// was asked.
    ///
    /// # Errors
    /// [`Error::Model`] for a checkpoint that is not whole or a tokenizer of another model,
    /// [`Error::Data`] and [`Error::Task`] for one of the other files that cannot be read.
    pub fn load(
        checkpoint: impl AsRef<Path>,
        tokenizer: impl AsRef<Path>,
        device: &Device,
    ) -> Result<Self> {
        let checkpoint = checkpoint.as_ref();
        let prompts = Prompts::from_file(tokenizer)?;
        let settings = InputSettings::beside(checkpoint)?;
        let trained = trained::beside(checkpoint)?;
        let model = Uniferum::load(checkpoint, device)?;
        Ok(Self {
            trained,
            ..Self::new(model, prompts, settings, device)?
        })
    }

    /// Puts the parts together.
    ///
    /// # Errors
    /// [`Error::Model`] where the tokenizer is another model's, [`Error::Ct`] for settings that
    /// cannot work.
    pub fn new(
        model: Uniferum,
        prompts: Prompts,
        settings: InputSettings,
        device: &Device,
    ) -> Result<Self> {
        prompts.check(&model.config().bert)?;
        settings.standardise.validate()?;
        settings.transform.validate()?;
        Ok(Self {
            model,
            prompts,
            settings,
            trained: None,
            device: device.clone(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Uniferum {
        &self.model
    }

    /// Chooses the number format of the computation on the CPU; see
    /// [`Uniferum::set_inference_precision`].
    pub fn set_inference_precision(&mut self, precision: uniferum_encoder::Precision) {
        self.model.set_inference_precision(precision);
    }

    /// How scans are prepared.
    pub fn settings(&self) -> &InputSettings {
        &self.settings
    }

    /// Mutable access, to prepare scans in another way than the checkpoint says.
    pub fn settings_mut(&mut self) -> &mut InputSettings {
        &mut self.settings
    }

    /// Those of the questions that the model was not trained on, whose answers may mean nothing; none where
    /// the checkpoint does not say what it was trained on.
    pub fn unlearnt<'a>(&self, tasks: &'a [Task]) -> Vec<&'a Task> {
        let trained = self.trained.as_deref();
        trained.map_or_else(Vec::new, |trained| trained::unknown(tasks, trained))
    }

    /// Turns a scan into the model's array.
    ///
    /// `mask` carries TotalSegmentator v2 numbers on the scan's grid; its lungs bound the array in
    /// z. Only [`InputStage::Raw`] uses it.
    ///
    /// # Units
    /// HU.
    ///
    /// # Errors
    /// [`Error::Ct`] where the scan cannot be standardised, [`Error::Input`] for an array whose
    /// sides are not multiples of 32.
    pub fn prepare(
        &self,
        scan: &CtVolume,
        mask: Option<&Volume<u8>>,
        stage: InputStage,
    ) -> Result<ModelInput> {
        ModelInput::new(&self.settings, scan, mask, stage)
    }

    /// Runs the image encoder.
    ///
    /// # Errors
    /// [`Error::Model`] where the array does not fit the model.
    pub fn encode(&self, input: &ModelInput) -> Result<Encoded> {
        let array = input.array();
        let image = image_tensor(std::slice::from_ref(array), &self.device)?;
        let (x, y, z) = array.dim();
        Ok(Encoded {
            tokens: self.model.encode(&image)?,
            grid: [x / 32, y / 32, z / 32],
        })
    }

    /// Asks questions about an encoded scan.
    ///
    /// # Errors
    /// [`Error::Model`] for an empty question or one that is too long.
    pub fn ask(&self, encoded: &Encoded, tasks: &[Task]) -> Result<Vec<Answer>> {
        // Each question is asked of the head that answers it.
        let is_mask = |t: &&Task| t.kind == TaskKind::Segmentation;
        let (masks, labels): (Vec<&Task>, Vec<&Task>) = tasks.iter().partition(is_mask);
        let mut labels = self.labels(encoded, &labels)?.into_iter();
        let mut masks = self.masks(encoded, &masks)?.into_iter();
        let next = |task: &Task| match is_mask(&task) {
            true => masks.next(),
            false => labels.next(),
        };
        Ok(tasks.iter().filter_map(next).collect())
    }

    fn labels(&self, encoded: &Encoded, tasks: &[&Task]) -> Result<Vec<Answer>> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let text = self.text(tasks)?;
        let logits = self
            .model
            .classify(&encoded.tokens, &text.ids, &text.mask)?;
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        let answers = tasks.iter().zip(logits);
        Ok(answers.map(|(t, logit)| label_answer(t, logit)).collect())
    }

    fn masks(&self, encoded: &Encoded, tasks: &[&Task]) -> Result<Vec<Answer>> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let text = self.text(tasks)?;
        let logits = self.model.segment(&encoded.tokens, &text.ids, &text.mask)?;
        let volumes = mask_volume(&logits, encoded.grid)?;
        let answer = |(i, task): (usize, &&Task)| mask_answer(task, &volumes.get(i)?);
        tasks.iter().enumerate().map(answer).collect()
    }

    fn text(&self, tasks: &[&Task]) -> Result<PromptBatch> {
        let sentences: Vec<&str> = tasks.iter().map(|t| t.prompt.as_str()).collect();
        Ok(self.prompts.encode(&sentences, &self.device)?)
    }
}

fn label_answer(task: &Task, logit: f32) -> Answer {
    Answer {
        task: task.clone(),
        logit,
        probability: uniferum_metrics::special::sigmoid(f64::from(logit)) as f32,
        mask: None,
    }
}

fn mask_answer(task: &Task, logits: &Tensor) -> Result<Answer> {
    let shape = logits.dims3()?;
    let highest = logits.max_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
    let cells = sigmoid(logits)?.flatten_all()?.to_vec1::<f32>()?;
    let cells = Array3::from_shape_vec(shape, cells).map_err(|e| Error::Input {
        what: "mask logits",
        expected: format!("{shape:?}"),
        got: e.to_string(),
    })?;
    Ok(Answer {
        mask: Some(cells),
        ..label_answer(task, highest)
    })
}
