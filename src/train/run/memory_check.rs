//! Whether a step fits into the GPU's memory, known before the first one runs.

use crate::{
    Error, Result,
    train::{Architecture, Config, plan_step, report::format_bytes},
};

/// What lies beside the tensors, in bytes: the kernels' code, and blocks rounded up to the driver's pages.
const BESIDE: usize = 256 << 20;
/// A suggested crop is a multiple of this many pixels: the network's output is 8 times smaller.
const STRIDE: usize = 8;

/// Errors where a step of adaptation by `config` needs more than `available` bytes of memory of such a GPU, with the largest batch
/// that fits at the same crop, or else the largest square crop with a batch of 1. Both are found by planning smaller steps
/// ([`plan_step`]), which happens only then.
///
/// ```
/// use bicl::train::{Architecture, Preset, expect_memory};
/// let mut config = Preset::Miniature.config();
/// config.model.width = 2;
/// assert!(expect_memory(&config, Architecture::Hopper, 1 << 40).is_ok());
/// assert!(expect_memory(&config, Architecture::Hopper, 1 << 20).is_err());
/// # Ok::<(), bicl::Error>(())
/// ```
pub fn expect_memory(config: &Config, architecture: Architecture, available: usize) -> Result<()> {
    let needed = |config: &Config| needed(config, architecture);
    let need = needed(config)?;
    if need <= available {
        return Ok(());
    }
    let with_batch = |batch: usize| {
        let mut smaller = config.clone();
        smaller.data.batch = batch;
        smaller
    };
    let with_crop = |eighths: usize| {
        let mut smaller = with_batch(1);
        smaller.data.crop = [eighths * STRIDE; 2];
        smaller
    };
    let [height, width] = config.data.crop;
    let advice = if let Some(batch) = largest(config.data.batch - 1, available, |batch| needed(&with_batch(batch)))? {
        format!("data.batch={batch} fits at this crop")
    } else if let Some(eighths) =
        largest((height.max(width) - 1) / STRIDE, available, |eighths| needed(&with_crop(eighths)))?
    {
        let side = eighths * STRIDE;
        format!("no batch fits at this crop, data.batch=1 with data.crop=[{side},{side}] does")
    } else {
        "no crop fits, lower model.width or use another GPU".into()
    };
    let (batch, need, free) = (config.data.batch, format_bytes(need as u64), format_bytes(available as u64));
    Err(Error::Config(format!(
        "a step on {batch} + {batch} crops of {height} x {width} needs {need} of GPU memory and {free} is free; {advice}"
    )))
}

fn needed(config: &Config, architecture: Architecture) -> Result<usize> {
    Ok(plan_step(config, architecture)?.peak_bytes + BESIDE)
}

/// The largest size up to `most` of which a step fits, by bisection: a larger step needs more.
fn largest(most: usize, available: usize, needed: impl Fn(usize) -> Result<usize>) -> Result<Option<usize>> {
    let (mut fits, mut too_large) = (0, most + 1);
    while too_large - fits > 1 {
        let middle = fits + (too_large - fits) / 2;
        match needed(middle)? <= available {
            true => fits = middle,
            false => too_large = middle,
        }
    }
    Ok((fits > 0).then_some(fits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Preset;

    fn config(batch: usize, crop: [usize; 2]) -> Config {
        let mut config = Preset::Miniature.config();
        config.model.width = 4;
        config.data.batch = batch;
        config.data.crop = crop;
        config
    }

    const CARD: Architecture = Architecture::Hopper;

    fn refusal(config: &Config, available: usize) -> String {
        expect_memory(config, CARD, available).unwrap_err().to_string()
    }

    #[test]
    fn the_largest_batch_is_named() {
        let large = config(6, [64, 96]);
        let need = needed(&large, CARD).unwrap();
        assert!(expect_memory(&large, CARD, need).is_ok(), "exactly enough is enough");
        for batch in [5, 3, 1] {
            let enough = needed(&config(batch, [64, 96]), CARD).unwrap();
            let error = refusal(&large, enough);
            assert!(error.contains(&format!("; data.batch={batch} fits at this crop")), "{error}");
            assert!(error.contains("6 + 6 crops of 64 x 96") && !error.contains('\n'), "{error}");
        }
        let error = refusal(&large, need - 1);
        assert!(error.contains(&format!("needs {} of GPU memory", format_bytes(need as u64))), "{error}");
    }

    #[test]
    fn else_the_largest_crop_is_named() {
        let large = config(3, [64, 96]);
        let enough = needed(&config(1, [48, 48]), CARD).unwrap();
        assert!(needed(&config(1, [64, 96]), CARD).unwrap() > enough);
        let error = refusal(&large, enough);
        assert!(error.contains("data.batch=1 with data.crop=[48,48] does"), "{error}");
        assert!(refusal(&large, BESIDE).contains("no crop fits, lower model.width"));
    }
}
