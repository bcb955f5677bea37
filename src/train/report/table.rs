//! Scores as tables for the terminal, in percent.

use std::fmt::Write;

use super::metrics::Scores;
use crate::data::classes;

fn class_name(class: usize) -> String {
    classes::NAMES.get(class).map_or_else(|| format!("class {class}"), |name| (*name).to_owned())
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{:.1}", 100.0 * value))
}

type Mean = (&'static str, fn(&Scores) -> f64);

const MEANS: [Mean; 4] = [
    ("mIoU", |scores| scores.miou),
    ("mIoU, 16 classes", |scores| scores.miou_16),
    ("mIoU, 13 classes", |scores| scores.miou_13),
    ("pixel accuracy", |scores| scores.pixel_accuracy),
];

/// Per-class IoU, the means and the pixel accuracy of one evaluation.
pub fn scores_table(scores: &Scores) -> String {
    let mut text = format!("{:<18} {:>7}\n", "class", "IoU %");
    for (class, iou) in scores.iou.iter().enumerate().filter(|(_, iou)| iou.is_some()) {
        let _ = writeln!(text, "{:<18} {:>7}", class_name(class), percent(*iou));
    }
    let _ = writeln!(text, "{}", "-".repeat(26));
    for (name, mean) in MEANS {
        let _ = writeln!(text, "{name:<18} {:>7}", percent(Some(mean(scores))));
    }
    text
}

/// Two evaluations with the gain of the second over the first, in points.
pub fn side_by_side(names: [&str; 2], before: &Scores, after: &Scores) -> String {
    let width = names.map(|name| name.chars().count().max(7));
    let mut text =
        format!("{:<18} {:>a$} {:>b$} {:>7}\n", "IoU %", names[0], names[1], "gain", a = width[0], b = width[1]);
    let mut row = |name: &str, before: Option<f64>, after: Option<f64>| {
        let gain = before.zip(after).map_or_else(|| "-".into(), |(b, a)| format!("{:+.1}", 100.0 * (a - b)));
        let (before, after) = (percent(before), percent(after));
        let _ = writeln!(text, "{name:<18} {before:>a$} {after:>b$} {gain:>7}", a = width[0], b = width[1]);
    };
    for (class, (before, after)) in before.iou.iter().zip(&after.iou).enumerate() {
        if before.is_some() || after.is_some() {
            row(&class_name(class), *before, *after);
        }
    }
    row("mIoU", Some(before.miou), Some(after.miou));
    row("pixel accuracy", Some(before.pixel_accuracy), Some(after.pixel_accuracy));
    text
}
