//! Cityscapes: `leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png`, `gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png`.

use std::path::{Path, PathBuf};

use super::listing::{Found, Item, Layout, list_folder, list_images};
use crate::{Error, Result};

pub(super) const LAYOUT: Layout = Layout {
    name: "cityscapes",
    files: "ROOT/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png (or .jpg) with ROOT/gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png",
};

const IMAGE_SUFFIX: &str = "_leftImg8bit";

/// `split`: `train` or `val`.
pub(super) fn list(root: &Path, split: &str) -> Result<Found> {
    let folder = root.join("leftImg8bit").join(split);
    let mut items = Vec::new();
    for city_folder in list_folder(&folder, &LAYOUT)? {
        if !city_folder.is_dir() {
            continue;
        }
        let Some(city) = city_folder.file_name().map(PathBuf::from) else { continue };
        for (stem, image) in list_images(&city_folder, &LAYOUT)? {
            let Some(name) = stem.strip_suffix(IMAGE_SUFFIX) else {
                let message = format!("the name does not end in {IMAGE_SUFFIX}; {LAYOUT}");
                return Err(Error::data(&image, message));
            };
            let labels = root.join("gtFine").join(split).join(&city).join(format!("{name}_gtFine_labelIds.png"));
            let pseudo = city.join(format!("{name}_gtFine_labelTrainIds.png"));
            items.push(Item { name: name.to_owned(), labels: Some(labels), image, pseudo });
        }
    }
    Ok(Found { folder, items })
}
