//! A confusion matrix as a file: CSV of pixels, or a picture.

use std::path::{Path, PathBuf};

use crate::{
    Result,
    data::{ClassList, RgbImage, write},
    train::Confusion,
};

/// Pixels of the picture along a side of one class's cell.
const CELL: usize = 24;

/// The path of `--confusion`: its suffix decides what is written.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|suffix| suffix.to_str()) {
        Some("csv" | "png") => Ok(path),
        _ => Err("use a file name that ends in .csv or .png".into()),
    }
}

/// A cell of CSV.
pub(super) fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// Writes it.
pub(super) fn write(path: &Path, confusion: &Confusion, classes: &ClassList) -> Result<()> {
    match path.extension().is_some_and(|suffix| suffix == "png") {
        true => write::image_png(path, &picture(confusion, classes)?),
        false => write::atomically(path, csv(confusion, classes).as_bytes()),
    }
}

fn csv(confusion: &Confusion, classes: &ClassList) -> String {
    let all = 0..confusion.classes();
    let name = |class: usize| quoted(&classes.name(class));
    let mut text = format!("true \\ predicted,{}\n", all.clone().map(name).collect::<Vec<_>>().join(","));
    for truth in all.clone() {
        let counts: Vec<String> = all.clone().map(|predicted| confusion.count(truth, predicted).to_string()).collect();
        text += &format!("{},{}\n", name(truth), counts.join(","));
    }
    text
}

/// A square a pair of classes, the darker the larger its share of the row; the classes' colours along the left (true) and the
/// top (predicted).
fn picture(confusion: &Confusion, classes: &ClassList) -> Result<RgbImage> {
    let count = confusion.classes();
    let side = (count + 1) * CELL;
    let mut pixels = vec![255; side * side * 3];
    let mut fill = |row: usize, column: usize, color: [u8; 3]| {
        for y in row * CELL..(row + 1) * CELL - 1 {
            for x in column * CELL..(column + 1) * CELL - 1 {
                pixels[(y * side + x) * 3..][..3].copy_from_slice(&color);
            }
        }
    };
    for truth in 0..count {
        fill(truth + 1, 0, classes.color(truth));
        fill(0, truth + 1, classes.color(truth));
        let total: u64 = (0..count).map(|predicted| confusion.count(truth, predicted)).sum();
        for predicted in 0..count {
            let share = confusion.count(truth, predicted) as f64 / total.max(1) as f64;
            // From white over blue to black.
            let level = |from: f64, to: f64| (255.0 * (1.0 - ((share - from) / (to - from)).clamp(0.0, 1.0))) as u8;
            fill(truth + 1, predicted + 1, [level(0.0, 0.5), level(0.0, 0.7), level(0.3, 1.0)]);
        }
    }
    RgbImage::new(side, side, pixels)
}
