//! GTA5: `images/00001.png`, `labels/00001.png`. Labels are paletted PNG whose index is the id; copies in grey or
//! coloured with the palette are read as well.

use std::path::Path;

use super::listing::{Found, Layout, list_flat};
use crate::Result;

pub(super) const LAYOUT: Layout =
    Layout { name: "gta5", files: "ROOT/images/00001.png (or .jpg) with ROOT/labels/00001.png" };

pub(super) fn list(root: &Path) -> Result<Found> {
    list_flat(&LAYOUT, root, "images", "labels")
}
