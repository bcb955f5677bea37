//! Launches of `kernels/aspp_taps.cu`, around one product of x with the filters of all taps.
//!
//! The kernels of `gathers` read x for each branch and tap anew, and multiply by warps. This product reads it as it lies, once for
//! all taps, by warpgroups. The price is `t`, the products of the taps before they are added up: for 19 classes 684 values a pixel
//! beside the 2048 of x, each rounded to bf16.

use half::bf16;

use super::{AsppParams, BRANCHES, OP, Params};
use crate::{
    DType, Result, Tensor,
    autograd::{Contribution, GradientRequest},
    device::Launch,
    kernels,
    ops::conv2d::{PointwiseConv, count_product},
    tensor::{In, Out, Val},
};

kernels! { "aspp_taps";
    /// y from the products of every tap.
    fn aspp_gather<T in bf16>(
        t: In<T>, b0: In<T>, b1: In<T>, b2: In<T>, b3: In<T>, y: Out<T>, params: Val<AsppParams>, columns: Val<i32>,
        count: Val<i32>
    );
    /// Gradients of those from dy.
    fn aspp_spread<T in bf16>(
        dy: In<T>, dt: Out<T>, params: Val<AsppParams>, columns: Val<i32>, count: Val<i32>
    );
    /// The filters as rows of one matrix.
    fn aspp_stack<T in bf16>(
        w0: In<T>, w1: In<T>, w2: In<T>, w3: In<T>, stacked: Out<T>, params: Val<AsppParams>, count: Val<i32>
    );
    /// And back.
    fn aspp_unstack<T in bf16>(
        stacked: In<T>, w0: Out<T>, w1: Out<T>, w2: Out<T>, w3: Out<T>, params: Val<AsppParams>, count: Val<i32>
    );
}

/// Pixels of a thread of `aspp_gather` and of `aspp_spread` (GATHERED, SPREAD).
const GATHERED: usize = 4;
const SPREAD: usize = 16;
/// Elements of 16 bytes.
const CHUNK: usize = 8;

/// The product, and the problem that it is part of.
pub(in crate::ops::aspp) struct TapProduct {
    params: Params,
    product: PointwiseConv,
    /// The filters as its rows, up to whole chunks of them.
    stacked: Tensor,
}

impl TapProduct {
    /// Where warpgroups take the product.
    pub fn by_warpgroups(params: &Params, x: &Tensor, filters: &[Tensor; BRANCHES]) -> Result<Option<Self>> {
        let columns = taps(params).next_multiple_of(CHUNK);
        let Some(product) = PointwiseConv::by_warpgroups(x, columns) else { return Ok(None) };
        Ok(Some(Self { params: *params, product, stacked: stack(params, columns, filters)? }))
    }

    fn columns(&self) -> usize {
        self.stacked.shape()[0]
    }

    /// y.
    pub fn forward(
        &self,
        x: &Tensor,
        [w0, w1, w2, w3]: &[Tensor; BRANCHES],
        [b0, b1, b2, b3]: [&Tensor; BRANCHES],
    ) -> Result<Tensor> {
        let t = self.product.forward(x, &self.stacked)?;
        let [n, h, w, k] = self.params.conv.output();
        let mut y = Tensor::empty(&[n, h, w, BRANCHES * k], DType::Bf16, x.device())?;
        let count = n * h * w.div_ceil(GATHERED) * BRANCHES * k;
        let (launch, p) = (Launch::linear(OP, count)?, self.params.aspp);
        let (columns, count) = (self.columns() as i32, count as i32);
        // SAFETY: t has the pixels of y and the columns of the product, and the biases k elements; the launch covers y.
        unsafe { aspp_gather::<bf16>(x.device(), launch, &t, b0, b1, b2, b3, &mut y, p, columns, count)? };
        count_product(&[x, w0, w1, w2, w3, &y]);
        Ok(y)
    }

    /// Gradients of x and of the filters, as far as they are wanted. That of x accumulates, and applies the epilogue of x's
    /// producer.
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        [w0, w1, w2, w3]: &[Tensor; BRANCHES],
        image: &mut GradientRequest,
        of_filters: bool,
    ) -> Result<(Option<Contribution>, [Option<Tensor>; BRANCHES])> {
        let dt = self.spread(dy)?;
        let mut dx = None;
        if image.wanted {
            let contribution = self.product.data_gradient(&dt, &self.stacked, image)?;
            count_product(&[dy, w0, w1, w2, w3, &contribution.gradient]);
            dx = Some(contribution);
        }
        if !of_filters {
            return Ok((dx, [const { None }; BRANCHES]));
        }
        let gradients = self.unstack(&self.product.weight_gradient(&dt, x)?)?;
        let [g0, g1, g2, g3] = &gradients;
        count_product(&[dy, x, g0, g1, g2, g3]);
        Ok((dx, gradients.map(Some)))
    }

    fn spread(&self, dy: &Tensor) -> Result<Tensor> {
        let [n, h, w, _] = self.params.conv.output();
        let mut dt = Tensor::empty(&[n, h, w, self.columns()], DType::Bf16, dy.device())?;
        let count = n * h * w.div_ceil(SPREAD) * self.columns() / 2;
        let (launch, p) = (Launch::linear(OP, count)?, self.params.aspp);
        let (columns, count) = (self.columns() as i32, count as i32);
        // SAFETY: dy has the pixels and four times the channels of `params`; the launch covers dt.
        unsafe { aspp_spread::<bf16>(dy.device(), launch, dy, &mut dt, p, columns, count)? };
        Ok(dt)
    }

    fn unstack(&self, stacked: &Tensor) -> Result<[Tensor; BRANCHES]> {
        let (shape, device) = (self.params.conv.filter(), stacked.device());
        let filter = || Tensor::empty(&shape, DType::Bf16, device);
        let mut filters = [filter()?, filter()?, filter()?, filter()?];
        let count = taps(&self.params) * shape[3] / CHUNK;
        let (launch, p) = (Launch::linear(OP, count)?, self.params.aspp);
        let [w0, w1, w2, w3] = &mut filters;
        // SAFETY: `stacked` has a row for each tap, of whole chunks of channels; the launch covers the four filters.
        unsafe { aspp_unstack::<bf16>(device, launch, stacked, w0, w1, w2, w3, p, count as i32)? };
        Ok(filters)
    }
}

/// Those of all branches and output channels: 4 K R S.
fn taps(params: &Params) -> usize {
    let [k, r, s, _] = params.conv.filter();
    BRANCHES * k * r * s
}

fn stack(params: &Params, columns: usize, [w0, w1, w2, w3]: &[Tensor; BRANCHES]) -> Result<Tensor> {
    let channels = params.conv.c as usize;
    let mut stacked = Tensor::empty(&[columns, 1, 1, channels], DType::Bf16, w0.device())?;
    let count = stacked.len() / CHUNK;
    let (launch, p) = (Launch::linear(OP, count)?, params.aspp);
    // SAFETY: the filters have the extents of `params`, of whole chunks of channels; the launch covers `stacked`.
    unsafe { aspp_stack::<bf16>(w0.device(), launch, w0, w1, w2, w3, &mut stacked, p, count as i32)? };
    Ok(stacked)
}
