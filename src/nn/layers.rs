//! Convolution and batch norm as layers: they own names and initial values, the operations do the work.

use super::{Domain, Forward, Normalization, ParameterId, Parameters, Role};
use crate::{
    Error, Result,
    autograd::Var,
    ops::{self, AsppBranch, BatchNormMode, BatchNormOutput, BatchNormSpec, Conv2dSpec},
    tensor::Rng,
};

/// Added to the variance, as PyTorch's default.
pub const EPSILON: f64 = 1e-5;

/// Names of what the target domain has of its own begin so; the rest of the name is the source's.
pub const TARGET_PREFIX: &str = "target.";

/// Extents of a square convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvShape {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Filter height and width.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Dilation; the padding keeps the extent at stride 1.
    pub dilation: usize,
}

/// A convolution with its filter `[K,R,S,C]` and, in the head, a bias `[K]`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    filter: ParameterId,
    bias: Option<ParameterId>,
    spec: Conv2dSpec,
}

impl Conv2d {
    /// Without bias, for a batch norm to follow: He's normal initialisation over the fan-out (He et al., ICCV 2015;
    /// as torchvision's ResNet).
    pub fn backbone(parameters: &mut Parameters, rng: &mut Rng, name: &str, shape: ConvShape) -> Result<Self> {
        let deviation = (2.0 / (shape.output * shape.kernel * shape.kernel) as f64).sqrt();
        let filter = Self::filter(parameters, rng, name, shape, deviation, Role::Backbone)?;
        Ok(Self { filter, bias: None, spec: Self::spec(shape) })
    }

    /// With bias: normal with deviation 0.01 and bias 0, as DeepLab's head.
    pub fn head(parameters: &mut Parameters, rng: &mut Rng, name: &str, shape: ConvShape) -> Result<Self> {
        let filter = Self::filter(parameters, rng, name, shape, 0.01, Role::Head)?;
        let bias = parameters.add(format!("{name}.bias"), vec![0.0; shape.output], &[shape.output], Role::Head)?;
        Ok(Self { filter, bias: Some(bias), spec: Self::spec(shape) })
    }

    fn spec(shape: ConvShape) -> Conv2dSpec {
        let padding = shape.dilation * (shape.kernel - 1) / 2;
        Conv2dSpec { stride: [shape.stride; 2], padding: [padding; 2], dilation: [shape.dilation; 2] }
    }

    fn filter(
        parameters: &mut Parameters,
        rng: &mut Rng,
        name: &str,
        shape: ConvShape,
        deviation: f64,
        role: Role,
    ) -> Result<ParameterId> {
        let extents = [shape.output, shape.kernel, shape.kernel, shape.input];
        let (name, count) = (format!("{name}.weight"), extents.iter().product());
        let values = if parameters.expects(&name) {
            // The draws that follow stay the same.
            *rng = rng.clone().after(2 * count as u64);
            vec![0.0; count]
        } else {
            (0..count).map(|_| (deviation * rng.normal()) as f32).collect()
        };
        parameters.add(name, values, &extents, role)
    }

    /// `[N,H,W,C]` -> `[N,P,Q,K]`.
    pub fn forward(&self, pass: &Forward<'_>, x: &Var) -> Result<Var> {
        let (filter, bias) = self.weights(pass)?;
        ops::conv2d(x, &filter, bias.as_ref(), &self.spec)
    }

    fn weights(&self, pass: &Forward<'_>) -> Result<(Var, Option<Var>)> {
        Ok((pass.filter(self.filter)?, self.bias.map(|bias| pass.filter(bias)).transpose()?))
    }
}

/// Atrous spatial pyramid pooling: 3 x 3 convolutions of one input with a dilation each, side by side.
#[derive(Clone, Debug)]
pub struct Aspp {
    branches: Vec<Conv2d>,
    dilations: Vec<usize>,
}

impl Aspp {
    /// Branch `i` is `{name}.{i}`, as [`Conv2d::head`].
    pub fn new(
        parameters: &mut Parameters,
        rng: &mut Rng,
        name: &str,
        [input, output]: [usize; 2],
        dilations: &[usize],
    ) -> Result<Self> {
        let branch = |(i, &dilation): (usize, &usize)| {
            let shape = ConvShape { input, output, kernel: 3, stride: 1, dilation };
            Conv2d::head(parameters, rng, &format!("{name}.{i}"), shape)
        };
        let branches = dilations.iter().enumerate().map(branch).collect::<Result<_>>()?;
        Ok(Self { branches, dilations: dilations.to_vec() })
    }

    /// `[N,H,W,C]` -> `[N,H,W,B*K]`: the branches' outputs, concatenated.
    pub fn forward(&self, pass: &Forward<'_>, x: &Var) -> Result<Var> {
        let parts = |branch: &Conv2d| {
            let bias = branch.bias.ok_or_else(|| Error::Internal("a branch of the head has no bias".into()))?;
            Ok((pass.filter(branch.filter)?, pass.filter(bias)?))
        };
        let parts: Vec<(Var, Var)> = self.branches.iter().map(parts).collect::<Result<_>>()?;
        let branch = |((filter, bias), &dilation)| AsppBranch { filter, bias, dilation };
        let branches: Vec<_> = parts.iter().map(|(f, b)| (f, b)).zip(&self.dilations).map(branch).collect();
        ops::aspp(x, &branches)
    }
}

/// Batch norm over `[N,H,W,C]` with scale, shift and running statistics `[C]`.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    scale: ParameterId,
    shift: ParameterId,
    statistics: Running,
    target_statistics: Option<Running>,
}

/// Running mean and variance.
#[derive(Clone, Copy, Debug)]
struct Running {
    mean: ParameterId,
    variance: ParameterId,
}

impl BatchNorm {
    /// The identity at first: scale 1, shift 0, mean 0, variance 1. With `domain_statistics` the target's running
    /// statistics are kept apart, under names that begin with [`TARGET_PREFIX`].
    pub fn new(parameters: &mut Parameters, name: &str, channels: usize, domain_statistics: bool) -> Result<Self> {
        let mut add = |name: String, value: f32, role| parameters.add(name, vec![value; channels], &[channels], role);
        let scale = add(format!("{name}.weight"), 1.0, Role::Affine)?;
        let shift = add(format!("{name}.bias"), 0.0, Role::Affine)?;
        let mut running = |prefix: &str| -> Result<Running> {
            Ok(Running {
                mean: add(format!("{prefix}{name}.running_mean"), 0.0, Role::Statistic)?,
                variance: add(format!("{prefix}{name}.running_var"), 1.0, Role::Statistic)?,
            })
        };
        let statistics = running("")?;
        let target_statistics = if domain_statistics { Some(running(TARGET_PREFIX)?) } else { None };
        Ok(Self { scale, shift, statistics, target_statistics })
    }

    /// norm(x) scale + shift.
    pub fn forward(&self, pass: &Forward<'_>, x: &Var) -> Result<Var> {
        self.run(pass, None, false, |[scale, shift], spec| ops::batch_norm_with(x, scale, shift, spec))
    }

    /// norm(conv(x)) scale + shift + residual, and what it says on `relu`, in as few passes as the kernels can.
    pub fn after(&self, pass: &Forward<'_>, conv: &Conv2d, x: &Var, residual: Option<&Var>, relu: bool) -> Result<Var> {
        let (filter, bias) = conv.weights(pass)?;
        self.run(pass, residual, relu, |affine, spec| {
            ops::conv2d_batch_norm(x, &filter, bias.as_ref(), &conv.spec, affine, spec)
        })
    }

    fn run(
        &self,
        pass: &Forward<'_>,
        residual: Option<&Var>,
        relu: bool,
        normalize: impl FnOnce([&Var; 2], &BatchNormSpec<'_>) -> Result<BatchNormOutput>,
    ) -> Result<Var> {
        let (scale, shift) = (pass.parameter(self.scale), pass.parameter(self.shift));
        let running = |domain: Domain| match (self.target_statistics, domain) {
            (Some(target), Domain::Target) => target,
            _ => self.statistics,
        };
        let domains = pass.domains();
        let mode = match (pass.normalization(), domains) {
            (Normalization::Batch, _) => BatchNormMode::Batch { epsilon: EPSILON, groups: domains.len() },
            (Normalization::Running, [first, rest @ ..]) => {
                if self.target_statistics.is_some() && rest.iter().any(|domain| domain != first) {
                    return Err(Error::Internal("one batch of two domains by the running statistics of each".into()));
                }
                let Running { mean, variance } = running(*first);
                BatchNormMode::Running { mean: pass.tensor(mean), variance: pass.tensor(variance), epsilon: EPSILON }
            }
            (_, []) => return Err(Error::Internal("a pass through a batch norm without a domain".into())),
        };
        let output = normalize([&scale, &shift], &BatchNormSpec { mode, residual, relu, moments: None })?;
        if pass.normalization() == Normalization::Batch {
            for (run, &domain) in domains.iter().enumerate() {
                pass.measured(running(domain).mean, output.mean.clone(), run);
                pass.measured(running(domain).variance, output.variance.clone(), run);
            }
        }
        Ok(output.y)
    }
}
