//! The kernels of `kernels/conv2d_mma.cu`: on tensor cores, channels in whole chunks of 16 bytes; f32 means tf32 factors.

use half::bf16;

use super::epilogue::{DataGradient, Forward};
use crate::{
    kernels,
    ops::conv2d::{ConvProblem, MmaTile},
    tensor::{In, Out, Val},
};

kernels! { "conv2d_mma";
    /// y = x * w, and what its epilogue adds.
    fn conv2d_mma_forward<T in f32 | bf16; MmaTile in [large medium small slim]>(
        x: In<T>, w: In<T>, y: Out<T>, epilogue: Forward<T>, problem: Val<ConvProblem>, group: Val<i32>
    );
    /// dx from dy and w, and what its epilogue adds.
    fn conv2d_mma_data_gradient<T in f32 | bf16; MmaTile in [large medium small slim]>(
        dy: In<T>, w: In<T>, dx: Out<T>, epilogue: DataGradient<T>, problem: Val<ConvProblem>
    );
    /// Sums of dw over ranges of pixels.
    fn conv2d_mma_weight_gradient<T in f32 | bf16; MmaTile in [large medium small slim]>(
        dy: In<T>, x: In<T>, partial: Out<f32>, problem: Val<ConvProblem>, range: Val<i32>
    );
}
