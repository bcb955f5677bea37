//! One scene: who stands where, drawn from far to near.

use super::canvas::{Camera, Canvas};
use super::look::Look;
use super::rng::Rng;
use super::style::Style;
use super::surroundings::Street;
use super::vehicles::{self, Kind};
use super::{SUPER, Scene, furniture, ids, people, plants, sensor};

#[derive(Clone, Copy)]
enum What {
    Tree,
    Lamp,
    Light,
    Sign,
    Person,
    Bicycle { ridden: bool },
    Along { kind: Kind, oncoming: bool },
    Across(Kind),
}

struct Thing {
    what: What,
    x: f32,
    z: f32,
}

/// Draws the scene of one random stream.
pub(super) fn draw(rng: &mut Rng, style: &Style, width: usize, height: usize) -> Scene {
    let (w, h) = (width * SUPER, height * SUPER);
    let look = Look::draw(style, rng);
    let street = Street::draw(style, rng);
    let camera = Camera {
        focal: rng.span(style.focal) * h as f32,
        vx: w as f32 * 0.5 + h as f32 * rng.span([-0.2, 0.2]),
        vy: rng.span(style.horizon) * h as f32,
        x: rng.span([-0.5, 2.0]),
        height: rng.span(style.camera_height),
    };
    let mut canvas = Canvas::new(w, h, look.haze, look.skyline);
    street.paint(&mut canvas, &camera, &look, rng);
    let mut things = populate(style, &street, &camera, w, rng);
    things.sort_by(|a, b| b.z.total_cmp(&a.z));
    for thing in &things {
        let (at, canvas) = ([thing.x, thing.z], &mut canvas);
        match thing.what {
            What::Tree => plants::tree(canvas, &camera, &look, rng, at),
            What::Lamp => furniture::lamp(canvas, &camera, &look, rng, at),
            What::Light => furniture::light(canvas, &camera, &look, rng, at),
            What::Sign => furniture::sign(canvas, &camera, &look, rng, at),
            What::Person => people::person(canvas, &camera, &look, rng, at),
            What::Bicycle { ridden } => people::bicycle(canvas, &camera, &look, rng, at, ridden),
            What::Along { kind, oncoming } => vehicles::along(canvas, &camera, &look, rng, kind, at, oncoming),
            What::Across(kind) => vehicles::across(canvas, &camera, &look, rng, kind, at),
        }
    }
    let label = vote(&canvas, width, height);
    let image = sensor::develop(canvas, style, rng, width, height);
    Scene { width, height, image, label }
}

/// A number with the given mean: the whole part, and one more with the probability of the rest, give or take one.
fn count(mean: f32, rng: &mut Rng) -> usize {
    (mean + rng.span([-1.0, 1.0]) + rng.unit()).max(0.0) as usize
}

fn populate(style: &Style, street: &Street, camera: &Camera, width: usize, rng: &mut Rng) -> Vec<Thing> {
    let mut things = Vec::new();
    // The nearest depth at which something at `x` is inside the picture: what stands beside the road is placed from
    // there on, so that it is as large as it can be.
    let seen = |x: f32| (camera.focal * (x - camera.x).abs() / (0.43 * width as f32)).max(3.2);
    let mut add = |what, x: f32, z: f32| things.push(Thing { what, x, z });

    for _ in 0..count(style.trees, rng) {
        let sign = rng.sign();
        let x = sign * (street.pavement(sign)[1] + rng.span([-0.4, 0.8]));
        add(What::Tree, x, seen(x) * rng.span([1.0, 3.5]));
    }
    for _ in 0..1 + rng.below(2) {
        let sign = rng.sign();
        let x = sign * (street.pavement(sign)[0] + 0.5);
        add(What::Lamp, x, seen(x) * rng.span([1.0, 2.5]));
    }
    for (what, likely) in [(What::Light, 0.8), (What::Sign, 0.8), (What::Sign, 0.4), (What::Light, 0.3)] {
        if rng.chance(likely) {
            let sign = rng.sign();
            let x = sign * (street.pavement(sign)[0] + rng.span([0.3, 0.7]));
            add(what, x, seen(x) * rng.span([1.0, 1.8]));
        }
    }
    for _ in 0..count(style.people, rng) {
        let sign = rng.sign();
        let [kerb, edge] = street.pavement(sign);
        let x = sign * rng.span([kerb + 0.3, edge]);
        add(What::Person, x, seen(x) * rng.span([0.9, 1.8]));
    }
    if rng.chance(0.35) {
        // Someone crosses the road.
        add(What::Person, rng.span([-3.0, 3.0]), rng.span([4.5, 7.5]));
    }
    if rng.chance(0.7) {
        add(What::Bicycle { ridden: true }, rng.span([-3.0, 3.5]), rng.span([4.5, 7.5]));
    }
    if rng.chance(0.5) {
        let sign = rng.sign();
        let [kerb, edge] = street.pavement(sign);
        let x = sign * rng.span([kerb + 0.4, edge]);
        add(What::Bicycle { ridden: rng.chance(0.3) }, x, seen(x) * rng.span([0.95, 1.5]));
    }
    // Parked at the kerb, one behind the other.
    for sign in [-1.0, 1.0] {
        let mut z = seen(street.pavement(sign)[0] * sign) * rng.span([0.9, 1.8]);
        for _ in 0..count(0.5 * style.parked, rng) {
            let oncoming = rng.chance(if sign < 0.0 { 0.8 } else { 0.1 });
            add(What::Along { kind: Kind::Car, oncoming }, sign * (street.pavement(sign)[0] - 1.1), z);
            z += rng.span([5.5, 9.0]);
        }
    }
    // In the lanes: on the right ahead of us, on the left towards us.
    let mut lanes = [rng.span([6.5, 12.0]), rng.span([7.0, 13.0])];
    for kind in [Kind::Truck, Kind::Bus] {
        if rng.chance(style.heavy) {
            let lane = rng.below(2) as usize;
            add(What::Along { kind, oncoming: lane == 0 }, 3.0 * lane as f32 - 1.4, lanes[lane]);
            lanes[lane] += 16.0;
        }
    }
    for _ in 0..count(style.traffic, rng) {
        let lane = rng.below(2) as usize;
        add(What::Along { kind: Kind::Car, oncoming: lane == 0 }, 3.0 * lane as f32 - 1.4, lanes[lane]);
        lanes[lane] += rng.span([11.0, 16.0]);
    }
    if rng.chance(0.3) {
        let kind = [Kind::Car, Kind::Car, Kind::Bus, Kind::Truck][rng.below(4) as usize];
        add(What::Across(kind), rng.span([-4.0, 4.0]), rng.span([9.0, 15.0]));
    }
    things
}

/// The label of each pixel: the commonest among its samples, the first of them where it is a tie.
fn vote(canvas: &Canvas, width: usize, height: usize) -> Vec<u8> {
    let mut label = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            let mut best = (0, 0u8);
            let sample = |k: usize| canvas.id[(y * SUPER + k / SUPER) * canvas.width + x * SUPER + k % SUPER];
            for k in 0..SUPER * SUPER {
                let votes = (0..SUPER * SUPER).filter(|&j| sample(j) == sample(k)).count();
                if votes > best.0 {
                    best = (votes, sample(k));
                }
            }
            debug_assert!(ids::LABEL_IDS.contains(&best.1));
            label.push(best.1);
        }
    }
    label
}
