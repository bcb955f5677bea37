//! PNG files: labels, colour maps, images. Each is written beside its place and renamed, so that a reader never sees half of it.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use png::{BitDepth, ColorType};

use super::class_list::ClassList;
use super::pixels::{LabelMap, RgbImage};
use crate::{Error, Result};

/// Writes ids as 8-bit grey PNG: train ids (pseudo labels), or label ids (a `labelIds` file).
pub fn label_png(path: &Path, labels: &LabelMap) -> Result<()> {
    write_png(path, labels.width(), labels.height(), ColorType::Grayscale, BitDepth::Eight, None, labels.ids())
}

/// Writes ids as paletted PNG: the index is the id, as in GTA5's label files. An id outside the palette (at most 256
/// colours) is an error.
pub fn indexed_png(path: &Path, labels: &LabelMap, palette: &[[u8; 3]]) -> Result<()> {
    if let Some(&id) = labels.ids().iter().find(|&&id| usize::from(id) >= palette.len()) {
        return Err(Error::shape(
            "indexed_png",
            format!("id {id} is outside the palette of {} colours", palette.len()),
        ));
    }
    let palette = palette.iter().take(256).flatten().copied().collect();
    write_png(path, labels.width(), labels.height(), ColorType::Indexed, BitDepth::Eight, Some(palette), labels.ids())
}

/// Writes train ids in the classes' colours (255 is black), as paletted PNG: the index still is the train id.
pub fn color_map_png(path: &Path, labels: &LabelMap, classes: &ClassList) -> Result<()> {
    indexed_png(path, labels, &classes.palette())
}

/// Writes an RGB image.
pub fn image_png(path: &Path, image: &RgbImage) -> Result<()> {
    write_png(path, image.width(), image.height(), ColorType::Rgb, BitDepth::Eight, None, image.pixels())
}

/// Writes 16-bit RGB with the ids in the first channel, as SYNTHIA's label files are.
pub fn synthia_label_png(path: &Path, labels: &LabelMap) -> Result<()> {
    let bytes: Vec<u8> = labels.ids().iter().flat_map(|&id| [0, id, 0, 0, 0, 0]).collect();
    write_png(path, labels.width(), labels.height(), ColorType::Rgb, BitDepth::Sixteen, None, &bytes)
}

/// Writes `bytes` to `path` through a temporary file in the same folder, which is made where it is missing.
pub fn atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let name = path.file_name().ok_or_else(|| Error::data(path, "not a file name to write to"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(temporary);
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        Error::io(path, e)
    })
}

fn write_png(
    path: &Path,
    width: usize,
    height: usize,
    color: ColorType,
    depth: BitDepth,
    palette: Option<Vec<u8>>,
    bytes: &[u8],
) -> Result<()> {
    let too_large = |_| Error::data(path, format!("{width} x {height} pixels are too many for a PNG file"));
    let (width, height) = (u32::try_from(width).map_err(too_large)?, u32::try_from(height).map_err(too_large)?);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(BufWriter::new(&mut file), width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    encoder.set_compression(png::Compression::Fast);
    if let Some(palette) = palette {
        encoder.set_palette(palette);
    }
    let encoded = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(bytes)?;
        writer.finish()
    });
    encoded.map_err(|e| Error::data(path, format!("cannot encode as PNG: {e}")))?;
    atomically(path, &file)
}
