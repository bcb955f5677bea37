//! The kernels of `kernels/conv2d_mma.cu`: on tensor cores, channels in whole chunks of 16 bytes; f32 means tf32 factors.

use half::bf16;

use crate::{
    kernels,
    ops::{conv2d::ConvParams, epilogue::NormParams},
    tensor::{In, OptIn, OptOut, Out, Val},
};

kernels! { "conv2d_mma";
    /// y = x * w + bias, and the batch norm after; tiles of 128 x 128.
    fn conv2d_mma_forward_large<T in f32 | bf16>(x: In<T>, w: In<T>, bias: OptIn<T>, y: Out<T>, moments: OptOut<f32>, residual: OptIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, params: Val<ConvParams>, group: Val<i32>, norm: Val<NormParams>);
    /// y = x * w + bias, and the batch norm after; tiles of 128 x 64.
    fn conv2d_mma_forward_medium<T in f32 | bf16>(x: In<T>, w: In<T>, bias: OptIn<T>, y: Out<T>, moments: OptOut<f32>, residual: OptIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, params: Val<ConvParams>, group: Val<i32>, norm: Val<NormParams>);
    /// y = x * w + bias, and the batch norm after; tiles of 64 x 64.
    fn conv2d_mma_forward_small<T in f32 | bf16>(x: In<T>, w: In<T>, bias: OptIn<T>, y: Out<T>, moments: OptOut<f32>, residual: OptIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, params: Val<ConvParams>, group: Val<i32>, norm: Val<NormParams>);
    /// y = x * w + bias, and the batch norm after; tiles of 128 x 32.
    fn conv2d_mma_forward_slim<T in f32 | bf16>(x: In<T>, w: In<T>, bias: OptIn<T>, y: Out<T>, moments: OptOut<f32>, residual: OptIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, params: Val<ConvParams>, group: Val<i32>, norm: Val<NormParams>);
    /// dx from dy and w, plus what there is so far; sums for the batch norm before; tiles of 128 x 128.
    fn conv2d_mma_data_gradient_large<T in f32 | bf16>(dy: In<T>, w: In<T>, so_far: OptIn<T>, dx: Out<T>, x: OptIn<T>, y: OptIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, sums: OptOut<f32>, params: Val<ConvParams>, norm: Val<NormParams>);
    /// dx from dy and w, plus what there is so far; sums for the batch norm before; tiles of 128 x 64.
    fn conv2d_mma_data_gradient_medium<T in f32 | bf16>(dy: In<T>, w: In<T>, so_far: OptIn<T>, dx: Out<T>, x: OptIn<T>, y: OptIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, sums: OptOut<f32>, params: Val<ConvParams>, norm: Val<NormParams>);
    /// dx from dy and w, plus what there is so far; sums for the batch norm before; tiles of 64 x 64.
    fn conv2d_mma_data_gradient_small<T in f32 | bf16>(dy: In<T>, w: In<T>, so_far: OptIn<T>, dx: Out<T>, x: OptIn<T>, y: OptIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, sums: OptOut<f32>, params: Val<ConvParams>, norm: Val<NormParams>);
    /// dx from dy and w, plus what there is so far; sums for the batch norm before; tiles of 128 x 32.
    fn conv2d_mma_data_gradient_slim<T in f32 | bf16>(dy: In<T>, w: In<T>, so_far: OptIn<T>, dx: Out<T>, x: OptIn<T>, y: OptIn<T>, mean: OptIn<f32>, variance: OptIn<f32>, scale: OptIn<f32>, shift: OptIn<f32>, sums: OptOut<f32>, params: Val<ConvParams>, norm: Val<NormParams>);
    /// Sums of dw over ranges of pixels, tiles of 128 x 128.
    fn conv2d_mma_weight_gradient_large<T in f32 | bf16>(dy: In<T>, x: In<T>, partial: Out<f32>, params: Val<ConvParams>, range: Val<i32>);
    /// Sums of dw over ranges of pixels, tiles of 128 x 64.
    fn conv2d_mma_weight_gradient_medium<T in f32 | bf16>(dy: In<T>, x: In<T>, partial: Out<f32>, params: Val<ConvParams>, range: Val<i32>);
    /// Sums of dw over ranges of pixels, tiles of 64 x 64.
    fn conv2d_mma_weight_gradient_small<T in f32 | bf16>(dy: In<T>, x: In<T>, partial: Out<f32>, params: Val<ConvParams>, range: Val<i32>);
    /// Sums of dw over ranges of pixels, tiles of 128 x 32.
    fn conv2d_mma_weight_gradient_slim<T in f32 | bf16>(dy: In<T>, x: In<T>, partial: Out<f32>, params: Val<ConvParams>, range: Val<i32>);
}
