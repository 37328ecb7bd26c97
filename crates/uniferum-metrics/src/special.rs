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

/// Above this many degrees of freedom Student's t is taken from the normal law by Wallace's
/// transformation, which is then right to more digits than the fraction.
const MANY_DF: f64 = 1e5;

/// Two-sided p-value of Student's t with `df` degrees of freedom, not necessarily whole.
///
/// # Reference
/// Regularised incomplete beta function by Lentz's continued fraction; Wallace 1959 for large `df`.
pub fn two_sided_t(t: f64, df: f64) -> f64 {
    if t.is_nan() || df.is_nan() || df <= 0.0 {
        return f64::NAN;
    }
    if df > MANY_DF {
        return two_sided_p(wallace(df) * (df * (t * t / df).ln_1p()).sqrt());
    }
    let square = t * t;
    if square.is_infinite() {
        return 0.0;
    }
    // The complement is passed too: `1 - x` would lose the small one.
    beta_share(0.5 * df, 0.5, df / (df + square), square / (df + square))
}

/// The `t` beyond which, on both sides together, Student's law leaves `1 - level`; NaN without a degree of
/// freedom.
pub fn t_quantile(level: f64, df: f64) -> f64 {
    if level.is_nan() || df.is_nan() || df <= 0.0 {
        return f64::NAN;
    }
    let z = normal_quantile(0.5 + 0.5 * level);
    if df > MANY_DF {
        return (df * ((z / wallace(df)).powi(2) / df).exp_m1()).sqrt();
    }
    let alpha = 1.0 - level;
    let mut high = z.max(1.0);
    while two_sided_t(high, df) > alpha && high < f64::MAX {
        high *= 2.0;
    }
    bisect(0.0, high, |t| two_sided_t(t, df) - alpha)
}

fn wallace(df: f64) -> f64 {
    (8.0 * df + 1.0) / (8.0 * df + 3.0)
}

/// Regularised incomplete beta function `I_x(a, b)`; `y` is `1 - x`.
fn beta_share(a: f64, b: f64, x: f64, y: f64) -> f64 {
    if x <= 0.0 || y <= 0.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    // The fraction converges fast below the mean.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta_share(b, a, y, x);
    }
    let scale = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b);
    let front = (scale + a * x.ln() + b * y.ln()).exp();
    front * beta_fraction(a, b, x) / a
}

fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let mut c = 1.0;
    let mut d = 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0), TINY);
    let mut h = d;
    for i in 1..10_000 {
        let m = i as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = h;
        for term in [even, odd] {
            d = 1.0 / nonzero(1.0 + term * d, TINY);
            c = nonzero(1.0 + term / c, TINY);
            h *= d * c;
        }
        if (h / before - 1.0).abs() < 1e-16 {
            break;
        }
    }
    h
}

fn nonzero(x: f64, tiny: f64) -> f64 {
    if x.abs() < tiny { tiny } else { x }
}

/// Logistic function `1 / (1 + e^-x)`, stable at both ends.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// `ln(p / (1 - p))` with `p` kept `margin` away from 0 and 1, where it would be infinite.
pub fn clipped_logit(p: f64, margin: f64) -> f64 {
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
    fn student_matches_closed_forms_and_tables() {
        for t in [0.01f64, 0.7, 2.0, 12.7, 400.0] {
            let one = 1.0 - 2.0 * t.atan() / PI;
            let two = 1.0 - t / (2.0 + t * t).sqrt();
            assert!((two_sided_t(t, 1.0) - one).abs() < 1e-13, "{t}");
            assert!((two_sided_t(-t, 2.0) - two).abs() < 1e-13, "{t}");
        }
        let table = [
            (1.0, 12.706_204_736_174_698),
            (2.5, 3.574_654_842_003_682),
            (5.0, 2.570_581_835_636_314),
            (30.0, 2.042_272_456_301_238),
            (1000.0, 1.962_339_080_826_407),
        ];
        for (df, t) in table {
            assert!((t_quantile(0.95, df) / t - 1.0).abs() < 1e-11, "{df}");
        }
        // Both ways of computing agree where they meet, and tend to the normal law.
        for df in [0.999 * MANY_DF, 1.001 * MANY_DF] {
            assert!((two_sided_t(t_quantile(0.99, df), df) - 0.01).abs() < 1e-12);
            let cornish = 1.959_963_984_540_054 + 2.372_271_230_7 / df;
            assert!((t_quantile(0.95, df) - cornish).abs() < 1e-9, "{df}");
        }
        assert!((t_quantile(0.95, 1e12) - normal_quantile(0.975)).abs() < 1e-11);
        assert!(two_sided_t(f64::INFINITY, 3.0) == 0.0 && two_sided_t(0.0, 3.0) == 1.0);
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
