//! The family's table of blocks, scaled by width and depth.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The ratio of every input side to the same side of the feature map, rounded up.
const STRIDE: usize = 32;
const STEM_CHANNELS: usize = 32;
const HEAD_CHANNELS: usize = 1280;
const CHANNEL_STEP: usize = 8;

/// Kernel, stride, expansion, channels and repeats of the seven stages of B0.
const STAGES: [Stage; 7] = [
    Stage::new(3, 1, 1, 16, 1),
    Stage::new(3, 2, 6, 24, 2),
    Stage::new(5, 2, 6, 40, 2),
    Stage::new(3, 2, 6, 80, 3),
    Stage::new(5, 1, 6, 112, 3),
    Stage::new(5, 2, 6, 192, 4),
    Stage::new(3, 1, 6, 320, 1),
];

struct Stage {
    kernel: usize,
    stride: usize,
    expansion: usize,
    channels: usize,
    repeats: usize,
}

impl Stage {
    const fn new(
        kernel: usize,
        stride: usize,
        expansion: usize,
        channels: usize,
        repeats: usize,
    ) -> Self {
        Self {
            kernel,
            stride,
            expansion,
            channels,
            repeats,
        }
    }
}

/// A member of the EfficientNet family.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(
    rename_all = "snake_case",
    expecting = "expected \"b0\", \"b1\", \"b2\", \"b3\", \"b4\" or { width = 0.5, depth = 0.5 }"
)]
pub enum Variant {
    /// Width 1.0, depth 1.0: the network of the paper.
    #[default]
    B0,
    /// Width 1.0, depth 1.1.
    B1,
    /// Width 1.1, depth 1.2.
    B2,
    /// Width 1.2, depth 1.4.
    B3,
    /// Width 1.4, depth 1.8.
    B4,
    /// Any other width and depth, for example a thin network for a small machine.
    #[serde(untagged)]
    Custom {
        /// Factor of every channel count, rounded to a multiple of 8.
        width: f64,
        /// Factor of every stage's number of blocks, rounded up.
        depth: f64,
    },
}

impl Variant {
    /// Factors of the channel counts and of the numbers of blocks.
    pub fn coefficients(self) -> (f64, f64) {
        match self {
            Self::B0 => (1.0, 1.0),
            Self::B1 => (1.0, 1.1),
            Self::B2 => (1.1, 1.2),
            Self::B3 => (1.2, 1.4),
            Self::B4 => (1.4, 1.8),
            Self::Custom { width, depth } => (width, depth),
        }
    }
}

/// Which network to build.
///
/// ```
/// use uniferum_encoder::{EncoderConfig, Variant};
/// let cfg = EncoderConfig::default();
/// assert_eq!(cfg.variant, Variant::B0);
/// assert_eq!(cfg.out_channels(), 1280);
/// assert_eq!(cfg.grid([256, 160, 128]), [8, 5, 4]);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderConfig {
    /// The member of the family.
    pub variant: Variant,
    /// Channels of the image, 1 for CT.
    pub in_channels: usize,
}

impl Default for EncoderConfig {
    /// EfficientNet-B0 on one channel.
    ///
    /// # Reference
    /// Section 3.1 of the paper.
    fn default() -> Self {
        Self {
            variant: Variant::B0,
            in_channels: 1,
        }
    }
}

/// One inverted-residual block of the network, fully resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Stage that the block belongs to, from 0.
    pub stage: usize,
    /// Place within the stage, from 0.
    pub index: usize,
    /// Channels that come in.
    pub in_channels: usize,
    /// Channels inside, after the expansion; as many as come in when there is no expansion.
    pub mid_channels: usize,
    /// Channels that go out.
    pub out_channels: usize,
    /// Channels of the squeeze-and-excitation bottleneck.
    pub se_channels: usize,
    /// Side of the depthwise kernel.
    pub kernel: usize,
    /// Stride of the depthwise convolution, the same along the three axes.
    pub stride: usize,
    /// Whether a 1x1x1 convolution widens the input first; stage 0 has none.
    pub expands: bool,
}

impl Block {
    /// Whether the input is added to the output.
    pub fn has_skip(&self) -> bool {
        self.stride == 1 && self.in_channels == self.out_channels
    }
}

impl EncoderConfig {
    /// Configuration of a family member for single-channel volumes.
    pub fn new(variant: Variant) -> Self {
        Self {
            variant,
            ..Self::default()
        }
    }

    /// Channels of the stem convolution.
    pub fn stem_channels(&self) -> usize {
        self.round_channels(STEM_CHANNELS)
    }

    /// Channels of the feature map.
    pub fn out_channels(&self) -> usize {
        self.round_channels(HEAD_CHANNELS)
    }

    /// All blocks in order.
    pub fn blocks(&self) -> Vec<Block> {
        let (_, depth) = self.variant.coefficients();
        let mut in_channels = self.stem_channels();
        let mut blocks = Vec::new();
        for (stage, spec) in STAGES.iter().enumerate() {
            let repeats = (spec.repeats as f64 * depth).ceil() as usize;
            let out_channels = self.round_channels(spec.channels);
            for index in 0..repeats {
                blocks.push(Block {
                    stage,
                    index,
                    in_channels,
                    mid_channels: in_channels * spec.expansion,
                    out_channels,
                    se_channels: in_channels / 4,
                    kernel: spec.kernel,
                    stride: if index == 0 { spec.stride } else { 1 },
                    expands: spec.expansion != 1,
                });
                in_channels = out_channels;
            }
        }
        blocks
    }

    /// Sides of the feature map of a volume with the given sides.
    pub fn grid(&self, volume: [usize; 3]) -> [usize; 3] {
        volume.map(|side| side.div_ceil(STRIDE))
    }

    /// Checks that the configuration describes a network.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let (width, depth) = self.variant.coefficients();
        for (field, value) in [("variant.width", width), ("variant.depth", depth)] {
            if !(value.is_finite() && 0.0 < value && value <= 16.0) {
                return Err(Error::Config {
                    field,
                    expected: "a number above 0 and at most 16".into(),
                    got: value.to_string(),
                });
            }
        }
        if self.in_channels == 0 {
            return Err(Error::Config {
                field: "in_channels",
                expected: "at least 1".into(),
                got: "0".into(),
            });
        }
        Ok(())
    }

    /// Scales a channel count and rounds it to a multiple of 8, never down by more than 10 %.
    fn round_channels(&self, channels: usize) -> usize {
        let scaled = channels as f64 * self.variant.coefficients().0;
        let step = CHANNEL_STEP as f64;
        let rounded = (((scaled + step / 2.0) / step).floor() * step).max(step);
        let rounded = if rounded < 0.9 * scaled {
            rounded + step
        } else {
            rounded
        };
        rounded as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b0_has_sixteen_blocks_with_the_known_widths() {
        let blocks = EncoderConfig::default().blocks();
        let widths: Vec<_> = blocks.iter().map(|b| b.out_channels).collect();
        assert_eq!(
            widths,
            [
                16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320
            ]
        );
        assert_eq!(blocks[1].mid_channels, 96);
        assert_eq!(blocks[1].se_channels, 4);
        assert!(!blocks[0].expands && blocks[2].has_skip() && !blocks[3].has_skip());
    }

    #[test]
    fn b4_is_wider_and_deeper() {
        let cfg = EncoderConfig::new(Variant::B4);
        assert_eq!(cfg.stem_channels(), 48);
        assert_eq!(cfg.out_channels(), 1792);
        assert_eq!(cfg.blocks().len(), 32);
        assert_eq!(cfg.blocks().last().map(|b| b.out_channels), Some(448));
    }

    #[test]
    fn variants_read_and_write_as_words() {
        let text = serde_json::to_string(&EncoderConfig::new(Variant::B2)).unwrap();
        assert_eq!(text, r#"{"variant":"b2","in_channels":1}"#);
        let custom: EncoderConfig =
            serde_json::from_str(r#"{"variant":{"width":0.5,"depth":1.0}}"#).unwrap();
        assert_eq!(custom.stem_channels(), 16);
        let error = serde_json::from_str::<EncoderConfig>(r#"{"channels":3}"#).unwrap_err();
        assert!(error.to_string().contains("channels"), "{error}");
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let zero = EncoderConfig::new(Variant::Custom {
            width: 0.0,
            depth: 1.0,
        });
        let message = zero.validate().unwrap_err().to_string();
        assert!(message.contains("variant.width"), "{message}");
    }
}
