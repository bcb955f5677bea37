//! What a training step has to do, whoever does it: its floating-point operations, and what it launches on a GPU.

use bicl::{
    Device, Result,
    nn::Parameters,
    train::{Architecture, Config, plan_step},
};
use serde_json::{Value, json};

/// Floating-point operations of the convolutions in a step on `images` images: forward, and both gradients of each, but none of
/// the images. A product and its addition are two. All else is a few operations a value, which no rate of products counts.
/// PyTorch's FlopCounterMode counts the same for all three networks that are timed.
pub fn operations(parameters: &Parameters, images: usize, [height, width]: [usize; 2]) -> f64 {
    let halved = |extent: usize| (extent - 1) / 2 + 1;
    let pixels = |extents: [usize; 2]| extents[0] * extents[1];
    // The pool rounds up.
    let stem = [height, width].map(halved);
    let quarter = stem.map(|extent| (extent - 1).div_ceil(2) + 1);
    let eighth = quarter.map(halved);
    let each = parameters.iter().map(|(name, filter)| {
        let &[outputs, rows, columns, inputs] = filter.shape() else { return 0.0 };
        let (extents, passes) = match name {
            _ if name.ends_with("layer2.0.conv1.weight") && rows == 1 => (quarter, 3),
            _ if name.contains("layer1.") => (quarter, 3),
            _ if name.contains("layer") || name.contains("classifier") => (eighth, 3),
            _ => (stem, 2),
        };
        2.0 * (passes * pixels(extents)) as f64 * (outputs * rows * columns * inputs) as f64
    });
    images as f64 * each.sum::<f64>()
}

/// Launches and bytes of each kernel in one step of adaptation, counted on a device that computes nothing, with the built-in
/// choices.
pub fn kernels(config: &Config, device: &Device) -> Result<Value> {
    let counts = plan_step(config, Architecture::of(device))?.counts;
    let of = |(name, count): (&&str, &bicl::device::KernelCount)| {
        ((*name).to_owned(), json!({ "launches": count.launches, "bytes": count.bytes }))
    };
    Ok(Value::Object(counts.kernels.iter().map(of).collect()))
}
