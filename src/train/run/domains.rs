//! The data sets of a run: opened, looked at, and without what cannot be used.

use std::{path::Path, sync::Arc};

use crate::{
    Error, Result,
    data::{Dataset, LabelSource, Split, Survey},
    train::Config,
};

/// What a run reads.
pub(super) struct Domains {
    pub source: Arc<Dataset>,
    pub target: Arc<Dataset>,
    /// What is scored after each stage; none where the target has no labels.
    pub validation: Option<Arc<Dataset>>,
    /// Lines for the log: what is left out, and why there are no scores.
    pub said: Vec<String>,
}

impl Domains {
    /// Errors of [`Dataset::open`] and [`Dataset::expect_ids`], and more pairs that cannot be used than may be left out.
    pub fn open(config: &Config) -> Result<Self> {
        let data = &config.data;
        let open = |set, root: &Path, labels| Dataset::open(set, root, Split::Train, &labels);
        let mut said = Vec::new();
        let mut usable = |dataset| usable(dataset, data.skip_bad, &mut said).map(Arc::new);
        let source = usable(open(&data.source, &data.source_root, LabelSource::Truth)?)?;
        let target = usable(open(&data.target, &data.target_root, LabelSource::None)?)?;
        let validation = match Dataset::open_labelled(&data.target, &data.target_root, Split::Val)? {
            Ok(dataset) => Some(usable(dataset)?),
            Err(why) => {
                said.push(format!("no scores: {why}"));
                None
            }
        };
        source.expect_ids()?;
        validation.iter().try_for_each(|dataset| dataset.expect_ids())?;
        Ok(Self { source, target, validation, said })
    }
}

/// `dataset` without the pairs that cannot be read, which `said` names; at most `share` of them (0: the data set as it is).
fn usable(mut dataset: Dataset, share: f64, said: &mut Vec<String>) -> Result<Dataset> {
    if share == 0.0 {
        return Ok(dataset);
    }
    let bad = Survey::of(&dataset).bad;
    let all = dataset.len();
    if bad.len() == all || bad.len() as f64 > share * all as f64 {
        let Some((_, first)) = bad.first() else { return Ok(dataset) };
        let percent = 100.0 * share;
        return Err(Error::data(
            dataset.root(),
            format!(
                "{} of {all} pairs cannot be used, and {percent} % may be left out (--skip-bad=SHARE); the first: {first}",
                bad.len()
            ),
        ));
    }
    said.extend(bad.iter().map(|(_, error)| format!("left out: {error}")));
    dataset.leave_out(&bad.iter().map(|(place, _)| *place).collect::<Vec<_>>());
    Ok(dataset)
}
