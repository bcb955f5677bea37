//! Image and label files into memory. What a file is, its first bytes say, not its name.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{ImageDecoder, ImageFormat, metadata::Orientation};
use png::{BitDepth, ColorType, Transformations};

use super::classes::IGNORE;
use super::description::LabelTable;
use super::pixels::{LabelMap, RgbImage};
use crate::{Error, Result};

/// No file of these data sets is larger; a damaged header must not ask for all the memory.
const MAX_PIXELS: u64 = 1 << 27;

/// What a decoder may hold at once: MAX_PIXELS of 16-bit colour.
const MAX_BYTES: u64 = 1 << 30;

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG_SIGNATURE: &[u8] = b"\xff\xd8\xff";

/// What is read besides PNG, with its name in messages.
const FORMATS: [(ImageFormat, &str); 4] =
    [(ImageFormat::Jpeg, "JPEG"), (ImageFormat::WebP, "WebP"), (ImageFormat::Bmp, "BMP"), (ImageFormat::Tiff, "TIFF")];

/// Reads an image (PNG, JPEG, WebP, BMP, TIFF) as it is to be looked at: turned as its EXIF entry says. Grey becomes RGB, 16
/// bits become 8, transparency is dropped.
///
/// A file that is missing, empty, truncated, damaged or of another format is an error with its name.
pub fn read_image(path: &Path) -> Result<RgbImage> {
    let bytes = read_bytes(path)?;
    if bytes.starts_with(PNG_SIGNATURE) {
        let decoded = decode_png(path, bytes, Transformations::normalize_to_color8())?;
        let pixels = match decoded.color {
            ColorType::Rgb => decoded.bytes,
            ColorType::Rgba => decoded.bytes.as_chunks::<4>().0.iter().flat_map(|p| [p[0], p[1], p[2]]).collect(),
            ColorType::Grayscale => decoded.bytes.iter().flat_map(|&g| [g; 3]).collect(),
            ColorType::GrayscaleAlpha => decoded.bytes.as_chunks::<2>().0.iter().flat_map(|p| [p[0]; 3]).collect(),
            ColorType::Indexed => return Err(Error::Internal(format!("{}: palette not expanded", path.display()))),
        };
        RgbImage::new(decoded.width, decoded.height, pixels)
    } else {
        if bytes.starts_with(JPEG_SIGNATURE) {
            expect_whole_jpeg(path, &bytes)?;
        }
        decode_other(path, &bytes)
    }
}

/// Reads a label file and translates its ids into train ids.
///
/// Paletted and grey files hold the id itself (8 or 16 bits); but a palette that was compacted or sorted anew tells the class by its
/// colours. In files with colour channels the id lies in the table's channel, in all three alike, or is told by the
/// colour. An id or a colour that the data set does not know is an error that names the first such pixel.
pub fn read_labels(path: &Path, table: &LabelTable) -> Result<LabelMap> {
    let bytes = read_bytes(path)?;
    if bytes.starts_with(JPEG_SIGNATURE) {
        return Err(Error::data(path, "a JPEG file cannot hold labels (compression changes the ids); use PNG"));
    }
    if !bytes.starts_with(PNG_SIGNATURE) {
        return Err(Error::data(path, "not a PNG file; replace it by the original label file"));
    }
    let png = decode_png(path, bytes, Transformations::IDENTITY)?;
    let width = png.width;
    let channels = png.color.samples();
    let colored = matches!(png.color, ColorType::Rgb | ColorType::Rgba);
    let channel = table.channel.filter(|_| colored).unwrap_or(0);
    let by_id = |index: usize, id: u16| {
        table.ids.get(usize::from(id)).copied().flatten().ok_or_else(|| {
            let (x, y) = (index % width, index / width);
            let (title, last) = (&table.title, table.last());
            let advice = "check that this is the right label file";
            Error::data(
                path,
                format!("id {id} at pixel (x {x}, y {y}) is not a {title} id (0 to {last}, or 255); {advice}"),
            )
        })
    };
    let labels: Result<Vec<u8>> = match png.depth {
        BitDepth::Sixteen => {
            let words = png.bytes.chunks_exact(2 * channels).map(|pixel| &pixel[2 * channel..]);
            words.enumerate().map(|(index, word)| by_id(index, u16::from_be_bytes([word[0], word[1]]))).collect()
        }
        BitDepth::Eight if colored && table.channel.is_none() && !holds_ids(&png.bytes, channels, table) => {
            by_color(path, &png, table)
        }
        BitDepth::Eight if colored => {
            let ids = png.bytes.chunks_exact(channels).map(|pixel| pixel[channel]);
            ids.enumerate().map(|(index, id)| by_id(index, id.into())).collect()
        }
        _ => {
            let indices = indices(&png);
            match png.palette.as_deref().and_then(|palette| by_palette(&indices, palette, table)) {
                Some(classes) => Ok(indices.iter().map(|&index| classes[usize::from(index)]).collect()),
                None => indices.iter().enumerate().map(|(index, &id)| by_id(index, id.into())).collect(),
            }
        }
    };
    LabelMap::new(width, png.height, labels?)
}

/// The samples of the first channel, of at most 8 bits, unpacked.
fn indices(png: &Png) -> Vec<u8> {
    let bits = png.depth as usize;
    if bits == 8 {
        return png.bytes.chunks_exact(png.color.samples()).map(|pixel| pixel[0]).collect();
    }
    let mut indices = Vec::with_capacity(png.width * png.height);
    for y in 0..png.height {
        let row = &png.bytes[y * png.line_size..];
        indices.extend((0..png.width).map(|x| (row[x * bits / 8] >> (8 - bits - (x * bits) % 8)) & ((1 << bits) - 1)));
    }
    indices
}

/// Whether a file with colour channels holds known ids in all three alike, as image libraries write grey.
fn holds_ids(bytes: &[u8], channels: usize, table: &LabelTable) -> bool {
    let id = |pixel: &[u8]| pixel[0] == pixel[1] && pixel[0] == pixel[2] && table.ids[usize::from(pixel[0])].is_some();
    bytes.chunks_exact(channels).all(id)
}

/// Train ids by a palette's index, where its colours contradict that the index is the id: an editor that drops unused
/// entries or sorts them leaves the picture as it is.
fn by_palette(indices: &[u8], palette: &[u8], table: &LabelTable) -> Option<[u8; 256]> {
    let mut used = [false; 256];
    indices.iter().for_each(|&index| used[usize::from(index)] = true);
    let (mut classes, mut contradicted) = ([IGNORE; 256], false);
    for index in (0..256).filter(|&index| used[index]) {
        let color: [u8; 3] = palette.get(3 * index..3 * index + 3)?.try_into().ok()?;
        let class = *table.colors.get(&color)?;
        classes[index] = class;
        let own = table.palette.get(&(index as u8)).copied().unwrap_or([0; 3]);
        contradicted |= color != own && table.ids[index] != Some(class);
    }
    contradicted.then_some(classes)
}

fn by_color(path: &Path, png: &Png, table: &LabelTable) -> Result<Vec<u8>> {
    let mut last = None;
    let class = |(index, pixel): (usize, &[u8])| {
        let color = [pixel[0], pixel[1], pixel[2]];
        if let Some((known, class)) = last
            && known == color
        {
            return Ok(class);
        }
        let class = *table.colors.get(&color).ok_or_else(|| {
            let ([r, g, b], x, y) = (color, index % png.width, index / png.width);
            let palette_of = &table.palette_of;
            let advice = match table.colors.is_empty() {
                true => "its labels are read from ids alone",
                false => "use the original label file",
            };
            Error::data(
                path,
                format!(
                    "colour ({r}, {g}, {b}) at pixel (x {x}, y {y}) is not in the palette of {palette_of}; {advice}"
                ),
            )
        })?;
        last = Some((color, class));
        Ok(class)
    };
    png.bytes.chunks_exact(png.color.samples()).enumerate().map(class).collect()
}

/// Width and height of an image file, from its header, before it is turned.
pub fn image_size(path: &Path) -> Result<(usize, usize)> {
    let reader =
        image::ImageReader::open(path).and_then(|r| r.with_guessed_format()).map_err(|e| Error::io(path, e))?;
    let (width, height) = reader.into_dimensions().map_err(|e| broken(path, "image", &e))?;
    Ok((width as usize, height as usize))
}

struct Png {
    width: usize,
    height: usize,
    color: ColorType,
    depth: BitDepth,
    line_size: usize,
    /// Red, green, blue of each entry.
    palette: Option<Vec<u8>>,
    bytes: Vec<u8>,
}

fn decode_png(path: &Path, bytes: Vec<u8>, transformations: Transformations) -> Result<Png> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(transformations);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(|e| broken(path, "PNG", &e))?;
    let (width, height) = (reader.info().width, reader.info().height);
    check_size(path, width, height)?;
    let size = reader.output_buffer_size().ok_or_else(|| Error::data(path, "the image is too large"))?;
    let palette = reader.info().palette.as_ref().map(|palette| palette.to_vec());
    let mut bytes = vec![0; size];
    let info = reader.next_frame(&mut bytes).map_err(|e| broken(path, "PNG", &e))?;
    Ok(Png {
        width: width as usize,
        height: height as usize,
        color: info.color_type,
        depth: info.bit_depth,
        line_size: info.line_size,
        palette,
        bytes,
    })
}

fn expect_whole_jpeg(path: &Path, bytes: &[u8]) -> Result<()> {
    // The decoder fills the rest of a truncated file with grey; the end marker must follow the last scan.
    let find = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    match find([0xff, 0xda]).is_none_or(|scan| find([0xff, 0xd9]).is_none_or(|end| end < scan)) {
        true => Err(Error::data(path, "truncated JPEG (no end marker); copy or download the file again")),
        false => Ok(()),
    }
}

fn decode_other(path: &Path, bytes: &[u8]) -> Result<RgbImage> {
    let known = image::guess_format(bytes).ok().filter(|format| FORMATS.iter().any(|(known, _)| known == format));
    let Some(format) = known else {
        return Err(Error::data(
            path,
            "neither a PNG nor a JPEG file, nor WebP, BMP or TIFF; replace it by the original image",
        ));
    };
    let name = FORMATS.iter().find(|(known, _)| *known == format).map_or("image", |(_, name)| name);
    let mut reader = image::ImageReader::with_format(Cursor::new(bytes), format);
    // What a damaged header asks for beside the pixels.
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| broken(path, name, &e))?;
    let (width, height) = decoder.dimensions();
    check_size(path, width, height)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut decoded = image::DynamicImage::from_decoder(decoder).map_err(|e| broken(path, name, &e))?;
    decoded.apply_orientation(orientation);
    let rgb = decoded.into_rgb8();
    RgbImage::new(rgb.width() as usize, rgb.height() as usize, rgb.into_raw())
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    if bytes.is_empty() {
        return Err(Error::data(path, "the file is empty (0 bytes); copy or download it again"));
    }
    Ok(bytes)
}

fn check_size(path: &Path, width: u32, height: u32) -> Result<()> {
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let message =
            format!("{width} x {height} pixels are more than the {MAX_PIXELS} that are read; is the file damaged?");
        return Err(Error::data(path, message));
    }
    Ok(())
}

fn broken(path: &Path, format: &str, error: &dyn std::fmt::Display) -> Error {
    let reason = error.to_string().replace(['\n', '\r'], " ");
    Error::data(path, format!("truncated or damaged {format} ({reason}); copy or download the file again"))
}
