//! The two pixel buffers: an RGB image and a label map. Both are dense, row by row, without padding.

use crate::{Error, Result};

/// An 8-bit RGB image, `[height, width, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// A label map of train ids (0..=18, 255 = ignore), `[height, width]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMap {
    width: usize,
    height: usize,
    ids: Vec<u8>,
}

impl RgbImage {
    /// Wraps `pixels`, `[height, width, 3]`; a length that does not fit is [`Error::Shape`].
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self> {
        check("RgbImage::new", width, height, 3, pixels.len())?;
        Ok(Self { width, height, pixels })
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `[height, width, 3]`, red first.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes, for drawing.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// Row `y`, `[width, 3]`.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.pixels[y * self.width * 3..(y + 1) * self.width * 3]
    }
}

impl LabelMap {
    /// Wraps `ids`, `[height, width]`; a length that does not fit is [`Error::Shape`].
    pub fn new(width: usize, height: usize, ids: Vec<u8>) -> Result<Self> {
        check("LabelMap::new", width, height, 1, ids.len())?;
        Ok(Self { width, height, ids })
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The ids, `[height, width]`.
    pub fn ids(&self) -> &[u8] {
        &self.ids
    }

    /// Every id replaced.
    pub fn map(&self, to: impl Fn(u8) -> u8) -> Self {
        Self { width: self.width, height: self.height, ids: self.ids.iter().map(|&id| to(id)).collect() }
    }

    /// The ids, for drawing.
    pub fn ids_mut(&mut self) -> &mut [u8] {
        &mut self.ids
    }

    /// Row `y`, `[width]`.
    pub fn row(&self, y: usize) -> &[u8] {
        &self.ids[y * self.width..(y + 1) * self.width]
    }
}

fn check(op: &'static str, width: usize, height: usize, channels: usize, len: usize) -> Result<()> {
    let want = width.checked_mul(height).and_then(|n| n.checked_mul(channels));
    if width == 0 || height == 0 || want != Some(len) {
        return Err(Error::shape(op, format!("{len} bytes do not make {width} x {height} pixels of {channels} bytes")));
    }
    Ok(())
}
