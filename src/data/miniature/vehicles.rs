//! Cars, lorries and buses: a face across the road and a flank along it, or the flank alone for crossing traffic.

use super::canvas::{Camera, Canvas, Dab};
use super::ids;
use super::look::{Face, Look, Rgb, mix, scale};
use super::rng::Rng;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Car,
    Truck,
    Bus,
}

struct Body {
    kind: Kind,
    colour: Rgb,
    /// Cargo box or roof band.
    second: Rgb,
    glass: Rgb,
    round: f32,
    half: f32,
    length: f32,
    height: f32,
    seed: u32,
    /// Seen from the front: headlamps in place of tail lamps.
    oncoming: bool,
    glow: f32,
}

impl Body {
    fn draw(kind: Kind, look: &Look, rng: &mut Rng, oncoming: bool) -> Self {
        let (half, length, height) = match kind {
            Kind::Car => (rng.span([0.85, 0.95]), rng.span([3.7, 4.6]), rng.span([1.4, 1.65])),
            Kind::Truck => (rng.span([1.15, 1.3]), rng.span([6.0, 8.5]), rng.span([2.8, 3.4])),
            Kind::Bus => (rng.span([1.2, 1.3]), rng.span([8.0, 11.0]), rng.span([2.9, 3.2])),
        };
        let pale = rng.span([0.6, 0.85]);
        Self {
            kind,
            // Liveries are bright and warm.
            colour: if kind == Kind::Bus { mix(look.paint(rng), [0.85, 0.55, 0.12], 0.5) } else { look.paint(rng) },
            second: mix(look.paint(rng), [pale; 3], 0.7),
            glass: scale(mix(look.zenith, look.skyline, rng.unit()), rng.span([0.15, 0.45])),
            round: rng.span(look.roundness),
            half,
            length,
            height,
            seed: rng.seed(),
            oncoming,
            glow: 1.0 - look.daylight,
        }
    }

    fn id(&self) -> u8 {
        match self.kind {
            Kind::Car => ids::CAR,
            Kind::Truck => ids::TRUCK,
            Kind::Bus => ids::BUS,
        }
    }

    /// The face across the road; `u` from the middle, `v` above the ground.
    fn end(&self, look: &Look, u: f32, v: f32, foot: f32) -> Option<Dab> {
        let (a, t) = (u.abs() / self.half, v / self.height);
        if v < 0.28 {
            // Only the wheels reach the ground.
            return if (0.6..0.95).contains(&a) { Dab::new([0.06; 3], self.id()) } else { None };
        }
        let lamp = |rgb: Rgb| {
            let on = 0.55 + 0.9 * self.glow;
            Dab::new(scale(if self.oncoming { [0.95, 0.93, 0.8] } else { rgb }, on), self.id())
        };
        let paint = look.texture(self.seed, u, v, foot);
        let flat = |rgb: Rgb| Dab::new(look.lit(scale(rgb, paint), Face::Front), self.id());
        if self.kind == Kind::Car {
            let waist = 0.58;
            // Rounded bodies taper towards the roof and have soft corners.
            let corner = if t > waist { 1.0 - (0.12 + 0.3 * self.round) * (t - waist) / (1.0 - waist) } else { 1.0 };
            let dome = if t > 0.85 { 1.0 - self.round * (t - 0.85) * (t - 0.85) * 16.0 } else { 1.0 };
            if a > corner * dome {
                return None;
            }
            return if (0.62..0.93).contains(&t) && a < corner - 0.12 {
                Dab::new(self.glass, self.id())
            } else if (0.4..0.55).contains(&t) && a > 0.66 {
                lamp([0.75, 0.08, 0.06])
            } else if t < 0.34 && !(0.24..1.0).contains(&a) {
                flat([0.85, 0.85, 0.8])
            } else if t < 0.3 {
                flat(scale(self.colour, 0.5))
            } else {
                flat(self.colour)
            };
        }
        if a > 1.0 - if t > 0.9 { self.round * (t - 0.9) } else { 0.0 } {
            return None;
        }
        let window = match self.kind {
            Kind::Bus => (0.45..0.85).contains(&t) && a < 0.85,
            _ => self.oncoming && (0.45..0.66).contains(&t) && a < 0.85,
        };
        if window {
            Dab::new(self.glass, self.id())
        } else if (0.16..0.24).contains(&t) && a > 0.7 {
            lamp([0.75, 0.08, 0.06])
        } else if t < 0.16 {
            flat([0.12; 3])
        } else if self.kind == Kind::Truck && !self.oncoming {
            // Cargo doors.
            flat(scale(self.second, if a < 0.04 || (0.9..0.94).contains(&a) { 0.7 } else { 1.0 }))
        } else if self.kind == Kind::Truck && t > 0.72 {
            flat(self.second)
        } else {
            flat(self.colour)
        }
    }

    /// The flank; `u` from the tail (0) to the nose (1).
    fn flank(&self, look: &Look, u: f32, v: f32, foot: f32, face: Face) -> Option<Dab> {
        let t = v / self.height;
        let metres = u * self.length;
        let radius = if self.kind == Kind::Car { 0.33 } else { 0.48 };
        for at in [0.19, 0.81] {
            let (du, dv) = (metres - at * self.length, v - radius);
            let r = du * du + dv * dv;
            if r < radius * radius {
                return Dab::new(if r < 0.3 * radius * radius { [0.4; 3] } else { [0.06; 3] }, self.id());
            }
        }
        if v < 0.28 {
            return None;
        }
        let paint = look.texture(self.seed, metres, v, foot);
        let flat = |rgb: Rgb| Dab::new(look.lit(scale(rgb, paint), face), self.id());
        match self.kind {
            Kind::Car => {
                let waist = 0.58;
                if t > waist {
                    // The cabin's slopes; rounded cars have longer ones.
                    let up = (t - waist) / (1.0 - waist);
                    let lean = 0.06 + 0.14 * self.round;
                    let bow = self.round * 0.06 * up * up;
                    let (lo, hi) = (0.06 + lean * up + bow, 0.74 - (lean + 0.05) * up - bow);
                    if u < lo || u > hi {
                        return None;
                    }
                    let pillar = (u - 0.4).abs() < 0.02;
                    if up < 0.85 && u > lo + 0.04 && u < hi - 0.04 && !pillar {
                        return Dab::new(self.glass, self.id());
                    }
                } else if t > 0.4 {
                    let soft = self.round * 0.12 * (t - 0.4) / 0.18;
                    if u < 0.3 * soft || u > 1.0 - soft {
                        return None;
                    }
                }
                flat(self.colour)
            }
            Kind::Truck => {
                if u > 0.76 {
                    let window = (0.45..0.66).contains(&t) && u > 0.82;
                    if t > 0.8 || u > 0.97 && t > 0.45 + 0.3 * (1.0 - self.round) {
                        None
                    } else if window {
                        Dab::new(self.glass, self.id())
                    } else {
                        flat(self.colour)
                    }
                } else if u > 0.73 && t > 0.3 {
                    None
                } else if t < 0.26 {
                    flat([0.14; 3])
                } else {
                    flat(self.second)
                }
            }
            Kind::Bus => {
                let pillar = metres % 1.5 < 0.14;
                if (0.48..0.8).contains(&t) && !pillar {
                    Dab::new(self.glass, self.id())
                } else if t > 0.9 {
                    flat(self.second)
                } else {
                    flat(self.colour)
                }
            }
        }
    }
}

/// A vehicle along the road with its rear (or front, if oncoming) at depth `z`.
pub(super) fn along(
    canvas: &mut Canvas,
    camera: &Camera,
    look: &Look,
    rng: &mut Rng,
    kind: Kind,
    [x, z]: [f32; 2],
    oncoming: bool,
) {
    let body = Body::draw(kind, look, rng, oncoming);
    canvas.shadow(camera, [x, z + 0.5 * body.length], [body.half * 1.15, 0.58 * body.length], 0.45 + 0.3 * look.sun);
    // The flank that faces the camera's line of sight.
    let inner = if x > camera.x { -body.half } else { body.half };
    let face = if x > camera.x { Face::Left } else { Face::Right };
    canvas.side(camera, x + inner, [z, z + body.length], body.height, |u, v, foot| {
        let u = u / body.length;
        body.flank(look, if oncoming { 1.0 - u } else { u }, v, foot, face)
    });
    let foot = camera.foot(z);
    canvas.board(camera, [x, z], [body.half, body.height], |u, v| body.end(look, u, v, foot));
}

/// A vehicle that crosses the road, seen from the side.
pub(super) fn across(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Rng, kind: Kind, [x, z]: [f32; 2]) {
    let body = Body::draw(kind, look, rng, false);
    let leftwards = rng.chance(0.5);
    canvas.shadow(camera, [x, z + 0.4], [0.55 * body.length, 1.0], 0.45 + 0.3 * look.sun);
    let foot = camera.foot(z);
    canvas.board(camera, [x, z], [0.5 * body.length, body.height], |u, v| {
        let u = u / body.length + 0.5;
        body.flank(look, if leftwards { 1.0 - u } else { u }, v, foot, Face::Front)
    });
}
