//! A 1 x 1 convolution in bf16 by warpgroups, for operations that are made of one on a GPU. Its operands may be the caller's
//! workspace, so that the caller counts what a plan is to know.

use half::bf16;

use super::{Conv2dSpec, ConvProblem, MathMode, cuda, problem::Direction, wgmma_tiling};
use crate::{
    DType, Result, Tensor,
    autograd::{Contribution, GradientRequest},
    ops::epilogue::BatchNormEpilogue,
};

/// y[n,h,w,k] = sum over c of x[n,h,w,c] w[k,c].
pub(in crate::ops) struct PointwiseConv(ConvProblem);

impl PointwiseConv {
    /// Of x [N, H, W, C] with `rows` rows, where warpgroups take it and its gradients.
    pub fn by_warpgroups(x: &Tensor, rows: usize) -> Option<Self> {
        if !x.device().has_warpgroup_products() || x.dtype() != DType::Bf16 {
            return None;
        }
        let &[n, h, w, c] = x.shape() else { return None };
        let problem = ConvProblem::new([n, h, w, c], [rows, 1, 1, c], &Conv2dSpec::default()).ok()?;
        let directions = [Direction::Forward, Direction::DataGradient, Direction::WeightGradient];
        directions.iter().all(|&direction| wgmma_tiling::suits(direction, &problem)).then_some(Self(problem))
    }

    /// y from x [N, H, W, C] and w [K, 1, 1, C].
    pub fn forward(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        Ok(cuda::forward::<bf16>(&self.0, x, w, None, MathMode::Full, None, &BatchNormEpilogue::none())?.y)
    }

    /// dx, with what there is to accumulate and the epilogue of x's producer.
    pub fn data_gradient(&self, dy: &Tensor, w: &Tensor, request: &mut GradientRequest) -> Result<Contribution> {
        cuda::data_gradient::<bf16>(&self.0, dy, w, MathMode::Full, request)
    }

    /// dw [K, 1, 1, C].
    pub fn weight_gradient(&self, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        cuda::weight_gradient::<bf16>(&self.0, dy, x, MathMode::Full)
    }
}
