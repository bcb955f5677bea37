//! The kernels of `kernels/conv2d.cu`: any shape, on the ordinary arithmetic units.

use half::bf16;

use crate::{
    kernels,
    ops::conv2d::ConvProblem,
    tensor::{In, OptIn, Out, Val},
};

kernels! { "conv2d";
    /// y = x * w + bias, 64 filters a tile.
    fn conv2d_forward_wide<T in f32 | bf16>(x: In<T>, w: In<T>, bias: OptIn<T>, y: Out<T>, problem: Val<ConvProblem>);
    /// As `conv2d_forward_wide`, 32 filters a tile.
    fn conv2d_forward_narrow<T in f32 | f64 | bf16>(x: In<T>, w: In<T>, bias: OptIn<T>, y: Out<T>, problem: Val<ConvProblem>);
    /// dx from dy and w, 64 channels a tile.
    fn conv2d_data_gradient_wide<T in f32 | bf16>(dy: In<T>, w: In<T>, dx: Out<T>, problem: Val<ConvProblem>);
    /// As `conv2d_data_gradient_wide`, 32 channels a tile.
    fn conv2d_data_gradient_narrow<T in f32 | f64 | bf16>(dy: In<T>, w: In<T>, dx: Out<T>, problem: Val<ConvProblem>);
    /// Sums of dw over ranges of pixels, 64 columns a tile.
    fn conv2d_weight_gradient_wide<T in f32 | bf16>(
        dy: In<T>, x: In<T>, partial: Out<f32>, problem: Val<ConvProblem>, range: Val<i32>
    );
    /// As `conv2d_weight_gradient_wide`, 32 columns a tile.
    fn conv2d_weight_gradient_narrow<T in f32 | bf16>(
        dy: In<T>, x: In<T>, partial: Out<f32>, problem: Val<ConvProblem>, range: Val<i32>
    );
    /// As `conv2d_weight_gradient_narrow`, in f64.
    fn conv2d_weight_gradient_narrow_f64(dy: In<f64>, x: In<f64>, partial: Out<f64>, problem: Val<ConvProblem>, range: Val<i32>);
    /// Sums of db over ranges of pixels.
    fn conv2d_bias_gradient<T in f32 | bf16>(dy: In<T>, partial: Out<f32>, problem: Val<ConvProblem>, range: Val<i32>);
    /// As `conv2d_bias_gradient`, in f64.
    fn conv2d_bias_gradient_f64(dy: In<f64>, partial: Out<f64>, problem: Val<ConvProblem>, range: Val<i32>);
    /// The sums over ranges, added in order.
    fn conv2d_reduce<T in f32 | bf16>(partial: In<f32>, out: Out<T>, count: Val<i32>, ranges: Val<i32>);
    /// As `conv2d_reduce`, in f64.
    fn conv2d_reduce_f64(partial: In<f64>, out: Out<f64>, count: Val<i32>, ranges: Val<i32>);
}
