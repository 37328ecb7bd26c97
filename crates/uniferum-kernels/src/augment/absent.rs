//! A build without CUDA has no device to bring scans to.

use candle_core::{Device, Result, Tensor};

use super::{Noise, Patches, Resampling, Voxels};

#[derive(Debug)]
pub(super) enum Inner {}

impl Inner {
    pub(super) fn of(_: &Device, _: usize) -> Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn image(&self, _: Voxels<'_, i16>, _: &Resampling, _: &Noise) -> Result<Tensor> {
        match *self {}
    }

    pub(super) fn mask(
        &self,
        _: Voxels<'_, u8>,
        _: &Resampling,
        _: &[[bool; 256]],
        _: Patches,
    ) -> Result<Tensor> {
        match *self {}
    }
}
