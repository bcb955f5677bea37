//! An operation of one's own, with its gradient, held against central differences.
//!
//!     cargo run --example op

use bicl::{
    Device, Result, Tensor,
    autograd::{Tape, Var},
};

/// y = ln(1 + e^x) (softplus) of a tensor of any shape, f64, in host memory. Gradient: dx = dy / (1 + e^-x).
///
/// Errors: a dtype other than f64, a tensor in GPU memory.
fn softplus(x: &Var) -> Result<Var> {
    let kept = x.value().clone();
    let value: Vec<f64> = kept.as_slice::<f64>()?.iter().map(|x| x.exp().ln_1p()).collect();
    let y = Tensor::from_vec(value, kept.shape(), kept.device())?;
    // One parent, so the backward pass gets one gradient and gives one.
    Var::record("softplus", y, [x], move |dy, _wanted| {
        let pairs = kept.as_slice::<f64>()?.iter().zip(dy.as_slice::<f64>()?);
        let dx: Vec<f64> = pairs.map(|(x, dy)| dy / (1.0 + (-x).exp())).collect();
        Ok([Some(Tensor::from_vec(dx, kept.shape(), kept.device())?)])
    })
}

fn main() -> Result<()> {
    const STEP: f64 = 1e-5;
    let (device, at) = (Device::cpu(), [-2.0, 0.0, 1.0, 3.0]);
    let tape = Tape::new(&device);
    let x = tape.variable(Tensor::from_vec(at.to_vec(), &[4], &device)?);
    let y = softplus(&x)?;
    let gradients = tape.backward_with(&y, Tensor::from_vec(vec![1.0; 4], &[4], &device)?)?;
    let dx = gradients.get(&x).expect("y depends on x").to_vec::<f64>()?;

    let evaluate = |x: f64| softplus(&tape.constant(Tensor::from_vec(vec![x], &[1], &device)?))?.value().item();
    for (x, dx) in at.into_iter().zip(dx) {
        let difference = (evaluate(x + STEP)? - evaluate(x - STEP)?) / (2.0 * STEP);
        println!("x = {x:4.1}   gradient {dx:.9}   difference {difference:.9}");
        assert!((dx - difference).abs() < 1e-8, "the gradient is wrong");
    }
    Ok(())
}
