//! Scans made ready on a GPU: the host reads and draws, the device resamples.

use candle_core::Tensor;
use uniferum_ct::Volume;
use uniferum_ct::resample::AxisOperator;
use uniferum_ct::transform::{AugmentDraw, ModelTransform, Sampling};
use uniferum_kernels::{Augmenter, Noise, Patches, Resampling, Taps, TurnedResampling, Voxels};
use uniferum_tasks::Task;

use super::Example;
use crate::error::Result;
use crate::targets::MaskGrid;

/// Scans that are on their way to the device at a time, each in page-locked memory of its size: one
/// that is copied, and others that are filled meanwhile.
pub(super) const BUFFERS: usize = 4;

/// As [`ModelTransform::model_array_augmented`], on the device: `[1, 1, X, Y, Z]`.
pub(super) fn image(
    augmenter: &Augmenter,
    transform: &ModelTransform,
    volume: &Volume<i16>,
    draw: &AugmentDraw,
) -> Result<Tensor> {
    let noise = Noise {
        key: draw.noise_key(),
        std: draw.noise_std,
        offset: draw.offset,
    };
    let voxels = volume.voxels.as_standard_layout();
    let voxels = Voxels {
        data: voxels.as_slice().unwrap_or_default(),
        shape: volume.shape(),
    };
    let sampling = transform.image_sampling(volume.shape(), draw);
    Ok(augmenter.image(voxels, &resampling(sampling), &noise)?)
}

/// The target of each mask task, `[1, L, P]`; `None` where the scan has no such mask.
///
/// A mask that several tasks ask about goes to the device once.
pub(super) fn masks(
    augmenter: &Augmenter,
    transform: &ModelTransform,
    grid: &MaskGrid,
    example: &Example,
    tasks: &[&Task],
    draw: &AugmentDraw,
) -> Result<Vec<Option<Tensor>>> {
    let patches = Patches {
        tokens: grid.tokens,
        patch: grid.patch,
        pool: grid.pool(),
    };
    let mut targets = vec![None; tasks.len()];
    let sources = [&example.mask, &example.nodules].into_iter().flatten();
    for source in sources.map(|mask| &**mask) {
        let asks = |task: &Task| {
            let asked = example.mask_of(task).0;
            asked.is_some_and(|mask| std::ptr::eq(mask, source))
        };
        let asking: Vec<usize> = (0..tasks.len()).filter(|&i| asks(tasks[i])).collect();
        if asking.is_empty() {
            continue;
        }
        let sets = asking.iter().map(|&i| table(example.mask_of(tasks[i]).1));
        let sets: Vec<[bool; 256]> = sets.collect();
        let voxels = source.voxels.as_standard_layout();
        let voxels = Voxels {
            data: voxels.as_slice().unwrap_or_default(),
            shape: source.shape(),
        };
        let sampling = resampling(transform.mask_sampling(source.shape(), draw));
        let made = augmenter.mask(voxels, &sampling, &sets, patches)?;
        for (k, &i) in asking.iter().enumerate() {
            targets[i] = Some(made.narrow(0, k, 1)?);
        }
    }
    Ok(targets)
}

/// Which of the 256 values of a mask are among `labels`.
fn table(labels: &[u16]) -> [bool; 256] {
    std::array::from_fn(|value| labels.iter().any(|&l| usize::from(l) == value))
}

fn resampling(sampling: Sampling) -> Resampling {
    match sampling {
        Sampling::Straight(axes) => Resampling::Straight(axes.map(|axis| taps(&axis))),
        Sampling::Turned(turned) => Resampling::Turned(TurnedResampling {
            outputs: turned.outputs,
            rotation: turned.rotation,
            middle: turned.middle,
            kernels: turned.kernels,
            field: turned.field,
            offset: turned.offset,
        }),
    }
}

fn taps(axis: &AxisOperator) -> Taps {
    let mut taps = Taps {
        offsets: vec![0],
        ..Taps::default()
    };
    for k in 0..axis.len() {
        let (start, weights) = axis.taps(k);
        taps.starts.push(start);
        taps.weights.extend(weights);
        taps.offsets.push(taps.weights.len());
    }
    taps
}
