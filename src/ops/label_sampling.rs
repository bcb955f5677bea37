//! Where feature pixels read their labels; `kernels/include/label_sampling.cuh` is the kernels' part.

use serde::{Deserialize, Serialize};

/// Places of a label along each side of a feature pixel: as many as the images have pixels there.
pub(crate) const EACH: usize = 8;

/// Where the contrastive terms read the label of a feature pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelSampling {
    /// By PyTorch's nearest-neighbour rule, as the published code: docs/method.md, "Prototypes".
    #[default]
    Nearest,
    /// Where the upsampling of the logits puts it: [`align_labels`](fn@super::align_labels). For small images, on which the other
    /// rule is off by the size of the objects.
    Aligned,
}

/// As `LabelSampling` of the kernels: labels of `rows` x `columns` for a feature map of `height` x `width`. `each` is 0 by the
/// nearest-neighbour rule, else the places along a side of a feature pixel.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct DeviceLabelSampling {
    rows: i32,
    columns: i32,
    height: i32,
    width: i32,
    each: i32,
}

impl LabelSampling {
    /// For a kernel; all extents are below 2^31.
    pub(crate) fn for_device(self, labels: [usize; 2], cells: [usize; 2]) -> DeviceLabelSampling {
        let each = if self == Self::Aligned { EACH as i32 } else { 0 };
        let ([rows, columns], [height, width]) = (labels.map(|n| n as i32), cells.map(|n| n as i32));
        DeviceLabelSampling { rows, columns, height, width, each }
    }
}
