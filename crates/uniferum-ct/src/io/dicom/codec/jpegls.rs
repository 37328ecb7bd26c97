//! JPEG-LS (ITU-T T.87), lossless and near-lossless, one component.
//!
//! The published C++ decoder would bring a compiler and its memory faults along; the algorithm is short.
//! Names are the standard's.

use super::same_size;
use crate::error::{Error, Result};
use crate::io::dicom::slice::Slice;

/// Decodes to bit patterns.
pub(crate) fn decode(slice: &Slice, data: &[u8]) -> Result<Vec<u16>> {
    let (parameters, scan) = headers(slice, data)?;
    let bits = BitReader {
        data: scan,
        cache: 0,
        count: 0,
        after_ff: false,
    };
    let mut decoder = Decoder::new(parameters, bits);
    decoder
        .image(slice.rows, slice.columns)
        .ok_or_else(|| Error::corrupt(&slice.path, "JPEG-LS: cut off or damaged"))
}

/// Coding parameters (C.2.4.1.1).
#[derive(Debug, Clone, Copy)]
struct Parameters {
    maxval: i32,
    near: i32,
    t: [i32; 3],
    reset: i32,
}

/// Reads the markers up to the scan; returns the parameters and the bytes of the scan.
fn headers<'a>(slice: &Slice, data: &'a [u8]) -> Result<(Parameters, &'a [u8])> {
    let damaged = |what: &str| Error::corrupt(&slice.path, format!("JPEG-LS: {what}"));
    let refuse = |what: &str| {
        Err(Error::unsupported(
            &slice.path,
            format!("JPEG-LS with {what}"),
        ))
    };
    let (mut precision, mut preset) = (None, [0; 5]);
    let mut at = 2;
    loop {
        let Some(&[0xff, marker, l0, l1]) = data.get(at..).and_then(<[u8]>::first_chunk::<4>)
        else {
            return Err(damaged("no scan"));
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let Some(body) = data.get(at + 4..at + 2 + length.max(2)) else {
            return Err(damaged("header cut off"));
        };
        at += 2 + length.max(2);
        match (marker, body) {
            (0xf7, &[bits, y0, y1, x0, x1, components, ..]) => {
                let [rows, columns] = [[y0, y1], [x0, x1]].map(u16::from_be_bytes);
                same_size(slice, rows.into(), columns.into())?;
                if components != 1 {
                    return refuse("several components");
                }
                precision = Some(bits).filter(|bits| (2..=16).contains(bits));
            }
            (0xf8, &[1, ref numbers @ ..]) if numbers.len() == 10 => {
                for (value, pair) in preset.iter_mut().zip(numbers.chunks_exact(2)) {
                    *value = i32::from(u16::from_be_bytes([pair[0], pair[1]]));
                }
            }
            (0xf8, _) => return refuse("mapping tables"),
            (0xdd, body) if body.iter().any(|&b| b != 0) => return refuse("restart intervals"),
            (0xda, &[1, _, _, near, _, transform, ..]) => {
                if transform & 15 != 0 {
                    return refuse("a point transform");
                }
                let precision = precision.ok_or_else(|| damaged("no frame of 2 to 16 bits"))?;
                let parameters = Parameters::new(precision, near.into(), preset)
                    .ok_or_else(|| damaged("parameters out of range"))?;
                return Ok((parameters, &data[at..]));
            }
            (0xda, _) => return refuse("several components"),
            _ => {}
        }
    }
}

impl Parameters {
    /// Defaults stand where the preset is 0.
    fn new(precision: u8, near: i32, [maxval, t1, t2, t3, reset]: [i32; 5]) -> Option<Self> {
        let most = (1 << precision) - 1;
        let maxval = if maxval == 0 { most } else { maxval };
        if !(1..=most).contains(&maxval) || near > (maxval / 2).min(255) {
            return None;
        }
        let default = default_thresholds(maxval, near);
        let or = |preset: i32, default: i32| if preset == 0 { default } else { preset };
        let t = [or(t1, default[0]), or(t2, default[1]), or(t3, default[2])];
        let ordered = near < t[0] && t[0] <= t[1] && t[1] <= t[2] && t[2] <= maxval;
        let reset = or(reset, 64);
        (ordered && reset >= 3).then_some(Parameters {
            maxval,
            near,
            t,
            reset,
        })
    }
}

fn default_thresholds(maxval: i32, near: i32) -> [i32; 3] {
    let clamp = |value: i32, least: i32| {
        if value > maxval || value < least {
            least
        } else {
            value
        }
    };
    let basic = if maxval >= 128 {
        let factor = (maxval.min(4095) + 128) / 256;
        [
            factor + 2 + 3 * near,
            factor * 4 + 3 + 5 * near,
            factor * 17 + 4 + 7 * near,
        ]
    } else {
        let factor = 256 / (maxval + 1);
        [
            (3 / factor + 3 * near).max(2),
            (7 / factor + 5 * near).max(3),
            (21 / factor + 7 * near).max(4),
        ]
    };
    let t1 = clamp(basic[0], near + 1);
    let t2 = clamp(basic[1], t1);
    [t1, t2, clamp(basic[2], t2)]
}

/// Bits of a scan: the byte after 0xff carries seven.
struct BitReader<'a> {
    data: &'a [u8],
    /// Unread bits, the next one at the top.
    cache: u64,
    count: u32,
    after_ff: bool,
}

impl BitReader<'_> {
    fn fill(&mut self) {
        while self.count <= 56 {
            let Some((&byte, rest)) = self.data.split_first() else {
                return;
            };
            let width = if self.after_ff { 7 } else { 8 };
            // Eight bits after 0xff would be a marker: the scan is over.
            if self.after_ff && byte & 0x80 != 0 {
                self.data = &[];
                return;
            }
            self.cache |= u64::from(byte) << (64 - width - self.count);
            self.count += width;
            self.after_ff = byte == 0xff;
            self.data = rest;
        }
    }

    fn bits(&mut self, n: u32) -> Option<i32> {
        if n == 0 {
            return Some(0);
        }
        if self.count < n {
            self.fill();
            if self.count < n {
                return None;
            }
        }
        let value = self.cache >> (64 - n);
        self.cache <<= n;
        self.count -= n;
        Some(value as i32)
    }

    /// Zeros before the next one, which is consumed.
    fn zeros(&mut self) -> Option<i32> {
        let mut zeros = 0;
        loop {
            if self.count < 32 {
                self.fill();
            }
            let run = self.cache.leading_zeros().min(self.count);
            zeros += run;
            if run < self.count {
                // The shift is in two steps: all 64 bits at once would overflow it.
                self.cache = self.cache << run << 1;
                self.count -= run + 1;
                return Some(zeros as i32);
            }
            (self.cache, self.count) = (0, 0);
            if self.data.is_empty() || zeros > 128 {
                return None;
            }
        }
    }
}

/// Orders of run lengths (A.7.1.1).
const J: [u32; 32] = [
    0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13,
    14, 15,
];

/// A context of the regular mode.
#[derive(Clone, Copy)]
struct Context {
    a: i32,
    b: i32,
    c: i32,
    n: i32,
}

/// A context of run interruption.
#[derive(Clone, Copy)]
struct RunContext {
    a: i32,
    n: i32,
    negative: i32,
}

struct Decoder<'a> {
    p: Parameters,
    range: i32,
    qbpp: u32,
    limit: i32,
    regular: Vec<Context>,
    run: [RunContext; 2],
    run_index: usize,
    bits: BitReader<'a>,
}

/// Damaged streams alone have larger errors.
const MAX_ERROR: i32 = 1 << 16;

impl<'a> Decoder<'a> {
    fn new(p: Parameters, bits: BitReader<'a>) -> Self {
        let range = (p.maxval + 2 * p.near) / (2 * p.near + 1) + 1;
        let width = |most: i32| 32 - (most.max(1) as u32).leading_zeros();
        let bpp = width(p.maxval).max(2) as i32;
        let a = ((range + 32) / 64).max(2);
        Decoder {
            p,
            range,
            qbpp: width(range - 1),
            limit: 2 * (bpp + bpp.max(8)),
            regular: vec![
                Context {
                    a,
                    b: 0,
                    c: 0,
                    n: 1
                };
                365
            ],
            run: [RunContext {
                a,
                n: 1,
                negative: 0,
            }; 2],
            run_index: 0,
            bits,
        }
    }

    fn image(&mut self, rows: usize, columns: usize) -> Option<Vec<u16>> {
        let mut out = Vec::with_capacity(rows * columns);
        // A sample to the left and one to the right of each line stand for its neighbours outside.
        let mut previous = vec![0; columns + 2];
        let mut current = previous.clone();
        for _ in 0..rows {
            current[0] = previous[1];
            previous[columns + 1] = previous[columns];
            self.line(&previous, &mut current, columns)?;
            out.extend(current[1..=columns].iter().map(|&v| v as u16));
            std::mem::swap(&mut previous, &mut current);
        }
        Some(out)
    }

    fn line(&mut self, above: &[i32], line: &mut [i32], columns: usize) -> Option<()> {
        let mut at = 1;
        while at <= columns {
            let [a, b, c, d] = [line[at - 1], above[at], above[at - 1], above[at + 1]];
            let gradients = [d - b, b - c, c - a];
            if gradients.iter().all(|g| g.abs() <= self.p.near) {
                let run = self.run_length(columns + 1 - at)?;
                line[at..at + run].fill(a);
                at += run;
                if at <= columns {
                    line[at] = self.interruption(a, above[at])?;
                    self.run_index = self.run_index.saturating_sub(1);
                    at += 1;
                }
            } else {
                line[at] = self.regular([a, b, c], gradients)?;
                at += 1;
            }
        }
        Some(())
    }

    /// A.4 to A.6.
    fn regular(&mut self, [a, b, c]: [i32; 3], gradients: [i32; 3]) -> Option<i32> {
        let [q1, q2, q3] = gradients.map(|g| self.quantise(g));
        let q = 81 * q1 + 9 * q2 + q3;
        let sign = if q < 0 { -1 } else { 1 };
        let p = self.p;
        let context = &mut self.regular[q.unsigned_abs() as usize];
        let k = golomb(context.n, context.a);
        let coded = code(&mut self.bits, k, self.limit, self.qbpp)?;
        // A.5.2: for one kind of bias the mapping runs the other way.
        let turned = p.near == 0 && k == 0 && 2 * context.b <= -context.n;
        let half = coded >> 1;
        let error = if (coded & 1 == 1) == turned {
            half
        } else {
            -half - 1
        };
        if error.abs() > MAX_ERROR {
            return None;
        }
        let median = if c >= a.max(b) {
            a.min(b)
        } else if c <= a.min(b) {
            a.max(b)
        } else {
            a + b - c
        };
        let predicted = (median + sign * context.c).clamp(0, p.maxval);
        context.update(error, &p);
        Some(self.reconstruct(predicted, sign * error))
    }

    fn quantise(&self, gradient: i32) -> i32 {
        let [t1, t2, t3] = self.p.t;
        let size = match gradient.abs() {
            g if g <= self.p.near => 0,
            g if g < t1 => 1,
            g if g < t2 => 2,
            g if g < t3 => 3,
            _ => 4,
        };
        size * gradient.signum()
    }

    /// A.7.1.2: how many samples equal the one to the left.
    fn run_length(&mut self, left: usize) -> Option<usize> {
        let mut length = 0;
        while self.bits.bits(1)? == 1 {
            let full = 1 << J[self.run_index];
            let step = full.min(left - length);
            length += step;
            if step == full {
                self.run_index = (self.run_index + 1).min(31);
            }
            if length == left {
                return Some(length);
            }
        }
        length += self.bits.bits(J[self.run_index])? as usize;
        (length < left).then_some(length)
    }

    /// A.7.2: the sample that ends a run.
    fn interruption(&mut self, a: i32, b: i32) -> Option<i32> {
        let same = (a - b).abs() <= self.p.near;
        let kind = i32::from(same);
        let context = &mut self.run[usize::from(same)];
        let k = golomb(context.n, context.a + (context.n >> 1) * kind);
        let limit = self.limit - J[self.run_index] as i32 - 1;
        let coded = code(&mut self.bits, k, limit, self.qbpp)?;
        let mapped = coded + kind;
        let odd = mapped & 1 == 1;
        let size = (mapped + 1) >> 1;
        let negative = (k != 0 || 2 * context.negative >= context.n) == odd;
        let error = if negative { -size } else { size };
        if error.abs() > MAX_ERROR {
            return None;
        }
        context.update(error, coded, kind, self.p.reset);
        Some(if same {
            self.reconstruct(a, error)
        } else {
            self.reconstruct(b, error * (b - a).signum())
        })
    }

    /// A.4.5: modulo reduction the other way, then the range of samples.
    fn reconstruct(&self, predicted: i32, error: i32) -> i32 {
        let step = 2 * self.p.near + 1;
        let mut value = predicted + error * step;
        if value < -self.p.near {
            value += self.range * step;
        } else if value > self.p.maxval + self.p.near {
            value -= self.range * step;
        }
        value.clamp(0, self.p.maxval)
    }
}

impl Context {
    /// A.6.1 and A.6.2.
    fn update(&mut self, error: i32, p: &Parameters) {
        self.b += error * (2 * p.near + 1);
        self.a += error.abs();
        if self.n == p.reset {
            self.a >>= 1;
            self.b = if self.b >= 0 {
                self.b >> 1
            } else {
                -((1 - self.b) >> 1)
            };
            self.n >>= 1;
        }
        self.n += 1;
        if self.b <= -self.n {
            self.b = (self.b + self.n).max(1 - self.n);
            self.c = (self.c - 1).max(-128);
        } else if self.b > 0 {
            self.b = (self.b - self.n).min(0);
            self.c = (self.c + 1).min(127);
        }
    }
}

impl RunContext {
    fn update(&mut self, error: i32, coded: i32, kind: i32, reset: i32) {
        self.negative += i32::from(error < 0);
        self.a += (coded + 1 - kind) >> 1;
        if self.n == reset {
            self.a >>= 1;
            self.n >>= 1;
            self.negative >>= 1;
        }
        self.n += 1;
    }
}

/// The Golomb parameter: the first `k` with `n * 2^k >= a`.
fn golomb(n: i32, a: i32) -> u32 {
    let mut k = 0;
    while i64::from(n) << k < i64::from(a) {
        k += 1;
    }
    k
}

/// A.5.3: a number in limited-length Golomb code.
fn code(bits: &mut BitReader<'_>, k: u32, limit: i32, qbpp: u32) -> Option<i32> {
    let zeros = bits.zeros()?;
    if zeros >= limit - qbpp as i32 - 1 {
        return Some(bits.bits(qbpp)? + 1);
    }
    let high = i64::from(zeros) << k;
    let value = high + i64::from(bits.bits(k)?);
    // Only damage gives more: the bound keeps the sums of the contexts small.
    i32::try_from(value).ok().filter(|&v| v <= 2 * MAX_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_thresholds_are_the_standards() {
        assert_eq!(default_thresholds(255, 0), [3, 7, 21]);
        assert_eq!(default_thresholds(4095, 0), [18, 67, 276]);
        assert_eq!(default_thresholds(65535, 0), [18, 67, 276]);
        assert_eq!(default_thresholds(255, 2), [9, 17, 35]);
    }

    /// The worked example of the standard (annex H.3): a 4 x 4 image of 8 bits.
    #[test]
    fn the_worked_example_of_the_standard() {
        let scan = [
            0xc0, 0x00, 0x00, 0x6c, 0x80, 0x20, 0x8e, 0x01, 0xc0, 0x00, 0x00, 0x57, 0x40, 0x00,
            0x00, 0x6e, 0xe6, 0x00, 0x00, 0x01, 0xbc, 0x18, 0x00, 0x00, 0x05, 0xd8, 0x00, 0x00,
            0x91, 0x60,
        ];
        let bits = BitReader {
            data: &scan,
            cache: 0,
            count: 0,
            after_ff: false,
        };
        let parameters = Parameters::new(8, 0, [0; 5]).unwrap();
        let image = Decoder::new(parameters, bits).image(4, 4).unwrap();
        let expected = [
            0, 0, 90, 74, 68, 50, 43, 205, 64, 145, 145, 145, 100, 145, 145, 145,
        ];
        assert_eq!(image, expected);
    }
}
