//! From light to an 8-bit picture: lens, sensor, development, compression.

use super::SUPER;
use super::canvas::Canvas;
use super::look::{Rgb, mix};
use super::rng::Rng;
use super::style::Style;

/// Runs the style's camera over the canvas; the result is interleaved RGB.
pub(super) fn develop(canvas: Canvas, style: &Style, rng: &mut Rng, width: usize, height: usize) -> Vec<u8> {
    let mut light = shrink(&canvas, width, height);
    let unit = height as f32;
    let radius = rng.span(style.blur) * unit;
    let smear = radius + rng.span(style.motion) * unit;
    blur(&mut light, width, height, smear, true);
    blur(&mut light, width, height, radius, false);

    let vignette = rng.span(style.vignette);
    let exposure = rng.span(style.exposure);
    let cast = mix(style.cast[0], style.cast[1], rng.unit());
    let tone = rng.span(style.tone);
    let saturation = rng.span(style.saturation);
    let noise = rng.span(style.noise);
    for y in 0..height {
        for x in 0..width {
            let (dx, dy) = (x as f32 / width as f32 - 0.5, y as f32 / height as f32 - 0.5);
            let corner = 1.0 - 2.0 * vignette * (dx * dx + dy * dy);
            let pixel = &mut light[y * width + x];
            let shot: Rgb = std::array::from_fn(|k| pixel[k] * corner * exposure * cast[k]);
            // Shot noise grows with the square root of the light, over a floor of read noise. The three channels
            // share half of it, as they do after demosaicking.
            let shared = rng.bell();
            let noisy = shot.map(|v| v + noise * (0.4 + v.max(0.0).sqrt()) * (0.6 * shared + 0.6 * rng.bell()));
            let grey = 0.3 * noisy[0] + 0.59 * noisy[1] + 0.11 * noisy[2];
            *pixel = noisy.map(|v| {
                let v = (grey + (v - grey) * saturation).clamp(0.0, 1.0);
                v / (v + tone * (1.0 - v)).max(1e-6)
            });
        }
    }
    compress(&mut light, width, height, rng.span(style.block));
    light.iter().flatten().map(|v| (v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8).collect()
}

/// The mean of each pixel's samples.
fn shrink(canvas: &Canvas, width: usize, height: usize) -> Vec<Rgb> {
    let share = 1.0 / (SUPER * SUPER) as f32;
    let mut out = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            let mut sum = [0.0; 3];
            for k in 0..SUPER * SUPER {
                let sample = canvas.rgb[(y * SUPER + k / SUPER) * canvas.width + x * SUPER + k % SUPER];
                sum = std::array::from_fn(|c| sum[c] + sample[c]);
            }
            out.push(sum.map(|v| v * share));
        }
    }
    out
}

/// A tent filter of `radius` pixels along the rows or the columns; the borders repeat.
fn blur(light: &mut [Rgb], width: usize, height: usize, radius: f32, rows: bool) {
    let reach = radius.floor() as usize + 1;
    if radius <= 0.0 {
        return;
    }
    let weights: Vec<f32> = (0..=reach).map(|k| (1.0 - k as f32 / (radius + 1.0)).max(0.0)).collect();
    let total = weights[0] + 2.0 * weights[1..].iter().sum::<f32>();
    let (lines, length) = if rows { (height, width) } else { (width, height) };
    let at = |line: usize, k: usize| if rows { line * width + k } else { k * width + line };
    let mut copy = vec![[0.0; 3]; length];
    for line in 0..lines {
        for (k, pixel) in copy.iter_mut().enumerate() {
            *pixel = light[at(line, k)];
        }
        for k in 0..length {
            let mut sum = copy[k].map(|v| v * weights[0]);
            for (d, weight) in weights.iter().enumerate().skip(1) {
                let (a, b) = (copy[k.saturating_sub(d)], copy[(k + d).min(length - 1)]);
                sum = std::array::from_fn(|c| sum[c] + weight * (a[c] + b[c]));
            }
            light[at(line, k)] = sum.map(|v| v / total);
        }
    }
}

/// What strong JPEG does, without its transform: 2 x 2 chroma, and in blocks of 8 x 8 a mean rounded to `step` and
/// detail below half a step flattened.
fn compress(light: &mut [Rgb], width: usize, height: usize, step: f32) {
    if step <= 0.0 {
        return;
    }
    for (y0, x0) in blocks(width, height, 8) {
        let cells =
            || (y0..(y0 + 8).min(height)).flat_map(move |y| (x0..(x0 + 8).min(width)).map(move |x| y * width + x));
        let grey = |p: Rgb| 0.3 * p[0] + 0.59 * p[1] + 0.11 * p[2];
        let mean = cells().map(|at| grey(light[at])).sum::<f32>() / cells().count() as f32;
        let rounded = (mean / step).round() * step;
        for at in cells() {
            let detail = grey(light[at]) - mean;
            let kept = if detail.abs() < 0.5 * step { 0.5 * detail } else { detail };
            let shift = rounded + kept - mean - detail;
            light[at] = light[at].map(|v| v + shift);
        }
    }
    for (y0, x0) in blocks(width, height, 2) {
        let cells =
            || (y0..(y0 + 2).min(height)).flat_map(move |y| (x0..(x0 + 2).min(width)).map(move |x| y * width + x));
        let grey = |p: Rgb| 0.3 * p[0] + 0.59 * p[1] + 0.11 * p[2];
        let mut chroma = [0.0; 3];
        for at in cells() {
            chroma = std::array::from_fn(|c| chroma[c] + light[at][c] - grey(light[at]));
        }
        let chroma = chroma.map(|v| v / cells().count() as f32);
        for at in cells() {
            let luma = grey(light[at]);
            light[at] = chroma.map(|v| luma + v);
        }
    }
}

/// Upper left corners of the blocks of `size` pixels.
fn blocks(width: usize, height: usize, size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..height).step_by(size).flat_map(move |y| (0..width).step_by(size).map(move |x| (y, x)))
}
