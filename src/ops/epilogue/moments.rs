//! What a convolution can tell the batch norm after it: the moments of pieces of its output, taken while it is at hand.

use crate::{DType, Device, Error, Result, Tensor};

const OP: &str = "conv2d";

/// Mean and squared deviations of every channel over pieces of an image's pixels.
pub struct BatchNormPartialStats {
    /// f32 [groups, pieces, 2, K].
    pub(in crate::ops) partial: Tensor,
    /// Pixels of a group.
    pixels: usize,
    /// Pixels of a piece; a group's last one may have fewer.
    pub(in crate::ops) piece: usize,
}

impl BatchNormPartialStats {
    /// Room for those of `groups` groups of `pixels` pixels each.
    pub(in crate::ops) fn empty(
        groups: usize,
        pixels: usize,
        piece: usize,
        channels: usize,
        device: &Device,
    ) -> Result<Self> {
        let partial = Tensor::empty(&[groups, pixels.div_ceil(piece), 2, channels], DType::F32, device)?;
        Ok(Self { partial, pixels, piece })
    }

    /// Errors unless they are those of an image of `groups` groups of `pixels` pixels each.
    pub(in crate::ops) fn expect(&self, groups: usize, pixels: usize, channels: usize) -> Result<()> {
        let (of, taken) = (self.partial.shape(), self.pixels);
        match (of[0], taken, of[3]) == (groups, pixels, channels) {
            true => Ok(()),
            false => Err(Error::shape(
                OP,
                format!(
                    "moments of another image: of {} groups of {taken} pixels with {} channels, not {groups} of {pixels} with {channels}",
                    of[0], of[3]
                ),
            )),
        }
    }
}
