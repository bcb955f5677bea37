//! A step's losses beside the progress bar.

use crate::train::step::Losses;

/// The total first, then speed and memory, then its parts: a narrow terminal cuts off the end.
pub(super) fn describe(losses: &Losses, images_per_second: f64, peak: &str) -> String {
    let short = |name: &str| match name {
        "loss" => Some("loss"),
        "source_ce" => Some("ce"),
        "target_ce" => Some("ce_t"),
        "forward_contrast" => Some("fcl"),
        "backward_contrast" => Some("bcl"),
        _ => None,
    };
    let shown = losses.iter().filter_map(|(name, value)| Some(format!("{} {value:.3}", short(name)?)));
    let mut parts: Vec<String> = shown.collect();
    let at = parts.len().min(1);
    let decimals = if images_per_second < 100.0 { 1 } else { 0 };
    parts.insert(at, format!("{images_per_second:.decimals$} images/s"));
    if !peak.is_empty() {
        parts.insert(at + 1, peak.to_owned());
    }
    parts.join("  ")
}
