//! Launches of `kernels/aspp.cu`.

use half::bf16;

use super::{AsppParams, BRANCHES, OP, Params};
use crate::{
    DType, Error, Result, Tensor,
    autograd::{Contribution, GradientRequest},
    device::Launch,
    kernels,
    ops::{
        conv2d::{
            MmaTile, count_product,
            cuda::{
                epilogue::{DataGradient, DataGradientEpilogue},
                reduce,
            },
            split_k,
        },
        epilogue::BatchNormBackwardEpilogue,
    },
    tensor::{Element, In, Out, Val},
};

/// Threads of a block (MMA_THREADS).
const THREADS: u32 = 128;
/// Blocks that keep a large GPU busy.
const BLOCKS: usize = 264;

kernels! { "aspp";
    /// y from x and the four filters and biases.
    fn aspp_forward<T in f32 | bf16>(
        x: In<T>, w0: In<T>, w1: In<T>, w2: In<T>, w3: In<T>, b0: In<T>, b1: In<T>, b2: In<T>, b3: In<T>, y: Out<T>,
        params: Val<AsppParams>
    );
    /// dy with the channels of each branch filled up to whole chunks.
    fn aspp_pack<T in f32 | bf16>(dy: In<T>, packed: Out<T>, k: Val<i32>, count: Val<i32>);
    /// dx, and what its epilogue adds.
    fn aspp_data_gradient<T in f32 | bf16; MmaTile in [large small]>(
        packed: In<T>, w0: In<T>, w1: In<T>, w2: In<T>, w3: In<T>, dx: Out<T>, epilogue: DataGradient<T>,
        params: Val<AsppParams>
    );
    /// Sums of dw over split_k of pixels.
    fn aspp_weight_gradient<T in f32 | bf16>(
        packed: In<T>, x: In<T>, p0: Out<f32>, p1: Out<f32>, p2: Out<f32>, p3: Out<f32>, params: Val<AsppParams>,
        range: Val<i32>
    );
}

fn launch(tile: MmaTile, grid: [usize; 3]) -> Result<Launch> {
    let launch = Launch::blocks(OP, grid[0], THREADS)?;
    Ok(Launch { grid: [launch.grid[0], grid[1] as u32, grid[2] as u32], shared_bytes: tile.shared_bytes(), ..launch })
}

pub(super) fn forward<T: Element>(
    params: &Params,
    x: &Tensor,
    [w0, w1, w2, w3]: &[Tensor; BRANCHES],
    [b0, b1, b2, b3]: [&Tensor; BRANCHES],
) -> Result<Tensor> {
    let [n, h, w, k] = params.conv.output();
    let mut y = Tensor::empty(&[n, h, w, BRANCHES * k], T::DTYPE, x.device())?;
    let launch = launch(MmaTile::Slim, [params.pixels().div_ceil(128), 1, BRANCHES])?;
    // SAFETY: the tensors have the extents of `params`, which the caller checked, and the channels that the kernel takes;
    // the grid covers the pixels in tiles, for each branch.
    unsafe { aspp_forward::<T>(x.device(), launch, x, w0, w1, w2, w3, b0, b1, b2, b3, &mut y, params.aspp)? };
    count_product(&[x, w0, w1, w2, w3, &y]);
    Ok(y)
}

/// Gradients of x and of the filters, as far as they are wanted.
pub(super) fn backward<T: Element>(
    params: &Params,
    dy: &Tensor,
    x: &Tensor,
    filters: &[Tensor; BRANCHES],
    image: &GradientRequest,
    of_filters: bool,
) -> Result<(Option<Contribution>, [Option<Tensor>; BRANCHES])> {
    let packed = pack::<T>(params, dy)?;
    let dx = image.wanted.then(|| data_gradient::<T>(params, &packed, filters, image)).transpose()?;
    // One launch makes those of all filters.
    let dw = match of_filters {
        true => weight_gradients::<T>(params, &packed, x)?.map(Some),
        false => [const { None }; BRANCHES],
    };
    Ok((dx, dw))
}

fn pack<T: Element>(params: &Params, dy: &Tensor) -> Result<Tensor> {
    let [n, h, w, k] = params.conv.output();
    let channels = k.next_multiple_of(16 / T::DTYPE.size());
    let mut packed = Tensor::empty(&[n, h, w, BRANCHES * channels], T::DTYPE, dy.device())?;
    let launch = Launch::linear(OP, packed.len())?;
    let count = packed.len() as i32;
    // SAFETY: dy has the pixels and four times the channels of `params`; the launch covers `packed`.
    unsafe { aspp_pack::<T>(dy.device(), launch, dy, &mut packed, params.conv.k, count)? };
    Ok(packed)
}

fn data_gradient<T: Element>(
    params: &Params,
    packed: &Tensor,
    [w0, w1, w2, w3]: &[Tensor; BRANCHES],
    request: &GradientRequest,
) -> Result<Contribution> {
    let (device, p) = (packed.device(), params.aspp);
    let mut dx = Tensor::empty(&params.conv.input(), T::DTYPE, device)?;
    let norm = BatchNormBackwardEpilogue::of(request, &dx);
    // Tiles end with each group of images that has statistics of its own.
    let (rows, columns) = (params.pixels() / norm.groups, params.conv.c as usize);
    let large = norm.groups * MmaTile::Large.count(rows, columns) >= BLOCKS;
    let tile = if large { MmaTile::Large } else { MmaTile::Small };
    let launch = launch(tile, [tile.count(rows, columns), 1, norm.groups])?;
    let mut norm = norm.with_room(rows.div_ceil(tile.m()))?;
    let epilogue = DataGradientEpilogue::new(None, &mut norm);
    // SAFETY: the tensors have the extents of `params`, x and y those of dx, and the vectors a value for each channel (mean
    // and variance for each group); the grid covers dx in tiles, group by group, for which the sums have room.
    unsafe {
        aspp_data_gradient::<T>(device, launch, tile, packed, w0, w1, w2, w3, &mut dx, epilogue, p)?;
    }
    count_product(&[packed, w0, w1, w2, w3, &dx]);
    Ok(Contribution { gradient: dx, fused: norm.fused() })
}

fn weight_gradients<T: Element>(params: &Params, packed: &Tensor, x: &Tensor) -> Result<[Tensor; BRANCHES]> {
    let shape = params.conv.filter();
    let tiles = shape[1..].iter().product::<usize>().div_ceil(128);
    let (layers, range) = split_k(BRANCHES * tiles, params.pixels());
    if layers > 65_535 {
        return Err(Error::shape(
            OP,
            format!("{layers} split_k of pixels exceed the grid; use a smaller batch or crop"),
        ));
    }
    let launch = launch(MmaTile::Slim, [tiles, BRANCHES, layers])?;
    let partial = || Tensor::empty(&[&[layers][..], &shape].concat(), DType::F32, x.device());
    let mut sums = [partial()?, partial()?, partial()?, partial()?];
    let [p0, p1, p2, p3] = &mut sums;
    // SAFETY: the tensors have the extents of `params`; the grid covers the filters in tiles and the pixels in split_k, one
    // layer of each of `sums`.
    unsafe { aspp_weight_gradient::<T>(x.device(), launch, packed, x, p0, p1, p2, p3, params.aspp, range as i32)? };
    let [a, b, c, d] = sums;
    let total = |sums: Tensor| reduce::<T>(&sums, &shape, layers);
    let gradients = [total(a)?, total(b)?, total(c)?, total(d)?];
    let [a, b, c, d] = &gradients;
    count_product(&[packed, x, a, b, c, d]);
    Ok(gradients)
}
