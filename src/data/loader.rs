//! Batches, prepared ahead on threads, in an order fixed by the seed.
//!
//! Training draws from an endless stream of items: item k is entry k mod n of the permutation of epoch k / n, and its crop,
//! scale, mirror and jitter come from the random stream (seed, k). Batch b holds items b * batch .. (b + 1) * batch. So the
//! state of a loader is one number, the count of batches taken, whatever the number of threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::dataset::{Dataset, Example};
use super::pixels::LabelMap;
use super::prefetch::Prefetcher;
use super::rng::Rng;
use super::transforms::{EvalTransform, TrainTransform};
use crate::{Error, Result};

/// Purposes of the random streams.
const ORDER: u64 = 1;
const ITEM: u64 = 2;

/// A training batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The network's input, `[N, height, width, 3]`.
    pub images: Vec<f32>,
    /// Train ids, `[N, height, width]`; 255 throughout where the data set was opened without labels.
    pub labels: Vec<u8>,
    /// N.
    pub count: usize,
    /// Rows of a crop.
    pub height: usize,
    /// Columns of a crop.
    pub width: usize,
    /// The items' names.
    pub names: Vec<String>,
    /// The batch's number, from 0.
    pub position: u64,
}

/// How a [`Loader`] works.
#[derive(Clone, Copy, Debug)]
pub struct LoaderOptions {
    /// Items per batch.
    pub batch: usize,
    /// Seed of the order and of all draws. Two loaders of one run want different seeds.
    pub seed: u64,
    /// Threads that prepare batches; 0 prepares each one when it is asked for. Does not change the result.
    pub threads: usize,
    /// Batches ready or in the making at a time (at least one per thread).
    pub prefetch: usize,
    /// Batches already taken, for resuming.
    pub position: u64,
    /// Memory for decoded items, in bytes: a small data set is then decoded once. 0 for none. Does not change the result.
    pub cache_bytes: usize,
}

impl Default for LoaderOptions {
    /// Batches of 2, seed 0, two threads, four batches ahead, no cache.
    fn default() -> Self {
        Self { batch: 2, seed: 0, threads: 2, prefetch: 4, position: 0, cache_bytes: 0 }
    }
}

/// The endless stream of training batches.
pub struct Loader {
    prefetcher: Prefetcher<Batch>,
}

impl Loader {
    /// Starts the threads. Values of `transform` or `options` that make no sense are [`Error::Config`].
    pub fn new(dataset: Arc<Dataset>, transform: TrainTransform, options: LoaderOptions) -> Result<Self> {
        transform.validate()?;
        if options.batch == 0 {
            return Err(Error::Config("batch must be at least 1".into()));
        }
        let cache = Cache::new(options.cache_bytes);
        let order = Mutex::new(Vec::new());
        let make = move |position: u64, stop: &AtomicBool| {
            let (width, height) = transform.crop;
            let mut batch = Batch {
                images: vec![0.0; options.batch * width * height * 3],
                labels: vec![0; options.batch * width * height],
                count: options.batch,
                height,
                width,
                names: Vec::with_capacity(options.batch),
                position,
            };
            let images = batch.images.chunks_exact_mut(width * height * 3);
            let labels = batch.labels.chunks_exact_mut(width * height);
            for ((image, labels), slot) in images.zip(labels).zip(0..options.batch as u64) {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Internal("the loader was dropped".into()));
                }
                let k = position * options.batch as u64 + slot;
                let index = item_at(&order, options.seed, dataset.len(), k);
                let example = cache.read(&dataset, index)?;
                transform.apply(&example, &mut Rng::new(options.seed, ITEM, k), image, labels)?;
                batch.names.push(example.name.clone());
            }
            Ok(batch)
        };
        let prefetcher = Prefetcher::new(options.position, options.threads, options.prefetch, make)?;
        Ok(Self { prefetcher })
    }

    /// The next batch. An error belongs to this batch: the position stays, and another call tries it again.
    #[expect(clippy::should_implement_trait, reason = "an endless fallible stream is not an Iterator to collect")]
    pub fn next(&mut self) -> Result<Batch> {
        self.prefetcher.next()
    }

    /// Batches taken so far: what a checkpoint has to keep ([`LoaderOptions::position`]).
    pub fn position(&self) -> u64 {
        self.prefetcher.position()
    }
}

/// The permutations of the epochs in use, newest last: batches in the making may lie on both sides of a border.
type Orders = Mutex<Vec<(u64, Arc<Vec<u32>>)>>;

fn item_at(orders: &Orders, seed: u64, items: usize, k: u64) -> usize {
    let epoch = k / items as u64;
    let mut orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
    let order = match orders.iter().find(|(e, _)| *e == epoch) {
        Some((_, order)) => order.clone(),
        None => {
            let mut order: Vec<u32> = (0..items as u32).collect();
            Rng::new(seed, ORDER, epoch).shuffle(&mut order);
            let order = Arc::new(order);
            if orders.len() >= 4 {
                orders.remove(0);
            }
            orders.push((epoch, order.clone()));
            order
        }
    };
    order[(k % items as u64) as usize] as usize
}

/// Decoded items, as many as fit. Nothing is thrown out: every item comes up once an epoch, so none is worth more.
struct Cache {
    capacity: usize,
    kept: Mutex<(usize, HashMap<usize, Arc<Example>>)>,
}

impl Cache {
    fn new(capacity: usize) -> Self {
        Self { capacity, kept: Mutex::default() }
    }

    fn read(&self, dataset: &Dataset, index: usize) -> Result<Arc<Example>> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if self.capacity > 0
            && let Some(example) = lock().1.get(&index)
        {
            return Ok(example.clone());
        }
        let example = Arc::new(dataset.read(index)?);
        let bytes = example.image.pixels().len() + example.labels.as_ref().map_or(0, |labels| labels.ids().len());
        if bytes <= self.capacity {
            let mut kept = lock();
            if kept.0 + bytes <= self.capacity && kept.1.insert(index, example.clone()).is_none() {
                kept.0 += bytes;
            }
        }
        Ok(example)
    }
}

/// One image for evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalExample {
    /// Its index in the data set.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The network's input, `[1, height, width, 3]`.
    pub image: Vec<f32>,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Rows and columns of the file.
    pub full_size: (usize, usize),
    /// Train ids at the file's size, where the data set was opened with labels.
    pub labels: Option<LabelMap>,
}

/// The images of a data set, each once, in order, prepared ahead on threads.
pub struct EvalLoader {
    prefetcher: Prefetcher<Option<EvalExample>>,
}

impl EvalLoader {
    /// Starts the threads (0: none).
    pub fn new(dataset: Arc<Dataset>, transform: EvalTransform, threads: usize) -> Result<Self> {
        let make = move |position: u64, _: &AtomicBool| {
            let index = position as usize;
            if index >= dataset.len() {
                return Ok(None);
            }
            let Example { name, image, labels } = dataset.read(index)?;
            let full_size = (image.height(), image.width());
            let (width, height, image) = transform.apply(&image)?;
            Ok(Some(EvalExample { index, name, image, height, width, full_size, labels }))
        };
        Ok(Self { prefetcher: Prefetcher::new(0, threads, threads * 2, make)? })
    }
}

impl Iterator for EvalLoader {
    type Item = Result<EvalExample>;

    /// The next image, or an error; an image that failed is tried again by the next call, so stop at an error.
    fn next(&mut self) -> Option<Self::Item> {
        self.prefetcher.next().transpose()
    }
}
