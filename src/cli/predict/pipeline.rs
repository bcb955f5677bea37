//! Images through decoding, network and encoding, which overlap; results come out in the images' order.

use std::{collections::BTreeMap, path::PathBuf, sync::atomic::AtomicUsize, sync::atomic::Ordering::Relaxed};

use crossbeam_channel::bounded;

use super::{
    jobs::Job,
    pictures::Pictures,
    predicted::{Predicted, infer},
};
use crate::{
    Result,
    data::{EvalTransform, RgbImage, decode},
    train::Network,
};

/// Images that wait decoded, and predictions that wait to be written.
const WAITING: usize = 2;

/// An image as it was read, and the network's input.
struct Read {
    image: RgbImage,
    input: (usize, usize, Vec<f32>),
}

fn read(job: &Job, transform: &EvalTransform) -> Result<Read> {
    let image = decode::read_image(&job.image)?;
    let input = transform.apply(&image)?;
    Ok(Read { image, input })
}

/// Predicts all jobs; `done` is called once for each, in order, with the files that were written or what was wrong. An image
/// that fails does not stop the others.
pub(super) fn run(
    network: &Network,
    transform: EvalTransform,
    jobs: &[Job],
    pictures: &Pictures,
    mut done: impl FnMut(&Job, Result<Vec<PathBuf>>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 4);
    let (to_network, decoded) = bounded(WAITING);
    let (to_encoders, predicted) = bounded::<(usize, Result<Predicted>)>(WAITING);
    let (to_end, written) = crossbeam_channel::unbounded();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (to_network, next, transform) = (to_network.clone(), &next, &transform);
            scope.spawn(move || {
                while let Some((index, job)) = Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, jobs.get(i)?))) {
                    // The receiver is gone where the caller gave up.
                    if to_network.send((index, read(job, transform))).is_err() {
                        return;
                    }
                }
            });
            let (predicted, to_end) = (predicted.clone(), to_end.clone());
            scope.spawn(move || {
                for (index, prediction) in predicted {
                    let files = prediction.and_then(|prediction| pictures.write(&jobs[index], &prediction));
                    if to_end.send((index, files)).is_err() {
                        return;
                    }
                }
            });
        }
        drop((to_network, predicted, to_end));
        // In order: what comes early waits.
        let (mut early, mut turn) = (BTreeMap::new(), 0);
        let mut settle = |early: &mut BTreeMap<usize, Result<Vec<PathBuf>>>| -> anyhow::Result<()> {
            while let Some(files) = early.remove(&turn) {
                done(&jobs[turn], files)?;
                turn += 1;
            }
            Ok(())
        };
        for (index, read) in &decoded {
            let prediction = read.and_then(|Read { image, input }| infer(network, image, input, pictures.confidence));
            if to_encoders.send((index, prediction)).is_err() {
                break;
            }
            early.extend(written.try_iter());
            settle(&mut early)?;
        }
        drop(to_encoders);
        for (index, files) in &written {
            early.insert(index, files);
            settle(&mut early)?;
        }
        Ok(())
    })
}
