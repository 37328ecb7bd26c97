//! Updates of all parameters of a model on CUDA, a launch for all tensors together. Nothing here is called
//! without a tensor.

use candle_core::{DType, Result, Tensor};

use super::{Arg, Buf, Gpu, Grid, Input, Module, args, module};
use crate::adamw::{AdamW, Trained};

const MODULE: Module = module!("adamw");
/// Elements that a block takes where a tensor has not too many: four times four a thread.
const OF_BLOCK: usize = 4 * 4 * 256;
/// Most blocks of a tensor: a few hundred for each number of multiprocessors that a device may have.
const MOST_BLOCKS: usize = 2048;

/// The tensors that a launch takes, as `adamw.cu` has them.
#[derive(Default)]
struct Table {
    words: Vec<i64>,
    blocks: usize,
}

impl Table {
    /// Arrays of `n` elements and a number; an empty one is left out.
    fn push(&mut self, arrays: [u64; 3], n: usize, number: f64) {
        if n == 0 {
            return;
        }
        let number = i64::from((number as f32).to_bits());
        let [a, b, c] = arrays.map(|at| at as i64);
        let first = self.blocks as i64;
        self.words.extend([a, b, c, n as i64, first, number]);
        self.blocks += n.div_ceil(OF_BLOCK).min(MOST_BLOCKS);
    }

    /// Starts `name` over all of them, with these arguments behind the table.
    fn launch(self, gpu: &Gpu, name: &str, rest: &[Arg]) -> Result<()> {
        if self.blocks == 0 {
            return Ok(());
        }
        let words = self.words.len();
        let table = Tensor::from_vec(self.words, words, &gpu.device())?;
        let table = gpu.read_table(&table)?;
        let mut list = args![&table, (words / 6) as i32].to_vec();
        list.extend(rest);
        gpu.launch(&MODULE, name, Grid::new(self.blocks, 256), &list)
    }
}

/// [`adamw_steps`](crate::adamw_steps) on CUDA; `clip` is of [`clip_factor`](crate::clip_factor).
pub(crate) fn adamw(
    op: &'static str,
    all: &[Trained<'_>],
    step: u64,
    o: &AdamW,
    clip: Option<&Tensor>,
) -> Result<()> {
    let gpu = Gpu::of(op, all[0].parameter)?;
    let gradients = contiguous(all.iter().map(|t| t.gradient))?;
    // Parameters and state are written in place through the device: nothing of the host's memory is
    // aliased, and the one stream orders these writes against every other use.
    let p = read(&gpu, all.iter().map(|t| t.parameter))?;
    let g = read(&gpu, &gradients)?;
    let s = read(&gpu, all.iter().map(|t| t.state))?;
    let mut table = Table::default();
    for (trained, ((p, g), s)) in all.iter().zip(p.iter().zip(&g).zip(&s)) {
        let keep = 1.0 - o.lr * trained.decay(o);
        table.push([p.at(0), g.at(0), s.at(0)], p.len, keep);
    }
    let correction1 = 1.0 - o.beta1.powf(step as f64);
    let correction2 = 1.0 - o.beta2.powf(step as f64);
    let numbers = [
        o.beta1,
        o.beta2,
        o.grad_scale,
        o.lr / correction1,
        1.0 / correction2.sqrt(),
        o.eps,
    ];
    let mut rest: Vec<Arg> = numbers.iter().map(|v| Arg::F32(*v as f32)).collect();
    let clip = clip.map(|c| gpu.read_f32(c)).transpose()?;
    rest.push(Arg::from(clip.as_ref()));
    table.launch(&gpu, "adamw_f32", &rest)
}

/// [`move_averages`](crate::move_averages) on CUDA.
pub(crate) fn averages(op: &'static str, pairs: &[[&Tensor; 2]], decay: f64) -> Result<()> {
    let gpu = Gpu::of(op, pairs[0][0])?;
    let values = contiguous(pairs.iter().map(|[_, value]| *value))?;
    let averages = read(&gpu, pairs.iter().map(|[average, _]| *average))?;
    let mut table = Table::default();
    let values = read(&gpu, &values)?;
    for (average, value) in averages.iter().zip(&values) {
        table.push([average.at(0), value.at(0), 0], average.len, 0.0);
    }
    let numbers = [decay, 1.0 - decay].map(|v| Arg::F32(v as f32));
    table.launch(&gpu, "averages_f32", &numbers)
}

/// The sum of squares of several tensors; one number is read at the end.
pub(crate) fn squared_norm(op: &'static str, tensors: &[&Tensor]) -> Result<f64> {
    let gpu = Gpu::of(op, tensors[0])?;
    let partial = squares(&gpu, tensors)?;
    Ok(gpu.download_f64(&partial)?.iter().sum())
}

/// [`clip_factor`](crate::clip_factor) on CUDA: nothing is read.
pub(crate) fn clip(op: &'static str, tensors: &[&Tensor], largest: f64) -> Result<Tensor> {
    let gpu = Gpu::of(op, tensors[0])?;
    let partial = squares(&gpu, tensors)?;
    let clip = gpu.uninit(DType::F32, 2)?;
    let list = args![&partial, &clip, partial.len as i64, largest as f32];
    gpu.launch(&MODULE, "clip_f32", Grid::new(1, 1024), list)?;
    Ok(clip.tensor(2))
}

/// Sums of squares over blocks of several tensors.
fn squares(gpu: &Gpu, tensors: &[&Tensor]) -> Result<Buf> {
    let tensors = contiguous(tensors.iter().copied())?;
    let mut table = Table::default();
    let inputs = read(gpu, &tensors)?;
    for x in &inputs {
        table.push([0, x.at(0), 0], x.len, 0.0);
    }
    let partial = gpu.uninit(DType::F64, table.blocks)?;
    table.launch(gpu, "squares_f32", args![&partial])?;
    Ok(partial)
}

fn contiguous<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<Vec<Tensor>> {
    tensors.map(Tensor::contiguous).collect()
}

fn read<'a>(gpu: &Gpu, tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Vec<Input<'a>>> {
    tensors.into_iter().map(|t| gpu.read_f32(t)).collect()
}
