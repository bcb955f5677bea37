//! A look at every file of a data set: what cannot be used, and how sizes and classes are spread.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
};

use rayon::prelude::*;

use super::{Dataset, IGNORE};
use crate::Error;

/// What was found in a data set.
#[derive(Debug, Default)]
pub struct Survey {
    /// Images that could be read, with their labels where there are any.
    pub images: usize,
    /// Pixels of each class; empty without labels.
    pub pixels: Vec<u64>,
    /// Images that hold each class; empty without labels.
    pub holding: Vec<usize>,
    /// Labelled pixels of no class.
    pub void: u64,
    /// Images of each width and height.
    pub sizes: BTreeMap<(usize, usize), usize>,
    /// Places of the items that cannot be used, with the reason.
    pub bad: Vec<(usize, Error)>,
    /// Image files by the hash of their bytes.
    contents: HashMap<u64, PathBuf>,
}

/// One item's part.
struct Look {
    size: (usize, usize),
    content: u64,
    counts: Option<[u64; 256]>,
}

fn look(dataset: &Dataset, index: usize) -> crate::Result<Look> {
    let example = dataset.read(index)?;
    let counts = example.labels.map(|labels| {
        let mut counts = [0; 256];
        labels.ids().iter().for_each(|&id| counts[usize::from(id)] += 1);
        counts
    });
    let mut hasher = DefaultHasher::new();
    let path = &dataset.items()[index].image;
    fs::read(path).map_err(|error| Error::io(path, error))?.hash(&mut hasher);
    Ok(Look { size: (example.image.width(), example.image.height()), content: hasher.finish(), counts })
}

impl Survey {
    /// Reads every file of `dataset`, on all cores; memory holds an image a core.
    pub fn of(dataset: &Dataset) -> Self {
        let labelled = dataset.items().iter().any(|item| item.labels.is_some());
        let classes = if labelled { dataset.description().classes().len() } else { 0 };
        let mut survey = Self { pixels: vec![0; classes], holding: vec![0; classes], ..Self::default() };
        let looks: Vec<_> = (0..dataset.len()).into_par_iter().map(|index| look(dataset, index)).collect();
        for (index, look) in looks.into_iter().enumerate() {
            let look = match look {
                Ok(look) => look,
                Err(error) => {
                    survey.bad.push((index, error));
                    continue;
                }
            };
            survey.images += 1;
            *survey.sizes.entry(look.size).or_default() += 1;
            survey.contents.insert(look.content, dataset.items()[index].image.clone());
            let Some(counts) = look.counts else { continue };
            survey.void += counts[usize::from(IGNORE)];
            for (class, &count) in counts.iter().enumerate().take(classes) {
                survey.pixels[class] += count;
                survey.holding[class] += usize::from(count > 0);
            }
        }
        survey
    }

    /// Pairs of files with the same content here and in `other`.
    pub fn same_as<'a>(&'a self, other: &'a Self) -> Vec<(&'a PathBuf, &'a PathBuf)> {
        let mut pairs: Vec<_> = self
            .contents
            .iter()
            .filter_map(|(content, path)| Some((path, other.contents.get(content)?)))
            .filter(|(ours, theirs)| ours != theirs)
            .collect();
        pairs.sort();
        pairs
    }
}
