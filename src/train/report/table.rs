//! Scores as tables for the terminal, in percent.

use std::fmt::Write;

use super::metrics::{Scores, gain, percent};
use crate::data::ClassList;

/// The means by name.
fn means(scores: &Scores) -> Vec<(String, Option<f64>)> {
    let mut means = vec![("mIoU".to_owned(), scores.miou)];
    if scores.miou_of_labelled != scores.miou {
        means.push(("mIoU of labelled".to_owned(), scores.miou_of_labelled));
    }
    means.extend(scores.subsets.iter().rev().map(|(name, value)| (format!("mIoU, {name}"), *value)));
    means.push(("frequency-weighted".to_owned(), scores.frequency_weighted_iou));
    means.push(("mean accuracy".to_owned(), scores.mean_accuracy));
    means.push(("pixel accuracy".to_owned(), scores.pixel_accuracy));
    means
}

/// IoU, precision and recall of each class, the means and the pixel accuracy of one evaluation.
pub fn scores_table(scores: &Scores, classes: &ClassList) -> String {
    let mut text = format!("{:<18} {:>7} {:>10} {:>7}\n", "class", "IoU %", "precision", "recall");
    let part = |values: &[Option<f64>], class: usize| percent(values.get(class).copied().flatten());
    for (class, iou) in scores.iou.iter().enumerate().filter(|(_, iou)| iou.is_some()) {
        let (precision, recall) = (part(&scores.precision, class), part(&scores.recall, class));
        let _ = writeln!(text, "{:<18} {:>7} {precision:>10} {recall:>7}", classes.name(class), percent(*iou));
    }
    let _ = writeln!(text, "{}", "-".repeat(45));
    for (name, value) in means(scores) {
        let _ = writeln!(text, "{name:<18} {:>7}", percent(value));
    }
    text
}

/// Two evaluations with the gain of the second over the first, in points.
pub fn side_by_side(names: [&str; 2], before: &Scores, after: &Scores, classes: &ClassList) -> String {
    let width = names.map(|name| name.chars().count().max(7));
    let mut text =
        format!("{:<18} {:>a$} {:>b$} {:>7}\n", "IoU %", names[0], names[1], "gain", a = width[0], b = width[1]);
    let mut row = |name: &str, before: Option<f64>, after: Option<f64>, gain: Option<f64>| {
        let gain = gain.map_or_else(|| "-".into(), |gain| format!("{gain:+.1}"));
        let (before, after) = (percent(before), percent(after));
        let _ = writeln!(text, "{name:<18} {before:>a$} {after:>b$} {gain:>7}", a = width[0], b = width[1]);
    };
    let points = |before: Option<f64>, after: Option<f64>| Some(100.0 * (after? - before?));
    for (class, (&before, &after)) in before.iou.iter().zip(&after.iou).enumerate() {
        if before.is_some() || after.is_some() {
            row(&classes.name(class), before, after, points(before, after));
        }
    }
    row("mIoU", before.miou, after.miou, gain(before, after));
    let accuracy = (before.pixel_accuracy, after.pixel_accuracy);
    row("pixel accuracy", accuracy.0, accuracy.1, points(accuracy.0, accuracy.1));
    text
}
