//! Gaussian noise by vector instructions.
//!
//! The random bits are ChaCha8's; two words of 32 bits become two independent normal numbers by the
//! transformation of Box and Muller (1958), with its logarithm, sine and cosine as polynomials so that
//! the compiler can work on many at a time. Each differs from the transformation in f64 by less than
//! 4e-6 + 4e-8 / radius, never by more than 4e-4 (next to 0), and the largest that 32 bits give is 6.8.
//! Nothing depends on the machine: no fused multiply-add, no library function.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_PI_2, LN_2};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Pairs of numbers that are made at a time.
const PAIRS: usize = 256;

/// Adds `mean + std * n` to each cell, with normal numbers `n` of the stream `(seed, stream)`.
pub(super) fn add_normal(cells: &mut [f32], seed: u64, stream: u64, mean: f32, std: f32) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let arch = pulp::Arch::new();
    let (mut words, mut normal) = ([0u32; 2 * PAIRS], [0f32; 2 * PAIRS]);
    for cells in cells.chunks_mut(2 * PAIRS) {
        rng.fill(&mut words);
        arch.dispatch(Addition {
            words: &words,
            normal: &mut normal,
            cells,
            mean,
            std,
        });
    }
}

/// Cells to be added to with the processor's widest vectors; a closure would not be inlined where they are
/// switched on.
struct Addition<'a> {
    words: &'a [u32; 2 * PAIRS],
    normal: &'a mut [f32; 2 * PAIRS],
    cells: &'a mut [f32],
    mean: f32,
    std: f32,
}

impl pulp::NullaryFnOnce for Addition<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        normals(self.words, self.normal);
        for (cell, n) in self.cells.iter_mut().zip(self.normal.iter()) {
            *cell += self.mean + self.std * n;
        }
    }
}

/// Normal numbers from random words, as many as there are.
#[inline(always)]
fn normals(words: &[u32; 2 * PAIRS], out: &mut [f32; 2 * PAIRS]) {
    let (first, second) = words.split_at(PAIRS);
    let (cosines, sines) = out.split_at_mut(PAIRS);
    for i in 0..PAIRS {
        let radius = (-2.0 * ln_of_share(first[i])).max(0.0).sqrt();
        let (sine, cosine) = direction(second[i]);
        cosines[i] = radius * cosine;
        sines[i] = radius * sine;
    }
}

/// Natural logarithm of `(word + 0.5) / 2^32`, a number above 0 and at most 1.
#[inline(always)]
fn ln_of_share(word: u32) -> f32 {
    // Two steps, as unsigned words have no conversion in AVX2; the parts add up with one rounding.
    let share = (word >> 16) as i32 as f32 * 65536.0 + ((word & 0xffff) as i32 as f32 + 0.5);
    let bits = share.to_bits() as i32;
    // Mantissa in sqrt(1/2)..sqrt(2), so that its logarithm is small.
    let exponent = (bits - FRAC_1_SQRT_2.to_bits() as i32) >> 23;
    let mantissa = f32::from_bits((bits - (exponent << 23)) as u32);
    let half = (mantissa - 1.0) / (mantissa + 1.0);
    let square = half * half;
    // ln m = 2 atanh((m - 1) / (m + 1)), of which t^11 is below 1e-9.
    let series = 1.0 / 9.0;
    let series = 1.0 / 7.0 + square * series;
    let series = 1.0 / 5.0 + square * series;
    let series = 1.0 / 3.0 + square * series;
    let series = 1.0 + square * series;
    (exponent - 32) as f32 * LN_2 + 2.0 * half * series
}

/// Sine and cosine of an angle drawn from the whole circle.
#[inline(always)]
fn direction(word: u32) -> (f32, f32) {
    // Half the angle, within a quarter turn to either side, where the series are short.
    let half = word as i32 as f32 * (FRAC_PI_2 / 2_147_483_648.0);
    let square = half * half;
    let sine = half * taylor(square, [6.0, 20.0, 42.0, 72.0, 110.0]);
    let cosine = taylor(square, [2.0, 12.0, 30.0, 56.0, 90.0, 132.0]);
    (2.0 * sine * cosine, 1.0 - 2.0 * sine * sine)
}

/// `1 - x/d1 (1 - x/d2 (1 - ...))`, whose divisors are products of two neighbouring numbers.
#[inline(always)]
fn taylor<const N: usize>(x: f32, divisors: [f32; N]) -> f32 {
    let mut sum = 1.0;
    for divisor in divisors.into_iter().rev() {
        sum = 1.0 - x * (1.0 / divisor) * sum;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n: usize, seed: u64) -> Vec<f64> {
        let mut cells = vec![0.0; n];
        add_normal(&mut cells, seed, 3, 0.0, 1.0);
        cells.into_iter().map(f64::from).collect()
    }

    #[test]
    fn the_polynomials_are_the_transformation() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut words = [0u32; 2 * PAIRS];
        let mut worst = 0.0f64;
        for round in 0..200 {
            rng.fill(&mut words);
            if round == 0 {
                // The ends, and where the exponent changes.
                let odd = [
                    0,
                    1,
                    2,
                    0xffff,
                    0x1_0000,
                    0x7fff_ffff,
                    0x8000_0000,
                    u32::MAX,
                ];
                words[..8].copy_from_slice(&odd);
                words[PAIRS..PAIRS + 8].copy_from_slice(&odd);
            }
            let mut found = [0.0; 2 * PAIRS];
            normals(&words, &mut found);
            for i in 0..PAIRS {
                let share = (f64::from(words[i]) + 0.5) / 2f64.powi(32);
                let radius = (-2.0 * share.ln()).sqrt();
                let angle =
                    f64::from(words[PAIRS + i] as i32) * std::f64::consts::PI / 2f64.powi(31);
                for (found, expected) in [
                    (found[i], radius * angle.cos()),
                    (found[PAIRS + i], radius * angle.sin()),
                ] {
                    let error = (f64::from(found) - expected).abs();
                    // A share next to 1 is rounded by up to 2^-25.
                    assert!(error < 4e-6 + 4e-8 / radius, "{share} {angle}: {error}");
                    worst = worst.max(error);
                }
            }
        }
        assert!(worst < 4e-4, "{worst}");
        let mut ends = [0u32; 2 * PAIRS];
        ends[1] = u32::MAX;
        let mut found = [0.0; 2 * PAIRS];
        normals(&ends, &mut found);
        assert!(
            (found[0] - 6.764).abs() < 1e-3 && found[1] == 0.0,
            "{found:?}"
        );
    }

    /// Moments and tails of two million, each within five standard errors.
    #[test]
    fn moments_and_tails_are_those_of_the_normal_distribution() {
        let n = 2_000_000;
        let cells = sample(n, 7);
        let moment = |p: i32| cells.iter().map(|v| v.powi(p)).sum::<f64>() / n as f64;
        let error = |variance: f64| 5.0 * (variance / n as f64).sqrt();
        for (p, expected, variance) in [
            (1, 0.0, 1.0),
            (2, 1.0, 2.0),
            (3, 0.0, 15.0),
            (4, 3.0, 96.0),
            (6, 15.0, 10_170.0),
        ] {
            let found = moment(p);
            assert!((found - expected).abs() < error(variance), "{p}: {found}");
        }
        for (beyond, expected) in [
            (1.0, 0.317_310_5),
            (2.0, 0.045_500_3),
            (3.0, 0.002_699_8),
            (4.0, 6.334e-5),
        ] {
            let count = cells.iter().filter(|v| v.abs() > beyond).count();
            let found = count as f64 / n as f64;
            let bound = error(expected * (1.0 - expected));
            assert!((found - expected).abs() < bound, "{beyond}: {found}");
        }
        // Neighbours, both halves of a pair, and seeds have nothing to do with each other.
        let other = sample(n, 8);
        for lag in [1, 2, PAIRS, 2 * PAIRS] {
            let product = cells
                .iter()
                .zip(&cells[lag..])
                .map(|(a, b)| a * b)
                .sum::<f64>();
            assert!((product / n as f64).abs() < error(1.0), "{lag}: {product}");
        }
        let product = cells.iter().zip(&other).map(|(a, b)| a * b).sum::<f64>();
        assert!((product / n as f64).abs() < error(1.0), "{product}");
    }

    #[test]
    fn a_prefix_is_a_prefix_and_streams_differ() {
        let long = sample(1500, 1);
        assert_eq!(long[..1100], sample(1100, 1)[..]);
        let mut other = vec![0.0; 1500];
        add_normal(&mut other, 1, 4, 0.0, 1.0);
        assert!(long.iter().zip(&other).all(|(a, b)| *a != f64::from(*b)));
    }
}
