//! What does not stand on the street: sky, ground, the lots to both sides, the distance.

use super::canvas::{Camera, Canvas, Dab};
use super::ids;
use super::look::{Face, Look, Rgb, mix, scale};
use super::plants;
use super::rng::{Rng, hash, noise, octaves};

/// Depth of the backdrop at the end of the road.
pub(super) const FAR: f32 = 90.0;

#[derive(Clone, Copy, PartialEq)]
enum Use {
    Built,
    Walled,
    Fenced,
}

struct Lot {
    z0: f32,
    z1: f32,
    use_: Use,
    height: f32,
}

/// One side of the street; distances from the axis of the road.
struct Side {
    /// -1 left, 1 right.
    sign: f32,
    road: f32,
    /// Where the pavement ends and a strip of grass begins.
    walk: f32,
    /// The line of the facades.
    line: f32,
    lots: Vec<Lot>,
}

/// The street without anything standing in it.
pub(super) struct Street {
    sides: [Side; 2],
    crossing: Option<f32>,
    /// The sun's shadow covers the ground on its own side up to this |x|.
    shadow: f32,
}

impl Street {
    pub fn draw(style: &super::Style, rng: &mut Rng) -> Self {
        let half = rng.span(style.road_half);
        let sides = [-1.0, 1.0].map(|sign| {
            let road = half + rng.span([-0.3, 0.3]);
            let walk = road + rng.span(style.pavement);
            let strip = if rng.chance(0.7) { rng.span([1.2, 3.0]) } else { 0.0 };
            let mut lots = Vec::new();
            let mut z = -rng.span([0.0, 6.0]);
            while z < FAR {
                let length = rng.span(style.lot);
                let use_ = if rng.chance(style.built) {
                    Use::Built
                } else if rng.chance(0.5) {
                    Use::Walled
                } else {
                    Use::Fenced
                };
                lots.push(Lot { z0: z, z1: z + length, use_, height: rng.span(style.storeys) });
                z += length;
            }
            // The lots in full view decide what an image shows: one of the first three on each side is a garden.
            if lots.iter().skip(1).take(3).all(|lot| lot.use_ == Use::Built) {
                let at = 1 + rng.below(2) as usize;
                lots[at].use_ = if sign > 0.0 { Use::Walled } else { Use::Fenced };
            }
            Side { sign, road, walk, line: walk + strip, lots }
        });
        let crossing = rng.chance(0.4).then(|| rng.span([6.0, 20.0]));
        let shadow = rng.span([0.0, 1.2]) * half;
        Self { sides, crossing, shadow }
    }

    /// Distance of the kerb and of the pavement's outer edge on one side (-1 or 1).
    pub fn pavement(&self, sign: f32) -> [f32; 2] {
        let side = &self.sides[usize::from(sign > 0.0)];
        [side.road, side.walk]
    }

    pub fn paint(&self, canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Rng) {
        sky(canvas, camera, look, rng);
        self.ground(canvas, camera, look, rng);
        distance(canvas, camera, look, rng);
        for side in &self.sides {
            for (k, lot) in side.lots.iter().enumerate().rev() {
                let nearer = k.checked_sub(1).map(|k| &side.lots[k]);
                match lot.use_ {
                    Use::Built => building(canvas, camera, look, rng, side, lot, nearer),
                    _ => garden(canvas, camera, look, rng, side, lot),
                }
            }
        }
    }

    fn ground(&self, canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Rng) {
        let [road_seed, walk_seed, grass_seed] = [rng.seed(), rng.seed(), rng.seed()];
        let mark = rng.span([0.65, 0.95]);
        let dash = rng.span([2.0, 4.0]);
        let slab = rng.span([0.6, 1.4]);
        let edge_line = rng.chance(0.5);
        let shade = 1.0 - (0.9 * look.sun).min(0.6);
        canvas.ground(camera, |x, z| {
            let foot = camera.foot(z);
            let side = &self.sides[usize::from(x > 0.0)];
            let away = x.abs();
            let cast = if x * look.sun_side > 0.0 && away > self.shadow { shade } else { 1.0 };
            let (colour, id) = if away < side.road {
                let line = away < 0.09 && (z / dash) as i32 % 2 == 0
                    || edge_line && (side.road - away - 0.4).abs() < 0.08
                    || self.crossing.is_some_and(|at| (z - at).abs() < 1.4 && (x + 50.0) % 1.0 < 0.5);
                let base = if line { [mark; 3] } else { look.road };
                (scale(base, look.texture(road_seed, x, z, foot)), ids::ROAD)
            } else if away < side.road + 0.22 {
                (scale(look.walk, 1.18), ids::SIDEWALK)
            } else if away < side.walk || away > side.line && !side.garden(z) {
                let joint = |t: f32| (t / slab - (t / slab).floor()) * slab < 0.07;
                let groove = if foot < 0.08 && (joint(x + 50.0) || joint(z)) { 0.8 } else { 1.0 };
                (scale(look.walk, groove * look.texture(walk_seed, x, z, foot)), ids::SIDEWALK)
            } else {
                let blades = 1.0 + (0.15 + look.grain) * octaves(grass_seed, x, z, foot, 0.35, 3);
                (scale(look.grass, blades * look.texture(grass_seed, x, z, foot)), ids::TERRAIN)
            };
            Dab { rgb: look.lit(scale(colour, cast), Face::Up), id, alpha: 1.0 }
        });
    }
}

impl Side {
    fn garden(&self, z: f32) -> bool {
        self.lots.iter().any(|lot| lot.use_ != Use::Built && z >= lot.z0 && z < lot.z1)
    }

    /// The face that points to the road.
    fn face(&self) -> Face {
        if self.sign > 0.0 { Face::Left } else { Face::Right }
    }
}

fn sky(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Rng) {
    let seed = rng.seed();
    let cover = rng.span([-0.2, 0.3]);
    canvas.sky(camera, |x, y| {
        let up = (y * 1.6).clamp(0.0, 1.0);
        let clear = mix(look.skyline, look.zenith, up);
        // Clouds flatten towards the horizon, as a layer overhead does.
        let depth = 1.0 / (0.25 + y.max(0.0));
        let cloud = octaves(seed, x * depth, depth * 2.0, 0.0, 1.6, 3) + cover;
        let white = scale([0.95, 0.94, 0.93], 0.5 + 0.5 * look.daylight);
        Dab { rgb: mix(clear, white, (look.clouds * cloud.max(0.0) * 2.0).min(0.9)), id: ids::SKY, alpha: 1.0 }
    });
}

/// Houses and trees at the end of the road.
fn distance(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Rng) {
    let seed = rng.seed();
    let colours: [Rgb; 4] = std::array::from_fn(|_| look.facade(rng));
    let leaf = look.leaf(rng);
    let tall = rng.span([5.0, 14.0]);
    canvas.board(camera, [0.0, FAR], [80.0, 22.0], |u, v| {
        let block = (u / 7.0).floor() as i32;
        let height = tall * (0.5 + hash(seed, block, 0));
        let crown = 4.0 + 2.5 * noise(seed, u / 3.0, 0.5);
        if v < crown && hash(seed, block, 1) < 0.6 {
            Dab::new(look.lit(scale(leaf, 0.9 + 0.3 * noise(seed, u, v)), Face::Front), ids::VEGETATION)
        } else if v < height {
            let colour = colours[(hash(seed, block, 2) * 4.0) as usize % 4];
            let window = if v % 3.0 > 1.4 && (u + 200.0) % 2.0 > 1.0 { 0.7 } else { 1.0 };
            Dab::new(look.lit(scale(colour, window), Face::Front), ids::BUILDING)
        } else {
            None
        }
    });
}

fn building(
    canvas: &mut Canvas,
    camera: &Camera,
    look: &Look,
    rng: &mut Rng,
    side: &Side,
    lot: &Lot,
    nearer: Option<&Lot>,
) {
    let (seed, colour) = (rng.seed(), look.facade(rng));
    let (storey, bay) = (rng.span([2.7, 3.5]), rng.span([1.8, 3.0]));
    let (wide, high) = (rng.span([0.4, 0.65]), rng.span([0.45, 0.65]));
    let shop = rng.chance(0.4).then(|| look.paint(rng));
    let bricks = rng.chance(0.4);
    let trim = rng.span([0.75, 1.25]);
    let lamps = (0.6 - look.daylight).max(0.0);
    let facade = |u: f32, v: f32, foot: f32, face: Face| {
        let mut lit = false;
        let (cell_u, cell_v) = ((u / bay).floor(), (v / storey).floor());
        let (in_u, in_v) = (u / bay - cell_u, v / storey - cell_v);
        let window = (in_u - 0.5).abs() * 2.0 < wide && (in_v - 0.5).abs() * 2.0 < high;
        let rgb = if v > lot.height - 0.5 || (in_v < 0.08 && cell_v == 1.0) {
            scale(colour, trim)
        } else if let (Some(shop), true) = (shop, cell_v == 0.0) {
            if in_v > 0.75 { shop } else { scale(look.zenith, 0.35) }
        } else if window {
            lit = hash(seed, cell_u as i32, cell_v as i32) < lamps;
            let glass =
                mix(scale(look.zenith, 0.25), scale(look.skyline, 0.6), hash(seed, cell_v as i32, cell_u as i32));
            mix(colour, glass, look.window_contrast)
        } else if bricks && foot < 0.12 {
            let course = (v / 0.3).floor();
            let joint = v / 0.3 - course < 0.25;
            scale(colour, if joint { 1.12 } else { 0.94 })
        } else {
            colour
        };
        if lit {
            return Dab::new([1.0, 0.82, 0.45], ids::BUILDING);
        }
        Dab::new(look.lit(scale(rgb, look.texture(seed, u, v, foot)), face), ids::BUILDING)
    };
    // The gable towards the camera first: the next nearer house covers what it hides of it.
    let foot = camera.foot(lot.z0);
    let middle = side.sign * (side.line + 8.0);
    canvas.board(camera, [middle, lot.z0], [8.0, lot.height], |u, v| {
        // Only to save time: where the line of sight passes through the nearer house's facade.
        let through = lot.z0 * (side.sign * side.line - camera.x) / (middle + u - camera.x);
        let hidden = |n: &Lot| n.use_ == Use::Built && v < n.height && through > n.z0 && v > camera.height;
        if nearer.is_some_and(hidden) { None } else { facade(u + 40.0, v, foot, Face::Front) }
    });
    canvas.side(camera, side.sign * side.line, [lot.z0, lot.z1], lot.height, |u, v, foot| {
        facade(u, v, foot, side.face())
    });
}

fn garden(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Rng, side: &Side, lot: &Lot) {
    // A hedge closes the garden at the back; trees stand before it.
    let (seed, leaf) = (rng.seed(), look.leaf(rng));
    let tall = rng.span([2.5, 5.0]);
    canvas.side(camera, side.sign * (side.line + 7.0), [lot.z0, lot.z1], tall, |u, v, foot| {
        let light = 0.85 + (0.2 + look.grain) * octaves(seed, u, v, foot, 1.2, 3);
        Dab::new(look.lit(scale(leaf, light * look.texture(seed, u, v, foot)), side.face()), ids::VEGETATION)
    });
    for k in (0..2 + rng.below(2)).rev() {
        let z = lot.z0 + (lot.z1 - lot.z0) * (k as f32 + rng.span([0.2, 0.8])) / 4.0 + 1.0;
        let x = side.sign * (side.line + rng.span([2.5, 5.0]));
        plants::tree(canvas, camera, look, rng, [x, z]);
    }
    let seed = rng.seed();
    if lot.use_ == Use::Walled {
        let (colour, top) = (look.wall(rng), rng.span([2.0, 3.2]));
        canvas.side(camera, side.sign * side.line, [lot.z0, lot.z1], top, |u, v, foot| {
            let coping = if v > top - 0.25 { 1.25 } else { 1.0 };
            let course =
                if foot < 0.1 && (v % 0.5 < 0.07 || (u + 0.5 * (v / 0.5).floor()) % 1.0 < 0.06) { 0.8 } else { 1.0 };
            let rgb = scale(colour, coping * course * look.texture(seed, u, v, foot));
            Dab::new(look.lit(rgb, side.face()), ids::WALL)
        });
    } else {
        let (colour, top, gap) = (look.fence(rng), rng.span([1.7, 2.8]), rng.span([0.4, 0.7]));
        canvas.side(camera, side.sign * side.line, [lot.z0, lot.z1], top, |u, v, foot| {
            let bar = u % gap < 0.45 * gap || v > top - 0.18 || (v - 0.35).abs() < 0.1;
            let rgb = look.lit(scale(colour, look.texture(seed, u, v, foot)), side.face());
            // Bars thinner than a pixel merge into a veil.
            let alpha = if foot > 0.3 * gap {
                0.6
            } else if bar {
                1.0
            } else {
                0.3
            };
            Some(Dab { rgb, id: ids::FENCE, alpha })
        });
    }
}
