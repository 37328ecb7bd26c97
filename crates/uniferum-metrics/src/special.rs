//! The few special functions the intervals and tests need.

use std::f64::consts::{PI, SQRT_2};

/// Distribution function of the standard normal.
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x / SQRT_2)
}

/// Two-sided p-value of a standard normal statistic: `P(|Z| >= |z|)`.
pub fn two_sided_p(z: f64) -> f64 {
    libm::erfc(z.abs() / SQRT_2)
}

/// Quantile of the standard normal, to the last few bits of an `f64`.
///
/// `p` outside 0..=1 gives NaN; 0 and 1 give the infinities.
///
/// # Reference
/// Starting value: Abramowitz & Stegun 26.2.23; two Halley steps on `erfc` then converge.
pub fn normal_quantile(p: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) {
        return f64::NAN;
    }
    if p == 0.0 || p == 1.0 {
        return if p == 0.0 {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        };
    }
    // The lower tail keeps its relative precision, so the upper one is mirrored.
    if p > 0.5 {
        return -normal_quantile(1.0 - p);
    }
    let t = (-2.0 * p.ln()).sqrt();
    let mut x = -(t
        - (2.515517 + t * (0.802853 + t * 0.010328))
            / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))));
    for _ in 0..3 {
        let error = (normal_cdf(x) - p) * (2.0 * PI).sqrt() * (0.5 * x * x).exp();
        x -= error / (1.0 + 0.5 * x * error);
    }
    x
}

/// Upper tail of the chi-squared distribution with `df` degrees of freedom.
///
/// # Reference
/// Regularised incomplete gamma function: series below `a + 1`, Lentz's continued fraction above.
pub fn chi_squared_sf(x: f64, df: f64) -> f64 {
    if x.is_nan() || df.is_nan() || df <= 0.0 {
        return f64::NAN;
    }
    if x <= 0.0 {
        return 1.0;
    }
    if x.is_infinite() {
        return 0.0;
    }
    let (a, x) = (0.5 * df, 0.5 * x);
    let front = (a * x.ln() - x - libm::lgamma(a)).exp();
    if x < a + 1.0 {
        1.0 - front * gamma_series(a, x)
    } else {
        front * gamma_fraction(a, x)
    }
}

fn gamma_series(a: f64, x: f64) -> f64 {
    let mut term = 1.0 / a;
    let mut sum = term;
    let mut k = a;
    for _ in 0..10_000 {
        k += 1.0;
        term *= x / k;
        sum += term;
        if term.abs() < sum.abs() * 1e-17 {
            break;
        }
    }
    sum
}

fn gamma_fraction(a: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut h = d;
    for i in 1..10_000 {
        let n = -(i as f64) * (i as f64 - a);
        b += 2.0;
        d = 1.0 / nonzero(n * d + b, TINY);
        c = nonzero(b + n / c, TINY);
        let step = d * c;
        h *= step;
        if (step - 1.0).abs() < 1e-16 {
            break;
        }
    }
    h
}

fn nonzero(x: f64, tiny: f64) -> f64 {
    if x.abs() < tiny { tiny } else { x }
}

/// Logistic function, stable at both ends.
pub(crate) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// `ln(p / (1 - p))` with `p` kept `margin` away from 0 and 1.
pub(crate) fn clipped_logit(p: f64, margin: f64) -> f64 {
    let p = p.clamp(margin, 1.0 - margin);
    (p / (1.0 - p)).ln()
}

/// `ln(1 + e^x)` without overflow.
pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Wilson's limits of a share seen in `n` cases, `n` not necessarily whole.
pub(crate) fn wilson(share: f64, n: f64, z: f64) -> (f64, f64) {
    let z2 = z * z / n;
    let centre = (share + 0.5 * z2) / (1.0 + z2);
    let half = z / (1.0 + z2) * ((share * (1.0 - share) + 0.25 * z2) / n).sqrt();
    // At the ends the limits are exact; rounding must not move them.
    let low = if share <= 0.0 {
        0.0
    } else {
        (centre - half).max(0.0)
    };
    let high = if share >= 1.0 {
        1.0
    } else {
        (centre + half).min(1.0)
    };
    (low, high)
}

/// Root of an increasing or decreasing function by bisection, to the last bit.
pub(crate) fn bisect(mut lo: f64, mut hi: f64, f: impl Fn(f64) -> f64) -> f64 {
    let rising = f(hi) > f(lo);
    for _ in 0..200 {
        let mid = 0.5 * (lo + hi);
        if mid <= lo || mid >= hi {
            break;
        }
        if (f(mid) > 0.0) == rising {
            hi = mid
        } else {
            lo = mid
        }
    }
    0.5 * (lo + hi)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_inverts_cdf() {
        assert!((normal_quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-15);
        assert!((normal_quantile(1e-20) + 9.262_340_089_798_408).abs() < 1e-12);
        assert!(normal_quantile(0.5).abs() < 1e-17);
        assert!(normal_quantile(-0.1).is_nan());
        for i in 1..400 {
            let p = i as f64 / 400.0;
            assert!((normal_cdf(normal_quantile(p)) - p).abs() < 1e-15);
        }
    }

    #[test]
    fn chi_squared_matches_tables() {
        // One degree of freedom is the square of a normal.
        for z in [0.1, 1.0, 1.96, 4.0, 9.0] {
            let p = two_sided_p(z);
            assert!(
                (chi_squared_sf(z * z, 1.0) - p).abs() <= 1e-13 * p.max(1e-3),
                "{z}"
            );
        }
        // Two degrees of freedom have a closed form.
        assert!((chi_squared_sf(5.0, 2.0) - (-2.5f64).exp()).abs() < 1e-15);
        assert!((chi_squared_sf(18.307_038_053_275_146, 10.0) - 0.05).abs() < 1e-13);
    }
}
