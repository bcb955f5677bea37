//! Launches of `kernels/contrastive_loss.cu`.

use half::bf16;

use super::{OP, Problem, Saved};
use crate::{
    DType, Result, Tensor,
    device::Launch,
    kernels,
    ops::cosine::{
        Extents,
        cuda::{DeviceGradients, device_gradients, row_norms, tile_launch, tiles},
    },
    tensor::{Element, In, Out, Val},
};

/// As `LossProblem` of the kernel file.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct LossProblem {
    pairs: i32,
    height: i32,
    width: i32,
    depth: i32,
    classes: i32,
    rows: i32,
    columns: i32,
    temperature: f32,
    temperature_f64: f64,
}

kernels! { "contrastive_loss";
    /// Similarities, their gradients, and sums, by tiles of 64 pixels.
    fn contrastive_tiles<T in f32 | f64 | bf16>(
        features: In<T>, vectors: In<T::Accumulator>, vector_inverse: In<T::Accumulator>, counts: In<u32>,
        labels: In<u8>, overlap: In<u8>, inverse: Out<T::Accumulator>, g: Out<T::Accumulator>, a: Out<T::Accumulator>,
        tile_loss: Out<T::Accumulator>, tile_mass: Out<u32>, tile_b: Out<T::Accumulator>, problem: Val<LossProblem>);
    /// The loss and the scales from the tiles' sums.
    fn contrastive_finish<T in f32 | f64>(
        tile_loss: In<T>, tile_mass: In<u32>, tile_b: In<T>, loss: Out<T>, scale: Out<T>, b: Out<T>,
        problem: Val<LossProblem>);
}

pub(super) fn forward<T: Element>(inputs: [&Tensor; 5], problem: Problem) -> Result<(Tensor, Saved)> {
    let [features, vectors, counts, labels, overlap] = inputs;
    let e = problem.extents;
    let device = features.device();
    let empty = |shape: &[usize]| Tensor::empty(shape, T::Accumulator::DTYPE, device);
    let (mut inverse, mut a) = (empty(&[e.pairs, e.cells()])?, empty(&[e.pairs, e.cells()])?);
    let mut g = empty(&[e.pairs, e.cells(), e.classes])?;
    let (mut b, mut scale, mut loss) = (empty(&[e.pairs, e.classes])?, empty(&[e.pairs])?, empty(&[])?);
    let (mut tile_loss, mut tile_b) = (empty(&[e.pairs, tiles(e)])?, empty(&[e.pairs, tiles(e), e.classes])?);
    let mut tile_mass = Tensor::empty(&[e.pairs, tiles(e)], DType::U32, device)?;
    let vector_inverse = row_norms::<T::Accumulator>(OP, vectors)?;
    let [pairs, height, width, depth, classes, rows, columns] =
        [e.pairs, e.height, e.width, e.depth, e.classes, problem.rows, problem.columns].map(|extent| extent as i32);
    let (temperature, temperature_f64) = (problem.temperature as f32, problem.temperature);
    let of_kernel = LossProblem { pairs, height, width, depth, classes, rows, columns, temperature, temperature_f64 };
    // SAFETY: the operation checked all shapes; a block a tile.
    unsafe {
        contrastive_tiles::<T>(
            device,
            tile_launch(OP, e)?,
            features,
            vectors,
            &vector_inverse,
            counts,
            labels,
            overlap,
            &mut inverse,
            &mut g,
            &mut a,
            &mut tile_loss,
            &mut tile_mass,
            &mut tile_b,
            of_kernel,
        )?;
    }
    // SAFETY: one block walks over all tiles' sums.
    unsafe {
        contrastive_finish::<T::Accumulator>(
            device,
            Launch::blocks(OP, 1, 256)?,
            &tile_loss,
            &tile_mass,
            &tile_b,
            &mut loss,
            &mut scale,
            &mut b,
            of_kernel,
        )?;
    }
    let (features, vectors) = (features.clone(), vectors.clone());
    Ok((loss, Saved { features, vectors, inverse, g, a, b, scale }))
}

pub(super) fn backward<T: Element>(
    saved: &Saved,
    dloss: &Tensor,
    extents: Extents,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let Saved { features, vectors, inverse, g, a, b, scale } = saved;
    let from = DeviceGradients { extents, features, vectors, inverse, g, a, b, scale: Some((scale, dloss)) };
    device_gradients::<T>(OP, &from, wanted)
}
