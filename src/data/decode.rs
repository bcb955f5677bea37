//! Image and label files into memory. What a file is, its first bytes say, not its name.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use png::{BitDepth, ColorType, Transformations};

use super::classes::{Ids, of_color};
use super::pixels::{LabelMap, RgbImage};
use crate::{Error, Result};

/// No file of these data sets is larger; a damaged header must not ask for all the memory.
const MAX_PIXELS: u64 = 1 << 27;

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG_SIGNATURE: &[u8] = b"\xff\xd8\xff";

/// Reads a PNG or JPEG image; grey becomes RGB, 16 bits become 8, transparency is dropped.
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
    } else if bytes.starts_with(JPEG_SIGNATURE) {
        decode_jpeg(path, &bytes)
    } else {
        Err(Error::data(path, "neither a PNG nor a JPEG file; replace it by the original image"))
    }
}

/// Reads a label PNG and translates its ids into train ids.
///
/// Paletted and grey files hold the id itself (8 or 16 bits); 16-bit colour files hold it in the first channel (SYNTHIA);
/// 8-bit colour files are coloured with the palette of GTA5 and Cityscapes, except that SYNTHIA's keep the id in red.
/// An id or a colour that the data set does not know is an error that names the first such pixel.
pub fn read_labels(path: &Path, ids: Ids) -> Result<LabelMap> {
    let bytes = read_bytes(path)?;
    if bytes.starts_with(JPEG_SIGNATURE) {
        return Err(Error::data(path, "a JPEG file cannot hold labels (compression changes the ids); use PNG"));
    }
    if !bytes.starts_with(PNG_SIGNATURE) {
        return Err(Error::data(path, "not a PNG file; replace it by the original label file"));
    }
    let png = decode_png(path, bytes, Transformations::IDENTITY)?;
    let (width, height) = (png.width, png.height);
    let channels = png.color.samples();
    let table = ids.table();
    let unknown_id = |index: usize, id: u16| {
        let message = format!(
            "id {id} at pixel (x {}, y {}) is not a {} id (0 to {}, or 255); check that this is the right label file",
            index % width,
            index / width,
            ids.name(),
            ids.last()
        );
        Error::data(path, message)
    };
    let colored = matches!(png.color, ColorType::Rgb | ColorType::Rgba);
    let mut labels = Vec::with_capacity(width * height);
    match png.depth {
        BitDepth::Sixteen => {
            for (index, pixel) in png.bytes.chunks_exact(2 * channels).enumerate() {
                let id = u16::from_be_bytes([pixel[0], pixel[1]]);
                let class = table.get(usize::from(id)).copied().flatten();
                labels.push(class.ok_or_else(|| unknown_id(index, id))?);
            }
        }
        BitDepth::Eight if colored && ids != Ids::Synthia => {
            let mut last = ([0; 3], 255);
            for (index, pixel) in png.bytes.chunks_exact(channels).enumerate() {
                let color = [pixel[0], pixel[1], pixel[2]];
                if color != last.0 {
                    let class = of_color(color).ok_or_else(|| {
                        let [r, g, b] = color;
                        let (x, y) = (index % width, index / width);
                        let message = format!(
                            "colour ({r}, {g}, {b}) at pixel (x {x}, y {y}) is not in the palette of GTA5 and Cityscapes; use the original label file"
                        );
                        Error::data(path, message)
                    })?;
                    last = (color, class);
                }
                labels.push(last.1);
            }
        }
        BitDepth::Eight => {
            for (index, pixel) in png.bytes.chunks_exact(channels).enumerate() {
                labels.push(table[usize::from(pixel[0])].ok_or_else(|| unknown_id(index, pixel[0].into()))?);
            }
        }
        BitDepth::One | BitDepth::Two | BitDepth::Four => {
            let bits = png.depth as usize;
            for y in 0..height {
                let row = &png.bytes[y * png.line_size..];
                for x in 0..width {
                    let shift = 8 - bits - (x * bits) % 8;
                    let id = (row[x * bits / 8] >> shift) & ((1 << bits) - 1);
                    labels.push(table[usize::from(id)].ok_or_else(|| unknown_id(y * width + x, id.into()))?);
                }
            }
        }
    }
    LabelMap::new(width, height, labels)
}

/// Width and height of a PNG or JPEG file, from its header.
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
    let mut bytes = vec![0; size];
    let info = reader.next_frame(&mut bytes).map_err(|e| broken(path, "PNG", &e))?;
    Ok(Png {
        width: width as usize,
        height: height as usize,
        color: info.color_type,
        depth: info.bit_depth,
        line_size: info.line_size,
        bytes,
    })
}

fn decode_jpeg(path: &Path, bytes: &[u8]) -> Result<RgbImage> {
    // The decoder fills the rest of a truncated file with grey; the end marker must follow the last scan.
    let find = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    if find([0xff, 0xda]).is_none_or(|scan| find([0xff, 0xd9]).is_none_or(|end| end < scan)) {
        return Err(Error::data(path, "truncated JPEG (no end marker); copy or download the file again"));
    }
    let mut reader = image::ImageReader::with_format(Cursor::new(bytes), image::ImageFormat::Jpeg);
    reader.no_limits();
    let (width, height) = reader.into_dimensions().map_err(|e| broken(path, "JPEG", &e))?;
    check_size(path, width, height)?;
    let decoded =
        image::load_from_memory_with_format(bytes, image::ImageFormat::Jpeg).map_err(|e| broken(path, "JPEG", &e))?;
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
