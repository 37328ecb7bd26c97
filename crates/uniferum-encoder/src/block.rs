//! The inverted-residual block and the convolutions around it.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use uniferum_kernels::{self as kernels, Conv3dConfig, Padding3};

use crate::batch_norm::{BatchNorm, EPS, Mode, too_few_values};
use crate::config::Block;
use crate::error::Result;

/// A convolution without bias, followed by batch normalisation.
#[derive(Debug, Clone)]
pub(crate) struct ConvNorm {
    weight: Tensor,
    cfg: Conv3dConfig,
    norm: BatchNorm,
}

/// Channels in and out, side of the kernel, stride and groups of a convolution.
pub(crate) struct ConvShape {
    pub(crate) channels: (usize, usize),
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) groups: usize,
}

impl ConvNorm {
    pub(crate) fn new(shape: ConvShape, conv: VarBuilder, norm: VarBuilder) -> Result<Self> {
        let (c_in, c_out) = shape.channels;
        let k = shape.kernel;
        let weight = conv.get_with_hints(
            (c_out, c_in / shape.groups, k, k, k),
            "weight",
            fan_out_normal(k * k * k * c_out / shape.groups),
        )?;
        let cfg = Conv3dConfig {
            stride: [shape.stride; 3],
            padding: Padding3::Same,
            groups: shape.groups,
        };
        Ok(Self {
            weight,
            cfg,
            norm: BatchNorm::new(c_out, norm)?,
        })
    }

    pub(crate) fn pointwise(
        c_in: usize,
        c_out: usize,
        conv: VarBuilder,
        norm: VarBuilder,
    ) -> Result<Self> {
        let shape = ConvShape {
            channels: (c_in, c_out),
            kernel: 1,
            stride: 1,
            groups: 1,
        };
        Self::new(shape, conv, norm)
    }

    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let weight = mode.weight(&self.weight);
        let y = kernels::conv3d(x, &weight, None, &self.cfg)?;
        self.norm.forward(&y, mode)
    }

    pub(crate) fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub(crate) fn norm(&self) -> &BatchNorm {
        &self.norm
    }

    /// Every tensor that evaluation depends on.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.weight).chain(self.norm.tensors())
    }

    pub(crate) fn forward_silu(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let weight = mode.weight(&self.weight);
        let y = kernels::conv3d(x, &weight, None, &self.cfg)?;
        self.norm.forward_silu(&y, mode)
    }
}

/// The tensors of a [`ConvNorm`] as one pass sees them.
pub(crate) struct LayerTensors {
    cfg: Conv3dConfig,
    weight: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running: Option<(Tensor, Tensor)>,
}

impl LayerTensors {
    pub(crate) fn new(layer: &ConvNorm, mode: Mode) -> Self {
        let (gamma, beta) = layer.norm.parameters(mode);
        Self {
            cfg: layer.cfg,
            weight: mode.weight(&layer.weight),
            gamma,
            beta,
            running: (mode != Mode::Train).then(|| layer.norm.running()),
        }
    }

    /// The layer with SiLU behind it.
    pub(crate) fn stage(&self) -> kernels::Stage<'_> {
        kernels::Stage::ConvNormSilu(kernels::ConvNormSilu {
            conv: self.view(),
            cfg: self.cfg,
            eps: EPS,
        })
    }

    fn view(&self) -> kernels::NormedConv<'_> {
        kernels::NormedConv {
            weight: &self.weight,
            gamma: &self.gamma,
            beta: &self.beta,
            running: self.running.as_ref().map(|(mean, var)| (mean, var)),
        }
    }
}

/// Weights that let channels speak to each other through their means.
#[derive(Debug, Clone)]
pub(crate) struct SqueezeExcite {
    w_reduce: Tensor,
    b_reduce: Tensor,
    w_expand: Tensor,
    b_expand: Tensor,
}

impl SqueezeExcite {
    fn new(channels: usize, squeezed: usize, vb: VarBuilder) -> Result<Self> {
        let get = |name: &str, c_out: usize, c_in: usize| {
            let vb = vb.pp(name);
            let weight =
                vb.get_with_hints((c_out, c_in, 1, 1, 1), "weight", fan_out_normal(c_out))?;
            let bias = vb.get_with_hints(c_out, "bias", Init::Const(0.0))?;
            candle_core::Result::Ok((weight, bias))
        };
        let (w_reduce, b_reduce) = get("conv_reduce", squeezed, channels)?;
        let (w_expand, b_expand) = get("conv_expand", channels, squeezed)?;
        Ok(Self {
            w_reduce,
            b_reduce,
            w_expand,
            b_expand,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(kernels::squeeze_excite(
            x,
            &mode.weight(&self.w_reduce),
            &mode.weight(&self.b_reduce),
            &mode.weight(&self.w_expand),
            &mode.weight(&self.b_expand),
        )?)
    }
}

impl SqueezeExcite {
    /// Weight and bias of the reducing and of the expanding layer.
    pub(crate) fn layers(&self) -> [(&Tensor, &Tensor); 2] {
        [
            (&self.w_reduce, &self.b_reduce),
            (&self.w_expand, &self.b_expand),
        ]
    }
}

/// The parts of an [`InvertedResidual`].
pub(crate) struct Layers<'a> {
    pub(crate) expand: Option<&'a ConvNorm>,
    pub(crate) depthwise: &'a ConvNorm,
    pub(crate) squeeze_excite: &'a SqueezeExcite,
    pub(crate) project: &'a ConvNorm,
}

/// Expansion, depthwise convolution, squeeze-and-excitation, projection.
#[derive(Debug, Clone)]
pub(crate) struct InvertedResidual {
    spec: Block,
    expand: Option<ConvNorm>,
    depthwise: ConvNorm,
    squeeze_excite: SqueezeExcite,
    project: ConvNorm,
}

impl InvertedResidual {
    pub(crate) fn new(spec: Block, vb: VarBuilder) -> Result<Self> {
        // timm numbers the norms in the order of the convolutions, so that without an
        // expansion every name moves up by one.
        let (norms, project) = if spec.expands {
            (["bn1", "bn2", "bn3"], "conv_pwl")
        } else {
            (["", "bn1", "bn2"], "conv_pw")
        };
        let expand = if spec.expands {
            let (conv, norm) = (vb.pp("conv_pw"), vb.pp(norms[0]));
            let layer = ConvNorm::pointwise(spec.in_channels, spec.mid_channels, conv, norm)?;
            Some(layer)
        } else {
            None
        };
        let depthwise = ConvShape {
            channels: (spec.mid_channels, spec.mid_channels),
            kernel: spec.kernel,
            stride: spec.stride,
            groups: spec.mid_channels,
        };
        Ok(Self {
            spec,
            expand,
            depthwise: ConvNorm::new(depthwise, vb.pp("conv_dw"), vb.pp(norms[1]))?,
            squeeze_excite: SqueezeExcite::new(spec.mid_channels, spec.se_channels, vb.pp("se"))?,
            project: ConvNorm::pointwise(
                spec.mid_channels,
                spec.out_channels,
                vb.pp(project),
                vb.pp(norms[2]),
            )?,
        })
    }

    pub(crate) fn spec(&self) -> &Block {
        &self.spec
    }

    pub(crate) fn layers(&self) -> Layers<'_> {
        Layers {
            expand: self.expand.as_ref(),
            depthwise: &self.depthwise,
            squeeze_excite: &self.squeeze_excite,
            project: &self.project,
        }
    }

    /// Every tensor that evaluation depends on.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let gates = self.squeeze_excite.layers();
        let norms = self.expand.iter().chain([&self.depthwise, &self.project]);
        norms
            .flat_map(ConvNorm::tensors)
            .chain(gates.into_iter().flat_map(|(weight, bias)| [weight, bias]))
    }

    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        if mode != Mode::Eval || x.device().is_cuda() {
            return self.forward_as_one(x, mode);
        }
        let wide = match &self.expand {
            Some(expand) => expand.forward_silu(x, mode)?,
            None => x.clone(),
        };
        let wide = self.depthwise.forward_silu(&wide, mode)?;
        let wide = self.squeeze_excite.forward(&wide, mode)?;
        let y = self.project.forward(&wide, mode)?;
        if self.spec.has_skip() {
            return Ok((y + x)?);
        }
        Ok(y)
    }

    /// Training, and anything on a GPU: one operation that keeps little and computes the rest again.
    fn forward_as_one(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let tensors = BlockTensors::new(self, mode);
        let (y, statistics) = kernels::sequence(x, &[tensors.stage()])?;
        record(self.norms(), &statistics, &y)?;
        Ok(y)
    }

    /// The norms in their order.
    pub(crate) fn norms(&self) -> impl Iterator<Item = &BatchNorm> {
        let layers = self.expand.iter().chain([&self.depthwise, &self.project]);
        layers.map(|layer| &layer.norm)
    }
}

/// Moves the running statistics of norms towards those of a batch.
pub(crate) fn record<'a>(
    norms: impl Iterator<Item = &'a BatchNorm>,
    statistics: &[kernels::BatchStatistics],
    y: &Tensor,
) -> Result<()> {
    if statistics.iter().any(|own| own.count < 2) {
        return Err(too_few_values(y.dims()));
    }
    for (norm, own) in norms.zip(statistics) {
        norm.record(&own.mean, &own.var, own.count)?;
    }
    Ok(())
}

/// The tensors of an [`InvertedResidual`] as one pass sees them.
pub(crate) struct BlockTensors<'a> {
    block: &'a InvertedResidual,
    expand: Option<LayerTensors>,
    depthwise: LayerTensors,
    project: LayerTensors,
    squeeze_excite: [Tensor; 4],
}

impl<'a> BlockTensors<'a> {
    pub(crate) fn new(block: &'a InvertedResidual, mode: Mode) -> Self {
        let se = &block.squeeze_excite;
        let se = [&se.w_reduce, &se.b_reduce, &se.w_expand, &se.b_expand];
        Self {
            block,
            expand: block.expand.as_ref().map(|l| LayerTensors::new(l, mode)),
            depthwise: LayerTensors::new(&block.depthwise, mode),
            project: LayerTensors::new(&block.project, mode),
            squeeze_excite: se.map(|t| mode.weight(t)),
        }
    }

    pub(crate) fn stage(&self) -> kernels::Stage<'_> {
        let [w_reduce, b_reduce, w_expand, b_expand] = &self.squeeze_excite;
        kernels::Stage::MbConv(kernels::MbConv {
            expand: self.expand.as_ref().map(LayerTensors::view),
            depthwise: self.depthwise.view(),
            squeeze_excite: kernels::SqueezeExcite {
                w_reduce,
                b_reduce,
                w_expand,
                b_expand,
            },
            project: self.project.view(),
            stride: self.block.depthwise.cfg.stride,
            padding: self.block.depthwise.cfg.padding,
            residual: self.block.spec.has_skip(),
            eps: EPS,
        })
    }
}

/// He's initialisation by the fan out, as EfficientNet's authors use it.
fn fan_out_normal(fan_out: usize) -> Init {
    Init::Randn {
        mean: 0.0,
        stdev: (2.0 / fan_out as f64).sqrt(),
    }
}
