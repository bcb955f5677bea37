//! The two styles: every statistic in which the domains differ, as one named field.

/// A range from which each image draws uniformly.
pub type Span = [f32; 2];

/// A range of colours, from which each image draws one (linear RGB, 0 to 1) between the two ends.
pub type Tint = [[f32; 3]; 2];

/// Numbers that can be interpolated between two styles.
trait Blend: Copy {
    fn blend(self, other: Self, t: f32) -> Self;
}

impl Blend for f32 {
    fn blend(self, other: f32, t: f32) -> f32 {
        self + (other - self) * t
    }
}

impl<T: Blend, const N: usize> Blend for [T; N] {
    fn blend(self, other: Self, t: f32) -> Self {
        std::array::from_fn(|k| self[k].blend(other[k], t))
    }
}

/// Declares the fields once, so that [`Style::between`] can leave none out.
macro_rules! style {
    ($($(#[$doc:meta])* $name:ident: $kind:ty,)*) => {
        /// The statistics of a domain. Lengths are metres, times of day 0 (dusk) to 1 (noon).
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct Style { $($(#[$doc])* pub $name: $kind,)* }

        impl Style {
            /// The style a fraction `gap` of the way from `self` to `other`: 0 is `self`, 1 is `other`.
            pub fn between(&self, other: &Style, gap: f32) -> Style {
                Style { $($name: self.$name.blend(other.$name, gap),)* }
            }
        }
    };
}

style! {
    /// Height of the camera over the road.
    camera_height: Span,
    /// Row of the horizon, as a fraction of the image height from the top.
    horizon: Span,
    /// Focal length as a multiple of the image height.
    focal: Span,
    /// Half the width of the carriageway.
    road_half: Span,
    /// Width of the pavement.
    pavement: Span,
    /// Length of a lot along the road.
    lot: Span,
    /// Height of the buildings.
    storeys: Span,
    /// Probability that a lot is built up; the others are gardens behind a wall or a fence.
    built: f32,
    /// Mean number of trees on the pavement.
    trees: f32,
    /// Mean number of parked cars.
    parked: f32,
    /// Mean number of cars in the lanes.
    traffic: f32,
    /// Mean number of people on foot.
    people: f32,
    /// Probability of a bus, and of a lorry, among the traffic.
    heavy: f32,

    /// Shapes of vehicles: 0 boxes, 1 rounded.
    roundness: Span,
    /// Outline of the crowns: 0 a smooth ball, 1 ragged with holes.
    ragged: Span,
    /// Amplitude of the multi-scale noise on every surface.
    grain: Span,
    /// Amplitude of the regular, tiled pattern on every surface.
    pattern: Span,
    /// Amplitude of large dark stains.
    dirt: Span,
    /// Contrast of the window grid against the facade.
    window_contrast: Span,
    /// Saturation of paint, clothes and facades.
    paint: Span,

    /// Time of day.
    daylight: Span,
    /// Strength of the sun: the contrast between faces towards it and away from it, and of cast shadows.
    sun: Span,
    /// Extinction per metre: haze.
    haze: Span,
    /// Contrast of the clouds.
    clouds: Span,
    /// Gain before the tone curve.
    exposure: Span,
    /// Tone curve x / (x + t (1 - x)): below 1 lifts the shadows, above 1 deepens them.
    tone: Span,
    /// Saturation after development.
    saturation: Span,
    /// White balance: the channel gains at the two ends.
    cast: Tint,

    /// Radius of the lens blur, in fractions of the image height.
    blur: Span,
    /// Length of the horizontal motion blur, in fractions of the image height.
    motion: Span,
    /// Standard deviation of the sensor noise at mid grey.
    noise: Span,
    /// Loss of light in the corners.
    vignette: Span,
    /// Step of the block quantisation that stands for lossy compression.
    block: Span,

    /// Colour of the carriageway.
    road: Tint,
    /// Colour of the pavement.
    walk: Tint,
    /// Colour of grass.
    grass: Tint,
    /// Colour of leaves.
    leaf: Tint,
    /// Colour of the sky above.
    zenith: Tint,
    /// Colour of the sky at the horizon.
    skyline: Tint,
    /// Colour of the facades before `paint`.
    facade: Tint,
    /// Colour of free-standing walls.
    wall: Tint,
    /// Colour of fences.
    fence: Tint,
    /// Colour of poles and of the frames of lights and signs.
    metal: Tint,
}

/// A game engine's street at noon: clear light with a strong sun, saturated paint, tiled textures, sharp pixels.
pub const SOURCE: Style = Style {
    // A camera on a lorry's roof over wide avenues with low houses.
    camera_height: [1.8, 2.3],
    horizon: [0.36, 0.46],
    focal: [1.0, 1.2],
    road_half: [3.9, 5.0],
    pavement: [2.0, 3.2],
    lot: [9.0, 16.0],
    storeys: [5.0, 13.0],
    built: 0.5,
    trees: 2.2,
    parked: 1.6,
    traffic: 1.8,
    people: 2.4,
    heavy: 0.45,
    // Few polygons, few texels.
    roundness: [0.0, 0.35],
    ragged: [0.0, 0.3],
    grain: [0.02, 0.08],
    pattern: [0.08, 0.2],
    dirt: [0.0, 0.08],
    window_contrast: [0.6, 0.9],
    paint: [0.55, 0.95],
    // Fine weather.
    daylight: [0.6, 1.0],
    sun: [0.3, 0.6],
    haze: [0.0, 0.004],
    clouds: [0.0, 0.3],
    exposure: [0.85, 1.15],
    tone: [0.8, 1.2],
    saturation: [1.0, 1.35],
    cast: [[1.05, 1.0, 0.9], [0.95, 1.0, 1.05]],
    // No lens, no sensor.
    blur: [0.0, 0.002],
    motion: [0.0, 0.0],
    noise: [0.0, 0.008],
    vignette: [0.0, 0.05],
    block: [0.0, 0.0],
    road: [[0.24, 0.24, 0.27], [0.36, 0.35, 0.36]],
    walk: [[0.52, 0.5, 0.47], [0.66, 0.62, 0.56]],
    grass: [[0.28, 0.5, 0.14], [0.45, 0.58, 0.2]],
    leaf: [[0.08, 0.32, 0.08], [0.2, 0.45, 0.12]],
    zenith: [[0.2, 0.42, 0.85], [0.35, 0.58, 0.95]],
    skyline: [[0.6, 0.75, 0.95], [0.8, 0.86, 0.95]],
    facade: [[0.55, 0.42, 0.36], [0.78, 0.72, 0.62]],
    wall: [[0.62, 0.58, 0.36], [0.74, 0.7, 0.5]],
    fence: [[0.42, 0.28, 0.16], [0.55, 0.42, 0.28]],
    metal: [[0.3, 0.32, 0.34], [0.5, 0.52, 0.54]],
};

/// A car's camera on an autumn evening: warm low light, other materials in other colours, worn surfaces, round bodies, a
/// real lens and sensor.
///
/// The colours are new rather than swapped (brick pavements, red leaves, a pink sky), and the camera is not a bad one: what
/// the source taught misleads here, while most of what a network needs is still in the picture.
pub const TARGET: Style = Style {
    // Behind the windscreen of a passenger car, in narrower streets with taller houses.
    camera_height: [1.25, 1.6],
    horizon: [0.4, 0.52],
    focal: [1.1, 1.35],
    road_half: [3.3, 4.2],
    pavement: [1.6, 2.6],
    lot: [6.0, 12.0],
    storeys: [8.0, 20.0],
    built: 0.55,
    trees: 2.6,
    parked: 2.4,
    traffic: 1.6,
    people: 3.0,
    heavy: 0.4,
    roundness: [0.5, 1.0],
    ragged: [0.5, 1.0],
    grain: [0.12, 0.25],
    pattern: [0.0, 0.04],
    dirt: [0.1, 0.25],
    window_contrast: [0.35, 0.8],
    paint: [0.2, 0.55],
    daylight: [0.3, 0.8],
    sun: [0.1, 0.3],
    haze: [0.002, 0.008],
    clouds: [0.1, 0.5],
    exposure: [1.0, 1.3],
    tone: [0.6, 0.9],
    saturation: [0.8, 1.1],
    cast: [[1.15, 0.98, 0.82], [1.0, 1.0, 1.0]],
    blur: [0.002, 0.004],
    motion: [0.0, 0.005],
    noise: [0.008, 0.02],
    vignette: [0.1, 0.3],
    block: [0.005, 0.015],
    road: [[0.27, 0.24, 0.24], [0.42, 0.33, 0.29]],
    walk: [[0.54, 0.44, 0.39], [0.7, 0.44, 0.36]],
    grass: [[0.36, 0.42, 0.16], [0.48, 0.38, 0.18]],
    leaf: [[0.22, 0.36, 0.1], [0.66, 0.36, 0.1]],
    zenith: [[0.38, 0.5, 0.78], [0.62, 0.5, 0.66]],
    skyline: [[0.8, 0.76, 0.78], [0.98, 0.78, 0.6]],
    facade: [[0.56, 0.48, 0.46], [0.7, 0.73, 0.8]],
    wall: [[0.58, 0.54, 0.42], [0.48, 0.48, 0.54]],
    fence: [[0.38, 0.28, 0.19], [0.16, 0.22, 0.19]],
    metal: [[0.36, 0.38, 0.4], [0.66, 0.68, 0.7]],
};
