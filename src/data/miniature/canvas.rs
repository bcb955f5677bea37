//! The pinhole camera and the painter's canvas: surfaces are drawn from far to near, each by inverse projection of
//! its pixels, so that colours and labels are exact at every pixel centre.

use super::look::{Rgb, mix};

/// A camera that looks along +z over the ground y = 0; x points right, y up.
#[derive(Clone, Copy)]
pub(super) struct Camera {
    /// Focal length in pixels.
    pub focal: f32,
    /// The vanishing point of the road, in pixels.
    pub vx: f32,
    pub vy: f32,
    /// Position over the road, in metres.
    pub x: f32,
    pub height: f32,
}

impl Camera {
    fn column(&self, x: f32, z: f32) -> f32 {
        self.vx + self.focal * (x - self.x) / z
    }

    fn row(&self, y: f32, z: f32) -> f32 {
        self.vy + self.focal * (self.height - y) / z
    }

    /// Metres per pixel at depth `z`.
    pub fn foot(&self, z: f32) -> f32 {
        z / self.focal
    }
}

/// What a surface is at one point. `alpha` blends the colour alone: glass, wheels and fences let the colour behind
/// them through but keep their label, as the annotators of real data sets do.
pub(super) struct Dab {
    pub rgb: Rgb,
    pub id: u8,
    pub alpha: f32,
}

impl Dab {
    pub fn new(rgb: Rgb, id: u8) -> Option<Self> {
        Some(Self { rgb, id, alpha: 1.0 })
    }
}

/// Colour and label of every pixel.
pub(super) struct Canvas {
    pub width: usize,
    pub height: usize,
    pub rgb: Vec<Rgb>,
    pub id: Vec<u8>,
    /// Extinction per metre and the colour into which distance fades.
    pub haze: f32,
    pub haze_rgb: Rgb,
}

/// Nearest depth that is drawn, in metres.
pub(super) const NEAR: f32 = 0.5;

impl Canvas {
    pub fn new(width: usize, height: usize, haze: f32, haze_rgb: Rgb) -> Self {
        Self { width, height, rgb: vec![[0.0; 3]; width * height], id: vec![0; width * height], haze, haze_rgb }
    }

    fn put(&mut self, at: usize, z: f32, dab: Dab) {
        let far = self.haze * z;
        let seen = mix(dab.rgb, self.haze_rgb, far / (1.0 + far));
        self.rgb[at] = mix(self.rgb[at], seen, dab.alpha);
        self.id[at] = dab.id;
    }

    /// The pixels whose centres lie in `[lo, hi]`.
    fn centres(lo: f32, hi: f32, limit: usize) -> std::ops::Range<usize> {
        let clip = |v: f32| v.clamp(0.0, limit as f32) as usize;
        clip((lo - 0.5).ceil())..clip((hi + 0.5).floor())
    }

    /// The sky: `paint(x, y)` takes the direction, in units of the focal length right of and above the vanishing point.
    pub fn sky(&mut self, camera: &Camera, paint: impl Fn(f32, f32) -> Dab) {
        // The ground covers everything more than a quarter of a pixel below the horizon.
        let rows = (camera.vy + 1.0).clamp(0.0, self.height as f32) as usize;
        for row in 0..rows {
            let y = (camera.vy - row as f32 - 0.5) / camera.focal;
            for column in 0..self.width {
                let x = (column as f32 + 0.5 - camera.vx) / camera.focal;
                let dab = paint(x, y);
                let at = row * self.width + column;
                (self.rgb[at], self.id[at]) = (dab.rgb, dab.id);
            }
        }
    }

    /// The ground: `paint(x, z)` in metres.
    pub fn ground(&mut self, camera: &Camera, paint: impl Fn(f32, f32) -> Dab) {
        for row in 0..self.height {
            let below = row as f32 + 0.5 - camera.vy;
            if below <= 0.25 {
                continue;
            }
            let z = camera.focal * camera.height / below;
            for column in 0..self.width {
                let x = camera.x + (column as f32 + 0.5 - camera.vx) * camera.foot(z);
                self.put(row * self.width + column, z, paint(x, z));
            }
        }
    }

    /// An upright surface across the road at depth `z`, `half` metres to each side of `x` and `top` high:
    /// `paint(u, v)` takes metres right of `x` and above the ground, and returns nothing beside the object.
    pub fn board(
        &mut self,
        camera: &Camera,
        [x, z]: [f32; 2],
        [half, top]: [f32; 2],
        paint: impl Fn(f32, f32) -> Option<Dab>,
    ) {
        if z < NEAR {
            return;
        }
        let foot = camera.foot(z);
        let columns = Self::centres(camera.column(x - half, z), camera.column(x + half, z), self.width);
        for row in Self::centres(camera.row(top, z), camera.row(0.0, z), self.height) {
            let v = camera.height + (camera.vy - row as f32 - 0.5) * foot;
            for column in columns.clone() {
                let u = camera.x + (column as f32 + 0.5 - camera.vx) * foot - x;
                if let Some(dab) = paint(u, v) {
                    self.put(row * self.width + column, z, dab);
                }
            }
        }
    }

    /// An upright surface along the road at `x`, from depth `z0` to `z1` and up to `top`: `paint(u, v)` takes metres
    /// beyond `z0` and above the ground.
    pub fn side(
        &mut self,
        camera: &Camera,
        x: f32,
        [z0, z1]: [f32; 2],
        top: f32,
        paint: impl Fn(f32, f32, f32) -> Option<Dab>,
    ) {
        let (z0_seen, offset) = (z0.max(NEAR), x - camera.x);
        if z1 <= z0_seen || offset.abs() < 1e-3 {
            return;
        }
        let (a, b) = (camera.column(x, z0_seen), camera.column(x, z1));
        for column in Self::centres(a.min(b), a.max(b), self.width) {
            let z = camera.focal * offset / (column as f32 + 0.5 - camera.vx);
            if !(z >= z0_seen && z <= z1) {
                continue;
            }
            let foot = camera.foot(z);
            for row in Self::centres(camera.row(top, z), camera.row(0.0, z), self.height) {
                let v = camera.height + (camera.vy - row as f32 - 0.5) * foot;
                if let Some(dab) = paint(z - z0, v, foot) {
                    self.put(row * self.width + column, z, dab);
                }
            }
        }
    }

    /// A soft dark patch on the ground under an object.
    pub fn shadow(&mut self, camera: &Camera, [x, z]: [f32; 2], [half_x, half_z]: [f32; 2], strength: f32) {
        let near = (z - half_z).max(NEAR);
        for row in Self::centres(camera.row(0.0, z + half_z), camera.row(0.0, near), self.height) {
            let below = row as f32 + 0.5 - camera.vy;
            if below <= 0.25 {
                continue;
            }
            let depth = camera.focal * camera.height / below;
            let dz = (depth - z) / half_z;
            for column in Self::centres(camera.column(x - half_x, depth), camera.column(x + half_x, depth), self.width)
            {
                let dx = (camera.x + (column as f32 + 0.5 - camera.vx) * camera.foot(depth) - x) / half_x;
                let inside = (1.0 - dx * dx - dz * dz).max(0.0);
                let at = row * self.width + column;
                self.rgb[at] = self.rgb[at].map(|v| v * (1.0 - strength * (2.0 * inside).min(1.0)));
            }
        }
    }
}
