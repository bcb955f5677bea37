//! SYNTHIA-RAND-CITYSCAPES: `RGB/*.png`, `GT/LABELS/*.png`. Labels are 16-bit colour PNG with the class in the first channel
//! and the instance in the second.

use std::path::Path;

use super::listing::{Found, Layout, list_flat};
use crate::Result;

pub(super) const LAYOUT: Layout =
    Layout { name: "synthia", files: "ROOT/RGB/NAME.png (or .jpg) with ROOT/GT/LABELS/NAME.png" };

pub(super) fn list(root: &Path) -> Result<Found> {
    list_flat(&LAYOUT, root, "RGB", "GT/LABELS")
}
