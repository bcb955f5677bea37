//! Tiny kernels that confirm on a card each layout that the emulator assumes: where the copies and products of a Hopper GPU
//! put their elements. `mod.rs` has what they must find.
//!
//! Every function errors unless its device has warpgroup products (`DeviceOptions::warpgroups`) and the shapes are as
//! stated. Tensors are bf16, sums f32.

use super::{Gather, LINE, OP, cuda};
use crate::{Device, Error, Result, Tensor};

/// The first 16 lines of `x` `[lines,columns]`, 64 columns of each, as a swizzled box leaves them in shared memory: `[16,64]`.
pub fn tma_swizzle(x: &Tensor) -> Result<Tensor> {
    expect_support(x.device())?;
    cuda::tma_swizzle(x)
}

/// The same for a box that begins in column `at[0]`, line `at[1]`, possibly outside `x` `[lines,columns]`; `at[0]` and the columns are
/// multiples of 8: a GPU stops at any other with an illegal instruction.
pub fn tma_zero_outside(x: &Tensor, at: [i32; 2]) -> Result<Tensor> {
    expect_support(x.device())?;
    cuda::tma_zero_outside(x, at)
}

/// 32 pixels of 64 channels of `x` `[N,H,W,C]`, as a swizzled box leaves them in shared memory: `[32,64]`.
pub fn tma_im2col(x: &Tensor, gather: &Gather) -> Result<Tensor> {
    expect_support(x.device())?;
    cuda::tma_im2col(x, gather)
}

/// The first 32 lines of `x` `[lines,64]`, as two blocks of a cluster have them in shared memory of which each copies half for
/// both: `[2,32,64]`.
pub fn tma_share(x: &Tensor) -> Result<Tensor> {
    expect_support(x.device())?;
    cuda::tma_share(x)
}

/// Ten times the size of a cluster of two blocks, and the rank of each, after each has arrived at the other's barrier: `[2]`, u32.
pub fn cluster_arrive(device: &Device) -> Result<Tensor> {
    expect_support(device)?;
    cuda::cluster_arrive(device)
}

/// The same of a block that is launched without a cluster: `[1]`, u32.
pub fn cluster_of_one(device: &Device) -> Result<Tensor> {
    expect_support(device)?;
    cuda::cluster_of_one(device)
}

/// Stores `source` `[64,64]` into `y` `[layers,lines,64]` from line `line` of layer 0 on, which is not negative: a GPU stops at stores
/// that begin before a tensor with an illegal instruction.
pub fn tma_store_clips(source: &Tensor, y: &mut Tensor, line: i32) -> Result<()> {
    expect_support(source.device())?;
    source.expect_shape(&[LINE, LINE], OP, "source")?;
    cuda::tma_store_clips(source, y, line)
}

/// A B^T over the first 16 columns of `a` `[64,64]` and `b` `[N,64]`, N being 64, 128 or 256: `[64,N]`.
pub fn wgmma_sums(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let [columns, _] = b.dims(OP)?;
    factors(a, [64, LINE], b, [columns, LINE])?;
    cuda::wgmma_sums(a, b)
}

/// A B^T of `a` `[64,64]` and `b` `[64,64]`: `[64,64]`.
pub fn wgmma_depth_step(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    factors(a, [64, LINE], b, [64, LINE])?;
    cuda::wgmma_depth_step(a, b)
}

/// A^T B^T of `a` `[64,64]`, whose lines are the depth, and `b` `[64,64]`: `[64,64]`.
pub fn wgmma_a_rows(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    factors(a, [64, LINE], b, [64, LINE])?;
    cuda::wgmma_a_rows(a, b)
}

/// A B of `a` `[64,64]` and `b` `[64,128]`, whose lines are the depth: `[64,128]`.
pub fn wgmma_b_columns(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    factors(a, [64, LINE], b, [64, 2 * LINE])?;
    cuda::wgmma_b_columns(a, b)
}

/// A B^T of rows 64..128 of `a` `[128,64]` and `b` `[64,64]`: `[64,64]`.
pub fn wgmma_tall(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    factors(a, [128, LINE], b, [64, LINE])?;
    cuda::wgmma_tall(a, b)
}

fn factors(a: &Tensor, a_shape: [usize; 2], b: &Tensor, b_shape: [usize; 2]) -> Result<()> {
    expect_support(a.device())?;
    a.expect_shape(&a_shape, OP, "a")?;
    b.expect_shape(&b_shape, OP, "b")
}

fn expect_support(device: &Device) -> Result<()> {
    match device.has_warpgroup_products() {
        true => Ok(()),
        false => Err(Error::shape(OP, format!("{device} has no warpgroup products"))),
    }
}
