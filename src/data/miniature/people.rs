//! People on foot, riders and bicycles.

use super::canvas::{Camera, Canvas, Dab};
use super::ids;
use super::look::{Face, Look, Rgb, scale};
use super::rng::Rng;

/// Squared distance from `(u, v)` to the line between two points.
fn to_line(u: f32, v: f32, [au, av]: [f32; 2], [bu, bv]: [f32; 2]) -> f32 {
    let (du, dv) = (bu - au, bv - av);
    let t = (((u - au) * du + (v - av) * dv) / (du * du + dv * dv).max(1e-6)).clamp(0.0, 1.0);
    let (eu, ev) = (u - au - t * du, v - av - t * dv);
    eu * eu + ev * ev
}

fn limb(u: f32, v: f32, a: [f32; 2], b: [f32; 2], thick: f32) -> bool {
    to_line(u, v, a, b) < thick * thick
}

/// People and bicycles are a little larger than life, as in a toy town, so that they cover several cells of a feature
/// map of stride 8.
const TOY: f32 = 1.2;

struct Clothes {
    skin: Rgb,
    hair: Rgb,
    top: Rgb,
    legs: Rgb,
    seed: u32,
}

impl Clothes {
    fn draw(look: &Look, rng: &mut Rng) -> Self {
        let tone = rng.span([0.35, 0.85]);
        Self {
            skin: [tone, 0.76 * tone, 0.62 * tone],
            hair: [0.35, 0.25, 0.18].map(|v| v * rng.span([0.3, 1.6])),
            top: look.paint(rng),
            legs: scale(look.paint(rng), 0.55),
            seed: rng.seed(),
        }
    }
}

/// Someone who stands or walks at `[x, z]`.
pub(super) fn person(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Rng, [x, z]: [f32; 2]) {
    let wear = Clothes::draw(look, rng);
    let tall = rng.span([1.6, 1.9]);
    let (stride, build) = (rng.span([0.04, 0.3]), rng.span([0.26, 0.34]));
    let swing = rng.span([-0.15, 0.15]);
    let coat = rng.span([0.4, 0.5]);
    canvas.shadow(camera, [x, z], [0.45, 0.35], 0.4 + 0.3 * look.sun);
    let foot = camera.foot(z);
    canvas.board(camera, [x, z], [0.6 * TOY, tall * TOY], |u, v| {
        let (u, v) = (u / TOY, v / TOY);
        let t = v / tall;
        let head = {
            let (du, dv) = (u / 0.15, (t - 0.915) / 0.085);
            du * du + dv * dv < 1.0
        };
        let rgb = if head {
            if t > 0.945 { wear.hair } else { wear.skin }
        } else if t > coat && t < 0.85 && u.abs() < build * (1.0 - 2.0 * (t - 0.72).max(0.0))
            || limb(u, t, [build, 0.78], [build + 0.06 + swing, 0.5], 0.06)
            || limb(u, t, [-build, 0.78], [-build - 0.06 + swing, 0.5], 0.06)
        {
            wear.top
        } else if limb(u, v, [0.09, coat * tall], [stride, 0.08], 0.13)
            || limb(u, v, [-0.09, coat * tall], [-stride, 0.08], 0.13)
        {
            wear.legs
        } else {
            return None;
        };
        Dab::new(look.lit(scale(rgb, look.texture(wear.seed, u, v, foot)), Face::Front), ids::PERSON)
    });
}

/// A bicycle seen from the side, with or without a rider.
pub(super) fn bicycle(
    canvas: &mut Canvas,
    camera: &Camera,
    look: &Look,
    rng: &mut Rng,
    [x, z]: [f32; 2],
    ridden: bool,
) {
    let frame = look.paint(rng);
    let wear = Clothes::draw(look, rng);
    let heading = rng.sign();
    let pedal = rng.span([-0.14, 0.14]);
    canvas.shadow(camera, [x, z], [0.9, 0.3], 0.35 + 0.3 * look.sun);
    let foot = camera.foot(z);
    // Tubes stay at least a pixel and a half thick.
    let tube = 0.06f32.max(foot);
    let (wheel, hub) = (0.38, 0.58);
    canvas.board(camera, [x, z], [TOY, TOY * if ridden { 1.9 } else { 1.2 }], |u, v| {
        let (u, v) = (heading * u / TOY, v / TOY);
        let grain = look.texture(wear.seed, u, v, foot);
        let flat = |rgb: Rgb, id: u8| Dab::new(look.lit(scale(rgb, grain), Face::Front), id);
        if ridden {
            let head = {
                let (du, dv) = ((u - 0.22) / 0.16, (v - 1.7) / 0.18);
                du * du + dv * dv < 1.0
            };
            if head {
                return flat(if v > 1.7 { wear.hair } else { wear.skin }, ids::RIDER);
            }
            if limb(u, v, [-0.14, 1.0], [0.14, 1.42], 0.22) || limb(u, v, [0.14, 1.38], [0.46, 1.05], 0.08) {
                return flat(wear.top, ids::RIDER);
            }
            if limb(u, v, [-0.12, 0.95], [0.2, 0.72], 0.12) || limb(u, v, [0.2, 0.72], [0.05 + pedal, 0.3], 0.1) {
                return flat(wear.legs, ids::RIDER);
            }
        }
        let crank = [0.02, 0.36];
        let saddle = [-0.2, 0.95];
        let bar = [0.42, 1.02];
        let tubes = [[saddle, crank], [crank, [0.42, 0.85]], [[-0.18, 0.85], [0.4, 0.85]], [[-hub, wheel], crank]];
        if tubes.iter().any(|[a, b]| limb(u, v, *a, *b, tube))
            || limb(u, v, bar, [hub, wheel], tube)
            || limb(u, v, [-hub, wheel], [-0.18, 0.85], tube)
            || limb(u, v, [-0.32, 0.97], [-0.1, 0.97], 1.4 * tube)
        {
            return flat(frame, ids::BICYCLE);
        }
        for at in [-hub, hub] {
            let (du, dv) = (u - at, v - wheel);
            let r = du * du + dv * dv;
            if r < wheel * wheel {
                let rim = (wheel - 1.6 * tube).max(0.0);
                // Spokes: a veil over what is behind.
                let alpha = if r > rim * rim { 1.0 } else { 0.35 };
                return Some(Dab { rgb: [0.08; 3], id: ids::BICYCLE, alpha });
            }
        }
        None
    });
}
