//! Launches of `kernels/contrastive_loss.cu`.

use half::bf16;

use super::{OP, Problem, Saved};
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    ops::{
        cosine::{
            Extents,
            cuda::{DeviceGradients, row_norms, tile_launch, tiles},
        },
        domain_pair::Halves,
        label_places::{DeviceLabelPlaces, LabelPlaces},
    },
    tensor::{Element, In, OptIn, OptOut, Out, Val},
};

/// As `LossProblem` of the kernel file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct LossProblem {
    directions: i32,
    pairs: i32,
    depth: i32,
    classes: i32,
    places: DeviceLabelPlaces,
    temperature: f32,
    temperature_f64: f64,
    weights: [f64; 2],
}

kernels! { "contrastive_loss";
    /// Similarities, their gradients, and sums, by tiles of 64 pixels.
    fn contrastive_tiles<T in f32 | f64 | bf16>(
        features: In<T>, other_features: OptIn<T>, vectors: In<T::Accumulator>, vector_inverse: In<T::Accumulator>,
        counts: In<u32>, labels: In<u8>, other_labels: OptIn<u8>, dynamic: OptIn<u8>, overlap: In<u8>,
        inverse: Out<T::Accumulator>, g: Out<T::Accumulator>, a: Out<T::Accumulator>, tile_loss: Out<T::Accumulator>,
        tile_mass: Out<u32>, problem: Val<LossProblem>);
    /// The loss and the scales from the tiles' sums.
    fn contrastive_finish<T in f32 | f64>(
        tile_loss: In<T>, tile_mass: In<u32>, total: Out<T>, of_first: OptOut<T>, of_second: OptOut<T>, scale: Out<T>,
        problem: Val<LossProblem>);
}

/// The pixels of one domain or of both, and the prototypes that they are held against: of the same domain where there is
/// one, of the other where there are two.
pub(crate) struct Directions<'a> {
    pub extents: Extents,
    /// 1 or 2.
    pub count: usize,
    pub features: &'a Halves,
    pub labels: &'a Halves,
    /// u8 [N,h,w], for the second domain where its labels have none.
    pub dynamic: Option<&'a Tensor>,
    pub places: DeviceLabelPlaces,
    /// [D,N,C,d].
    pub vectors: &'a Tensor,
    /// Their inverse norms [D,N,C].
    pub vector_inverse: &'a Tensor,
    /// u32 [D,N,C].
    pub counts: &'a Tensor,
    /// u8 [N,C].
    pub overlap: &'a Tensor,
    pub temperature: f64,
    /// Of the directions, in the total.
    pub weights: [f64; 2],
}

/// What [`Directions::forward`] computes.
pub(crate) struct Losses {
    /// The weighted sum, of shape [].
    pub total: Tensor,
    /// Each direction's loss, unweighted, where there are two.
    pub each: Option<[Tensor; 2]>,
    pub saved: SavedCosines,
}

/// What the backward pass needs, with a leading extent for the directions: see [`Saved`].
pub(crate) struct SavedCosines {
    pub inverse: Tensor,
    pub g: Tensor,
    pub a: Tensor,
    pub scale: Tensor,
}

impl Directions<'_> {
    pub fn forward<T: Element>(&self) -> Result<Losses> {
        let (e, device, images) = (self.extents, self.vectors.device(), self.count * self.extents.pairs);
        let empty = |shape: &[usize]| Tensor::empty(shape, T::Accumulator::DTYPE, device);
        let (mut inverse, mut a) = (empty(&[images, e.cells()])?, empty(&[images, e.cells()])?);
        let mut g = empty(&[images, e.cells(), e.classes])?;
        let (mut scale, mut total, mut tile_loss) = (empty(&[images])?, empty(&[])?, empty(&[images, tiles(e)])?);
        let mut tile_mass = Tensor::empty(&[images, tiles(e)], DType::U32, device)?;
        let mut each = if self.count == 2 { Some([empty(&[])?, empty(&[])?]) } else { None };
        let extents = [self.count, e.pairs, e.depth, e.classes].map(|extent| extent as i32);
        let [directions, pairs, depth, classes] = extents;
        let (temperature, temperature_f64) = (self.temperature as f32, self.temperature);
        let (places, weights) = (self.places, self.weights);
        let problem = LossProblem { directions, pairs, depth, classes, places, temperature, temperature_f64, weights };
        let launch = tile_launch(OP, e)?;
        // SAFETY: the operation checked all shapes; a block a tile, for each direction.
        unsafe {
            contrastive_tiles::<T>(
                device,
                Launch { grid: [launch.grid[0], self.count as u32, 1], ..launch },
                &self.features.first,
                self.features.second.as_ref(),
                self.vectors,
                self.vector_inverse,
                self.counts,
                &self.labels.first,
                self.labels.second.as_ref(),
                self.dynamic,
                self.overlap,
                &mut inverse,
                &mut g,
                &mut a,
                &mut tile_loss,
                &mut tile_mass,
                problem,
            )?;
        }
        let (of_first, of_second) = match &mut each {
            Some([first, second]) => (Some(first), Some(second)),
            None => (None, None),
        };
        // SAFETY: one block walks over all tiles' sums.
        unsafe {
            contrastive_finish::<T::Accumulator>(
                device,
                Launch::blocks(OP, 1, 256)?,
                &tile_loss,
                &tile_mass,
                &mut total,
                of_first,
                of_second,
                &mut scale,
                problem,
            )?;
        }
        Ok(Losses { total, each, saved: SavedCosines { inverse, g, a, scale } })
    }
}

pub(super) fn forward<T: Element>(inputs: [&Tensor; 5], problem: Problem) -> Result<(Tensor, Saved)> {
    let [features, vectors, counts, labels, overlap] = inputs;
    let e = problem.extents;
    let directions = Directions {
        extents: e,
        count: 1,
        features: &Halves::one(features),
        labels: &Halves::one(labels),
        dynamic: None,
        places: LabelPlaces::Nearest.for_device([problem.rows, problem.columns], [e.height, e.width]),
        vectors,
        vector_inverse: &row_norms::<T::Accumulator>(OP, vectors)?,
        counts,
        overlap,
        temperature: problem.temperature,
        weights: [1.0, 0.0],
    };
    let Losses { total, saved: SavedCosines { inverse, g, a, scale }, .. } = directions.forward::<T>()?;
    let (features, vectors) = (features.clone(), vectors.clone());
    Ok((total, Saved { features, vectors, inverse, g, a, b: None, scale }))
}

pub(super) fn backward<T: Element>(
    saved: &Saved,
    dloss: &Tensor,
    extents: Extents,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let Saved { features, vectors, inverse, g, a, scale, .. } = saved;
    let (features, vector_inverse) = (&Halves::one(features), &row_norms::<T::Accumulator>(OP, vectors)?);
    let (directions, scale) = (1, Some((scale, dloss)));
    let from = DeviceGradients { extents, directions, features, vectors, vector_inverse, inverse, g, a, scale };
    from.wanted::<T>(OP, wanted)
}
