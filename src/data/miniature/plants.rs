//! Trees.

use super::canvas::{Camera, Canvas, Dab};
use super::ids;
use super::look::{Face, Look, scale};
use super::rng::{Rng, octaves};

/// A tree that stands at `[x, z]`; trunk and crown are both vegetation.
pub(super) fn tree(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Rng, [x, z]: [f32; 2]) {
    let (seed, leaf) = (rng.seed(), look.leaf(rng));
    let (radius, trunk) = (rng.span([1.2, 2.4]), rng.span([1.6, 2.6]));
    let (tall, girth) = (radius * rng.span([0.9, 1.5]), rng.span([0.14, 0.24]));
    let ragged = rng.span(look.ragged);
    // The crown is one ball, or a ball with lobes around it where it is ragged.
    let mut lobes = vec![[0.0, trunk + tall, 1.0 - 0.3 * ragged]];
    for _ in 0..(7.0 * ragged) as usize {
        let (u, v) = (rng.span([-0.75, 0.75]), rng.span([-0.6, 0.75]));
        lobes.push([u * radius, trunk + tall + v * tall, rng.span([0.25, 0.5])]);
    }
    let foot = camera.foot(z);
    let bark = scale(look.lit([0.3, 0.22, 0.16], Face::Front), 0.9);
    canvas.board(camera, [x, z], [radius * 1.3, trunk + 2.3 * tall], |u, v| {
        // Ragged edges: noise moves the outline in and out and opens holes.
        let jag = if ragged > 0.0 { 0.45 * ragged * octaves(seed, u, v, foot, 0.8, 3) } else { 0.0 };
        let crown = lobes.iter().any(|[cu, cv, r]| {
            let (du, dv) = ((u - cu) / (radius * r), (v - cv) / (tall * r));
            du * du + dv * dv < 1.0 + jag
        });
        if crown {
            // Lit from the sun's side and from above, clumped.
            let side = 0.3 * look.sun * look.sun_side * u / radius;
            let above = 0.25 * (v - trunk - tall) / tall;
            let clumps = (0.2 + 0.8 * look.grain) * octaves(seed ^ 7, u, v, foot, 0.9, 3);
            let light = (0.9 + side + above + clumps).max(0.2);
            Dab::new(look.lit(scale(leaf, light * look.texture(seed, u, v, foot)), Face::Front), ids::VEGETATION)
        } else if u.abs() < girth && v < trunk + tall {
            Dab::new(scale(bark, look.texture(seed, u, v, foot)), ids::VEGETATION)
        } else {
            None
        }
    });
}
