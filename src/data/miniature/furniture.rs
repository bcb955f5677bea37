//! Lamp posts, traffic lights and traffic signs.

use super::canvas::{Camera, Canvas, Dab};
use super::ids;
use super::look::{Face, Look, scale};
use super::rng::Rng;

/// Half the width of a post: nearly two pixels of the final image, so that a network can see it.
fn post(camera: &Camera, z: f32, half: f32) -> f32 {
    half.max(1.8 * super::SUPER as f32 * camera.foot(z))
}

/// A lamp post with an arm over the road.
pub(super) fn lamp(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Rng, [x, z]: [f32; 2]) {
    let (colour, seed) = (look.metal(rng), rng.seed());
    let (tall, arm) = (rng.span([5.0, 7.5]), -x.signum() * rng.span([0.8, 1.8]));
    let half = post(camera, z, 0.09);
    let foot = camera.foot(z);
    let lit = look.daylight < 0.4;
    canvas.board(camera, [x, z], [2.2, tall], |u, v| {
        let along = u * arm.signum();
        let head = v > tall - 3.0 * half && along > arm.abs() - 0.7 && along < arm.abs();
        if head && v < tall - 1.2 * half && lit {
            return Dab::new([1.0, 0.9, 0.65], ids::POLE);
        }
        if u.abs() < half || head || (v > tall - 2.0 * half && along > 0.0 && along < arm.abs()) {
            return Dab::new(look.lit(scale(colour, look.texture(seed, u, v, foot)), Face::Front), ids::POLE);
        }
        None
    });
}

/// A traffic light on its post.
pub(super) fn light(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Rng, [x, z]: [f32; 2]) {
    let (colour, seed) = (look.metal(rng), rng.seed());
    let (low, high) = (rng.span([2.0, 2.5]), rng.span([1.5, 1.9]));
    let (half, on) = (rng.span([0.36, 0.46]), rng.below(3));
    let stem = post(camera, z, 0.09);
    let foot = camera.foot(z);
    canvas.board(camera, [x, z], [half, low + high], |u, v| {
        if v >= low {
            let third = (v - low) / high * 3.0;
            let (du, dv) = (u / (0.62 * half), (third - third.floor() - 0.5) / 0.36);
            let lens = du * du + dv * dv < 1.0;
            let k = third as u64;
            let rgb = match (lens, k == on, k) {
                (true, true, 2) => [1.0, 0.15, 0.1],
                (true, true, 1) => [1.0, 0.7, 0.1],
                (true, true, _) => [0.1, 0.9, 0.45],
                (true, ..) => [0.14, 0.13, 0.12],
                _ => [0.05, 0.06, 0.05],
            };
            return Dab::new(rgb, ids::LIGHT);
        }
        if u.abs() < stem {
            return Dab::new(look.lit(scale(colour, look.texture(seed, u, v, foot)), Face::Front), ids::POLE);
        }
        None
    });
}

/// A traffic sign on its post: a disc, a triangle or a board.
pub(super) fn sign(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Rng, [x, z]: [f32; 2]) {
    let (metal, seed) = (look.metal(rng), rng.seed());
    let (middle, half) = (rng.span([2.3, 2.9]), rng.span([0.55, 0.72]));
    let shape = rng.below(3);
    // White with a red or blue edge, blue, or yellow.
    let (face, edge) = match rng.below(4) {
        0 => ([0.9, 0.9, 0.88], [0.8, 0.08, 0.08]),
        1 => ([0.08, 0.25, 0.7], [0.9, 0.9, 0.9]),
        2 => ([0.95, 0.78, 0.1], [0.15, 0.15, 0.15]),
        _ => ([0.85, 0.12, 0.1], [0.92, 0.92, 0.92]),
    };
    // Reflecting sheets glow a little at dusk; low saturation of the style mutes them with everything else.
    let glow = 1.0 + 0.25 * (1.0 - look.daylight);
    let stem = post(camera, z, 0.06);
    let foot = camera.foot(z);
    canvas.board(camera, [x, z], [half, middle + half], |u, v| {
        let (a, b) = (u / half, (v - middle) / half);
        // Distance from the middle, 1 at the edge.
        let d = match shape {
            0 => (a * a + b * b).sqrt(),
            1 => (a.abs() + 0.5 * (b + 1.0)).max(-b),
            _ => a.abs().max(b.abs() * 1.1),
        };
        let worn = look.texture(seed, u, v, foot);
        if d < 1.0 {
            let rgb = if d > 0.74 { edge } else { face };
            return Dab::new(look.lit(scale(rgb, glow * worn), Face::Front), ids::SIGN);
        }
        if u.abs() < stem && v < middle {
            return Dab::new(look.lit(scale(metal, worn), Face::Front), ids::POLE);
        }
        None
    });
}
