//! One image's draw from a style: its light, its colours, and the texture of every surface.

use super::rng::{self, Rng};
use super::style::{Span, Style, Tint};

pub(super) type Rgb = [f32; 3];

/// Which way a surface faces.
#[derive(Clone, Copy)]
pub(super) enum Face {
    Up = 0,
    /// Towards the camera.
    Front = 1,
    /// Its normal points left (-x).
    Left = 2,
    Right = 3,
}

pub(super) fn mix(a: Rgb, b: Rgb, t: f32) -> Rgb {
    std::array::from_fn(|k| a[k] + (b[k] - a[k]) * t)
}

pub(super) fn scale(a: Rgb, s: f32) -> Rgb {
    a.map(|v| v * s)
}

/// The values of one image.
pub(super) struct Look {
    pub daylight: f32,
    pub sun: f32,
    /// The side from which the sun shines, -1 or 1.
    pub sun_side: f32,
    shade: [f32; 4],
    pub haze: f32,
    pub clouds: f32,
    pub grain: f32,
    pub pattern: f32,
    pub dirt: f32,
    pub window_contrast: f32,
    paint: Span,
    pub roundness: Span,
    pub ragged: Span,
    pub road: Rgb,
    pub walk: Rgb,
    pub grass: Rgb,
    pub zenith: Rgb,
    pub skyline: Rgb,
    facade: Tint,
    leaf: Tint,
    wall: Tint,
    fence: Tint,
    metal: Tint,
}

impl Look {
    pub fn draw(style: &Style, rng: &mut Rng) -> Self {
        let daylight = rng.span(style.daylight);
        let sun = rng.span(style.sun);
        let sun_side = rng.sign();
        // The sun stands to one side and rather behind or ahead of the camera.
        let ahead = rng.span([-0.6, 0.6]);
        let level = 0.45 + 0.55 * daylight;
        let shade = [0.5 * sun, ahead * sun, -sun_side * sun, sun_side * sun].map(|s| level * (1.0 + s));
        // Dusk warms the horizon and darkens the zenith.
        let dusk = 1.0 - daylight;
        let zenith = scale(tint(style.zenith, rng), 0.55 + 0.45 * daylight);
        let glow = rng.span([0.0, 0.5]) * dusk;
        let skyline = mix(scale(tint(style.skyline, rng), 0.7 + 0.3 * daylight), [0.95, 0.7, 0.5], glow);
        Self {
            daylight,
            sun,
            sun_side,
            shade,
            haze: rng.span(style.haze),
            clouds: rng.span(style.clouds),
            grain: rng.span(style.grain),
            pattern: rng.span(style.pattern),
            dirt: rng.span(style.dirt),
            window_contrast: rng.span(style.window_contrast),
            paint: style.paint,
            roundness: style.roundness,
            ragged: style.ragged,
            road: tint(style.road, rng),
            walk: tint(style.walk, rng),
            grass: tint(style.grass, rng),
            zenith,
            skyline,
            facade: style.facade,
            leaf: style.leaf,
            wall: style.wall,
            fence: style.fence,
            metal: style.metal,
        }
    }

    /// The colour under this image's light.
    pub fn lit(&self, colour: Rgb, face: Face) -> Rgb {
        scale(colour, self.shade[face as usize])
    }

    pub fn leaf(&self, rng: &mut Rng) -> Rgb {
        tint(self.leaf, rng)
    }

    pub fn wall(&self, rng: &mut Rng) -> Rgb {
        tint(self.wall, rng)
    }

    pub fn fence(&self, rng: &mut Rng) -> Rgb {
        tint(self.fence, rng)
    }

    pub fn metal(&self, rng: &mut Rng) -> Rgb {
        tint(self.metal, rng)
    }

    /// A facade: the style's stone with some paint over it.
    pub fn facade(&self, rng: &mut Rng) -> Rgb {
        let stone = tint(self.facade, rng);
        let colour = self.paint(rng);
        mix(stone, colour, rng.span([0.0, 0.35]))
    }

    /// A colour of cars and clothes: any hue, the style's saturation, any lightness.
    pub fn paint(&self, rng: &mut Rng) -> Rgb {
        let saturation = if rng.chance(0.3) { 0.05 } else { rng.span(self.paint) };
        let (value, hue) = (rng.span([0.2, 0.9]), 6.0 * rng.unit());
        hue_wheel(hue).map(|v| value * (1.0 + (v - 1.0) * saturation))
    }

    /// What the style does to every surface, as a factor: noise of several scales, a tiled pattern, stains.
    /// `(u, v)` are metres on the surface and `foot` is the size of a pixel there.
    pub fn texture(&self, seed: u32, u: f32, v: f32, foot: f32) -> f32 {
        let free = rng::octaves(seed, u, v, foot, 0.9, 4);
        // A texture of 0.75 m with 4 x 4 texels, repeated: the same seed everywhere.
        let texel = |x: f32| rng::floor(x / 0.1875) & 3;
        let fade = (1.0 - 4.0 * foot).max(0.0);
        let tiled = if self.pattern * fade > 0.0 { rng::hash(seed, texel(u), texel(v)) - 0.5 } else { 0.0 };
        let stain = if self.dirt > 0.0 { (rng::noise(seed ^ 0x51a1, u / 2.3, v / 1.7) - 0.1).max(0.0) } else { 0.0 };
        (1.0 + self.grain * free + 2.0 * self.pattern * fade * tiled) * (1.0 - self.dirt * stain)
    }
}

fn tint(ends: Tint, rng: &mut Rng) -> Rgb {
    let t = rng.unit();
    // A little freedom per channel, so that the colours fill a volume and not a line.
    std::array::from_fn(|k| ends[0][k] + (ends[1][k] - ends[0][k]) * (t + rng.span([-0.15, 0.15])))
}

/// Full-saturation colour of a hue in [0, 6).
fn hue_wheel(hue: f32) -> Rgb {
    [0.0, 4.0, 2.0].map(|shift: f32| {
        let turned = (hue + shift) - 6.0 * ((hue + shift) / 6.0).floor();
        ((turned - 3.0).abs() - 1.0).clamp(0.0, 1.0)
    })
}
