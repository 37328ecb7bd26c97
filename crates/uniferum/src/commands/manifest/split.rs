//! How a collection without a split of its own is split.

use uniferum_data::{SplitBy, SplitPlan};

/// Splits by patient, the same for the same seed.
#[derive(Debug, clap::Args)]
pub(super) struct SplitArgs {
    /// Share of the patients held out for validation
    #[arg(long, value_name = "SHARE", value_parser = share, allow_negative_numbers = true)]
    val_share: Option<f64>,

    /// Share of the patients held out for test
    #[arg(long, value_name = "SHARE", value_parser = share, allow_negative_numbers = true)]
    test_share: Option<f64>,

    /// Seed of the draw of held-out patients
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(super) split_seed: u64,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|s| (0.0..1.0).contains(s));
    share.ok_or_else(|| "expected a share of 0 to 1, such as 0.1".to_owned())
}

impl SplitArgs {
    /// The plan that was asked for, if one was.
    pub(super) fn plan(&self) -> Option<SplitPlan> {
        if self.val_share.is_none() && self.test_share.is_none() {
            return None;
        }
        Some(SplitPlan {
            by: SplitBy::Shares {
                val: self.val_share.unwrap_or(0.0),
                test: self.test_share.unwrap_or(0.0),
            },
            seed: self.split_seed,
        })
    }
}
