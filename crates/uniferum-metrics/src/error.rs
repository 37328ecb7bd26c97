use thiserror::Error;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with the input of a metric.
///
/// A label without positives or without negatives is *not* an error: see [`Undefined`].
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// Two columns that belong together, mostly one value a case, differ in length.
    #[error("{what}: expected {expected} values, got {got}")]
    Length {
        /// The column at fault.
        what: &'static str,
        /// Number of values of the other column.
        expected: usize,
        /// Number of values found.
        got: usize,
    },
    /// Of two columns over the same cases only one knows their clusters (patients).
    #[error(
        "{what}: expected cases {} clusters, got cases {} clusters",
        if *expected { "with" } else { "without" },
        if *expected { "without" } else { "with" }
    )]
    Clustering {
        /// The column at fault.
        what: &'static str,
        /// Whether the other column is clustered.
        expected: bool,
    },
    /// A score is NaN or infinite.
    #[error("score of case {index} is {value}: scores must be finite")]
    NonFiniteScore {
        /// Position of the case, from 0.
        index: usize,
        /// The offending value.
        value: f64,
    },
    /// A label is neither 0, 1 nor missing.
    #[error("label of case {index} is {value}: expected 0, 1 or NaN (missing)")]
    InvalidLabel {
        /// Position of the case, from 0.
        index: usize,
        /// The offending value.
        value: f64,
    },
    /// A weight is negative, NaN, or so large or small that sums of products would not be numbers.
    #[error("weight of case {index} is {value}: weights must be 0, or between 1e-60 and 1e60")]
    InvalidWeight {
        /// Position of the case, from 0.
        index: usize,
        /// The offending value.
        value: f64,
    },
    /// A probability lies outside 0..=1.
    #[error("probability of case {index} is {value}: expected a value from 0 to 1")]
    NotAProbability {
        /// Position of the case, from 0.
        index: usize,
        /// The offending value.
        value: f64,
    },
    /// A metric of both classes where one is absent, for callers to whom that is an error.
    #[error(transparent)]
    Undefined(#[from] Undefined),
    /// An option has a value outside its range.
    #[error("{name} is {got}: expected {expected}")]
    Option {
        /// Name of the option.
        name: &'static str,
        /// What it accepts.
        expected: &'static str,
        /// The value given.
        got: f64,
    },
}

/// The state of a metric that needs both classes when one of them is absent.
///
/// It is a state, not an error: macro averages leave such labels out and say so. Functions that refuse
/// wrong input besides ([`enum@Error`]) have `None` for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error, serde::Serialize, serde::Deserialize)]
#[error("undefined with {n_pos} positive and {n_neg} negative cases")]
pub struct Undefined {
    /// Positive cases.
    pub n_pos: usize,
    /// Negative cases.
    pub n_neg: usize,
}

pub(crate) fn check_len(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        Ok(())
    } else {
        Err(Error::Length {
            what,
            expected,
            got,
        })
    }
}

/// Both columns know their clusters, or neither.
pub(crate) fn check_clustering(what: &'static str, expected: bool, got: bool) -> Result<()> {
    if expected == got {
        Ok(())
    } else {
        Err(Error::Clustering { what, expected })
    }
}

/// Nothing is at or above NaN, and nothing below.
pub(crate) fn check_threshold(value: f64) -> Result<()> {
    if value.is_nan() {
        return Err(Error::Option {
            name: "threshold",
            expected: "a number",
            got: value,
        });
    }
    Ok(())
}

/// `value` must lie strictly between 0 and 1.
pub(crate) fn check_open_unit(name: &'static str, value: f64) -> Result<()> {
    if value > 0.0 && value < 1.0 {
        Ok(())
    } else {
        Err(Error::Option {
            name,
            expected: "a value strictly between 0 and 1",
            got: value,
        })
    }
}
