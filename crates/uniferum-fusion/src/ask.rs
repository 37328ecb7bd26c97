//! Many questions about one scan, in evaluation on the CPU.
//!
//! The same numbers as the layers one after the other over padded batches, with less work:
//!
//! - the vision tokens pass the embedding block and the projections of the first layer once for
//!   all questions, since both look at one position at a time;
//! - sequences of different lengths lie packed behind each other: padding is nowhere computed;
//! - the last layer gives only the positions that a head reads; the others serve as keys and
//!   values, and where a head reads one position, not even these are computed.

use std::ops::Range;

use candle_core::{DType, Tensor};
use uniferum_kernels::Span;
use uniferum_kernels::infer::Precision;

use crate::bert::{Bert, Layer};
use crate::error::Result;
use crate::layers::Pass;

/// Rows of a piece of the questions. Each layer packs its weights once for a piece.
const ROWS: usize = 8192;

/// Whether tokens are such that [`read`] has kernels for them.
pub(crate) fn packs(tokens: &Tensor) -> bool {
    let device = tokens.device();
    (device.is_cpu() || device.is_cuda()) && tokens.dtype() == DType::F32
}

/// Hidden states of the positions `wanted` of each sequence, `[B, wanted, E]`.
///
/// `tokens` `[1 or B, L, E]`, `ids` and `mask` `[B, T]`, all checked by the caller.
pub(crate) fn read(
    bert: &Bert,
    tokens: &Tensor,
    ids: &Tensor,
    mask: &Tensor,
    wanted: Range<usize>,
    precision: Precision,
) -> Result<Tensor> {
    let pass = Pass::packed(precision);
    let (scans, length, width) = tokens.dims3()?;
    let vision = bert.embed(tokens.detach(), &pass)?;
    let vision = Positions::new(bert, vision.reshape((scans * length, width))?, &pass)?;
    let kept = kept(mask)?;
    let step = (ROWS / (length + ids.dim(1)?)).max(1);
    let mut pieces = Vec::new();
    for start in (0..kept.len()).step_by(step) {
        let questions = start..kept.len().min(start + step);
        let text = bert.embed_ids(&ids.narrow(0, start, questions.len())?, &pass)?;
        let text = bert.embed_from(text, length, &pass)?.flatten_to(1)?;
        let piece = Piece {
            length,
            // Without a scan for each question all share the first.
            scans: questions
                .clone()
                .map(|b| if scans == 1 { 0 } else { b })
                .collect(),
            kept: &kept[questions],
        };
        pieces.push(piece.run(bert, &vision, &text, &wanted, &pass)?);
    }
    Ok(Tensor::cat(&pieces, 0)?)
}

/// The places of the words that are no padding, for each question.
fn kept(mask: &Tensor) -> Result<Vec<Vec<u32>>> {
    let mask = mask.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let places = |row: Vec<f32>| {
        let kept = row.iter().enumerate().filter(|(_, m)| **m != 0.0);
        kept.map(|(i, _)| i as u32).collect()
    };
    Ok(mask.into_iter().map(places).collect())
}

/// Positions before the first layer, with its projections of them.
struct Positions {
    x: Tensor,
    q: Option<Tensor>,
    kv: Option<[Tensor; 2]>,
}

impl Positions {
    fn new(bert: &Bert, x: Tensor, pass: &Pass) -> Result<Self> {
        let first = bert.stack().0.first();
        Ok(Self {
            q: first.map(|layer| layer.queries(&x, pass)).transpose()?,
            kv: first
                .map(|layer| layer.keys_and_values(&x, pass))
                .transpose()?,
            x,
        })
    }
}

/// Some of the questions.
struct Piece<'a> {
    length: usize,
    /// The scan of each question.
    scans: Vec<usize>,
    kept: &'a [Vec<u32>],
}

impl Piece<'_> {
    fn run(
        &self,
        bert: &Bert,
        vision: &Positions,
        text: &Tensor,
        wanted: &Range<usize>,
        pass: &Pass,
    ) -> Result<Tensor> {
        let device = text.device();
        let words = text.dim(0)? / self.kept.len();
        let words = self.kept.iter().enumerate().flat_map(|(b, kept)| {
            let first = (b * words) as u32;
            kept.iter().map(move |i| first + i)
        });
        let words: Vec<u32> = words.collect();
        let count = words.len();
        let text = text.index_select(&Tensor::from_vec(words, count, device)?, 0)?;
        let text = Positions::new(bert, text, pass)?;
        let rows = self.rows(vision.x.dim(0)?);
        let rows = Tensor::from_vec(rows.clone(), rows.len(), device)?;
        let pack = |vision: &Tensor, text: &Tensor| -> Result<Tensor> {
            let both = match count {
                0 => vision.clone(),
                _ => Tensor::cat(&[vision, text], 0)?,
            };
            Ok(both.index_select(&rows, 0)?)
        };
        let mut x = pack(&vision.x, &text.x)?;
        let (layers, norm) = bert.stack();
        for (i, layer) in layers.iter().enumerate() {
            let last = i + 1 == layers.len();
            if last && i > 0 && wanted.len() == 1 {
                let asking = self.read_by_head(&x, wanted)?;
                x = layer.forward_single(&asking, &x, &self.sequences(), pass)?;
                continue;
            }
            let (mut q, mut kv) = (None, None);
            if i == 0
                && let (Some(vq), Some(tq)) = (&vision.q, &text.q)
            {
                q = Some(pack(vq, tq)?);
            }
            if i == 0
                && let (Some([vk, vv]), Some([tk, tv])) = (&vision.kv, &text.kv)
            {
                kv = Some([pack(vk, tk)?, pack(vv, tv)?]);
            }
            let kv = kv.map_or_else(|| layer.keys_and_values(&x, pass), Ok)?;
            x = self.layer(layer, &x, (q, kv), last.then_some(wanted), pass)?;
        }
        if let Some(norm) = norm {
            x = norm.forward(&x, pass)?;
        }
        Ok(x.reshape((self.kept.len(), wanted.len(), ()))?)
    }

    /// One layer, for all positions or for the `wanted` ones of each sequence.
    fn layer(
        &self,
        layer: &Layer,
        x: &Tensor,
        (q, kv): (Option<Tensor>, [Tensor; 2]),
        wanted: Option<&Range<usize>>,
        pass: &Pass,
    ) -> Result<Tensor> {
        let keys = self.sequences();
        let Some(wanted) = wanted else {
            let spans = keys.into_iter().map(|keys| Span {
                queries: keys.clone(),
                keys,
            });
            let q = q.map_or_else(|| layer.queries(x, pass), Ok)?;
            let spans: Vec<Span> = spans.collect();
            return layer.forward_packed(x, &q, &kv, &spans, pass);
        };
        let x = self.read_by_head(x, wanted)?;
        let q = match q {
            Some(q) => self.read_by_head(&q, wanted)?,
            None => layer.queries(&x, pass)?,
        };
        let n = wanted.len();
        let spans = keys.into_iter().enumerate().map(|(b, keys)| Span {
            queries: b * n..(b + 1) * n,
            keys,
        });
        layer.forward_packed(&x, &q, &kv, &spans.collect::<Vec<_>>(), pass)
    }

    /// The `wanted` positions of each sequence.
    fn read_by_head(&self, x: &Tensor, wanted: &Range<usize>) -> Result<Tensor> {
        let sequences = self.sequences();
        let rows = sequences
            .iter()
            .flat_map(|rows| wanted.clone().map(|w| (rows.start + w) as u32));
        let rows: Vec<u32> = rows.collect();
        let count = rows.len();
        Ok(x.index_select(&Tensor::from_vec(rows, count, x.device())?, 0)?)
    }

    /// The rows of each sequence.
    fn sequences(&self) -> Vec<Range<usize>> {
        let mut end = 0;
        let ranges = self.kept.iter().map(|kept| {
            let start = end;
            end += self.length + kept.len();
            start..end
        });
        ranges.collect()
    }

    /// Where each packed row comes from, among all vision tokens and the words behind them.
    fn rows(&self, vision: usize) -> Vec<u32> {
        let mut word = vision;
        let mut rows = Vec::new();
        for (scan, kept) in self.scans.iter().zip(self.kept) {
            let first = scan * self.length;
            rows.extend((first..first + self.length).map(|i| i as u32));
            rows.extend((word..word + kept.len()).map(|i| i as u32));
            word += kept.len();
        }
        rows
    }
}
