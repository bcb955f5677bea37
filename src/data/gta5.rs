//! GTA5: `images/00001.png`, `labels/00001.png`. Labels are paletted PNG whose index is the id; copies in grey or
//! coloured with the palette are read as well.

use std::path::Path;

use super::dataset::{DatasetKind, Found, list_flat};
use crate::Result;

pub(super) const LAYOUT: &str = "ROOT/images/00001.png (or .jpg) with ROOT/labels/00001.png";

pub(super) fn list(root: &Path) -> Result<Found> {
    list_flat(DatasetKind::Gta5, root, "images", "labels")
}
