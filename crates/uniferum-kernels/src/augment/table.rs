//! The numbers of a resampling as the kernels read them: words of 32 bits, a header first.

use candle_core::Result;

use super::{Noise, OP, Resampling, Taps, TurnedResampling};
use crate::error::invalid;

/// Words of `Header` in `augment.cu`.
const HEADER: usize = 47;

/// The table of one resampling.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) words: Vec<u32>,
    pub(super) shape: [usize; 3],
    pub(super) turned: bool,
}

impl Table {
    /// Refuses a resampling that would read outside its volume or its own tables.
    pub(super) fn new(
        volume: [usize; 3],
        resampling: &Resampling,
        noise: &Noise,
        labels: &[[bool; 256]],
    ) -> Result<Self> {
        let fits = volume.iter().all(|n| (1..1 << 20).contains(n));
        if !fits || volume.iter().product::<usize>() > i32::MAX as usize {
            let expected = "1 to 2^31 voxels, fewer than 2^20 along each axis";
            return Err(invalid(OP, "volume", expected, format!("{volume:?}")).into());
        }
        let mut arrays = Arrays::default();
        let (shape, middle, turned) = match resampling {
            Resampling::Straight(taps) => {
                for (taps, n) in taps.iter().zip(volume) {
                    taps.check(n)?;
                }
                taps.iter().for_each(|t| arrays.ints(&t.starts));
                taps.iter().for_each(|t| arrays.ints(&t.offsets));
                taps.iter().for_each(|t| arrays.floats(&t.weights));
                let shape = taps.each_ref().map(|t| t.starts.len());
                (shape, Middle::default(), false)
            }
            Resampling::Turned(turned) => {
                turned.check()?;
                for outputs in &turned.outputs {
                    let flat: Vec<f32> = outputs.iter().flat_map(|&(at, w)| [at, w]).collect();
                    arrays.floats(&flat);
                }
                turned.kernels.iter().for_each(|k| arrays.floats(k));
                arrays.skip(3);
                let shape = turned.outputs.each_ref().map(Vec::len);
                (shape, Middle::of(turned), true)
            }
        };
        let outputs = shape.iter().product::<usize>();
        if outputs == 0 || outputs > i32::MAX as usize {
            let got = format!("{shape:?}");
            return Err(invalid(OP, "outputs", "1 to 2^31", got).into());
        }
        // In the order of `Header`.
        let int = |n: usize| n as u32;
        let mut words: Vec<u32> = volume.into_iter().chain(shape).map(int).collect();
        words.extend(middle.ints);
        words.extend(middle.floats.map(f32::to_bits));
        words.extend(noise.key);
        words.extend([noise.std, noise.offset].map(f32::to_bits));
        words.extend(arrays.at);
        words.push(int(HEADER + arrays.words.len()));
        debug_assert_eq!(words.len(), HEADER);
        words.extend(arrays.words);
        words.extend(labels.as_flattened().chunks(32).map(|bits| {
            let bits = bits.iter().enumerate();
            bits.fold(0, |sum, (i, set)| sum | u32::from(*set) << i)
        }));
        Ok(Self {
            words,
            shape,
            turned,
        })
    }
}

/// Arrays behind the header, and where each begins.
#[derive(Default)]
struct Arrays {
    words: Vec<u32>,
    at: Vec<u32>,
}

impl Arrays {
    fn skip(&mut self, arrays: usize) {
        let end = (HEADER + self.words.len()) as u32;
        self.at.extend(std::iter::repeat_n(end, arrays));
    }

    fn floats(&mut self, values: &[f32]) {
        self.skip(1);
        self.words.extend(values.iter().map(|v| v.to_bits()));
    }

    fn ints(&mut self, values: &[usize]) {
        self.skip(1);
        self.words.extend(values.iter().map(|v| *v as u32));
    }
}

/// What a turned resampling has in the middle of its header: field, offset and lengths of kernels;
/// rotation and middle.
#[derive(Default)]
struct Middle {
    ints: [u32; 9],
    floats: [f32; 12],
}

impl Middle {
    fn of(turned: &TurnedResampling) -> Self {
        let mut middle = Self::default();
        for a in 0..3 {
            middle.ints[a] = turned.field[a] as u32;
            middle.ints[3 + a] = turned.offset[a] as i32 as u32;
            middle.ints[6 + a] = turned.kernels[a].len() as u32;
            middle.floats[3 * a..3 * a + 3].copy_from_slice(&turned.rotation[a]);
            middle.floats[9 + a] = turned.middle[a];
        }
        middle
    }
}

impl Taps {
    fn check(&self, inputs: usize) -> Result<()> {
        let n = self.starts.len();
        let ordered = self.offsets.len() == n + 1
            && self.offsets.windows(2).all(|w| w[0] <= w[1])
            && self.offsets[n] <= self.weights.len();
        let inside = |k: usize| self.starts[k] + self.offsets[k + 1] - self.offsets[k] <= inputs;
        if ordered && (0..n).all(inside) {
            return Ok(());
        }
        let expected = format!("weights of inputs below {inputs}");
        Err(invalid(OP, "taps", expected, "others").into())
    }
}

impl TurnedResampling {
    fn check(&self) -> Result<()> {
        let field = self.field.iter().all(|n| (1..1 << 20).contains(n));
        let offset = self.offset.iter().all(|o| o.unsigned_abs() < 1 << 20);
        if field && offset {
            return Ok(());
        }
        let expected = "1 to 2^20 voxels along each axis";
        let got = format!("{:?} from {:?}", self.field, self.offset);
        Err(invalid(OP, "field", expected, got).into())
    }
}
