//! SYNTHIA-RAND-CITYSCAPES: `RGB/*.png`, `GT/LABELS/*.png`. Labels are 16-bit colour PNG with the class in the first channel
//! and the instance in the second.

use std::path::Path;

use super::dataset::{DatasetKind, Found, list_flat};
use crate::Result;

pub(super) const LAYOUT: &str = "ROOT/RGB/NAME.png (or .jpg) with ROOT/GT/LABELS/NAME.png";

pub(super) fn list(root: &Path) -> Result<Found> {
    list_flat(DatasetKind::Synthia, root, "RGB", "GT/LABELS")
}
