//! A training loop through the public API, on a few generated scenes: steps on the source, then steps of adaptation.
//!
//!     cargo run --example train
//!
//! A real run makes its pseudo labels by class-balanced thresholds before each round, and has checkpoints and a log as well:
//! `trainer --demo`.

use std::{ops::ControlFlow, sync::Arc};

use bicl::{
    Device, Error, Result, Tensor,
    data::{Batch, Dataset, Description, LabelSource, Loader, LoaderOptions, Split, miniature, sets},
    ops::{PredictSpec, predict},
    train::{Config, Network, Preset, Schedule, Stepper, evaluate},
};

const WARMUP: u64 = 60;
const ADAPTATION: u64 = 30;

/// Target mIoU in percent, with the running statistics of the training.
fn score(network: &Network, validation: &Arc<Dataset>, config: &Config) -> Result<f64> {
    let transform = config.data.eval_transform();
    let scores = evaluate(network, validation, transform, 1, config.model.classes, |_| ControlFlow::Continue(()))?;
    let miou = scores.and_then(|confusion| confusion.scores(config.data.classes()).miou);
    Ok(100.0 * miou.unwrap_or(0.0))
}

/// Gives a batch of the target the network's own labels where they are more probable than not, and 255 elsewhere.
fn label(network: &Network, mut batch: Batch) -> Result<Batch> {
    let (height, width) = (batch.height, batch.width);
    let device = network.parameters.device();
    let images = Tensor::from_slice(&batch.images, &[batch.count, height, width, 3], device)?;
    let spec = PredictSpec { confidence: true, thresholds: None };
    let prediction = predict(&network.logits(&images)?, height, width, spec)?;
    let confidence = prediction.confidence.ok_or_else(|| Error::Internal("no confidence".into()))?.to_vec::<f32>()?;
    batch.labels = prediction.labels.to_vec::<u8>()?;
    batch.labels.iter_mut().zip(confidence).filter(|(_, p)| *p <= 0.5).for_each(|(label, _)| *label = 255);
    Ok(batch)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("scenes");
    let scenes = miniature::Options { source_images: 16, target_train: 8, target_val: 8, ..Default::default() };
    miniature::generate(&root, &scenes)?;
    let open = |set: Description, split, labels| Dataset::open(&set, &set.root_in(&root), split, &labels);
    let source = Arc::new(open(sets::gta5(), Split::Train, LabelSource::Truth)?);
    let target = Arc::new(open(sets::cityscapes(), Split::Train, LabelSource::None)?);
    let validation = Arc::new(open(sets::cityscapes(), Split::Val, LabelSource::Truth)?);

    let mut config = Preset::Miniature.config();
    config.model.width = 8;
    config.data.crop = [96, 128];
    let mut network = Network::new(&config.model, config.precision, config.seed, &Device::best())?;
    let loader = |dataset: &Arc<Dataset>, seed| {
        let options = LoaderOptions { batch: 2, seed, ..Default::default() };
        Loader::new(dataset.clone(), config.data.transform(), options)
    };
    let (mut sources, mut targets) = (loader(&source, 1)?, loader(&target, 2)?);

    let (mut stepper, schedule) = (Stepper::new(), Schedule::new(&config.optimizer, 0.2, WARMUP));
    for step in 0..WARMUP {
        let losses = stepper.warmup(&mut network, &config, sources.next()?, schedule.rate(step))?;
        if step % 20 == 19 {
            println!("source only, step {}: {losses:.3?}", step + 1);
        }
    }
    println!("target mIoU {:.1} %", score(&network, &validation, &config)?);

    // Each stage starts its optimiser anew.
    let (mut stepper, schedule) = (Stepper::new(), Schedule::new(&config.optimizer, 0.05, ADAPTATION));
    for step in 0..ADAPTATION {
        let target = label(&network, targets.next()?)?;
        let losses = stepper.adapt(&mut network, &config, sources.next()?, target, schedule.rate(step))?;
        if step % 10 == 9 {
            println!("adaptation, step {}: {losses:.3?}", step + 1);
        }
    }
    println!("target mIoU {:.1} %", score(&network, &validation, &config)?);
    Ok(())
}
