//! Leaving out what cannot be used, where that is asked for.

use crate::{
    Error, Result,
    data::{Dataset, Survey},
};

/// `dataset` without the pairs that cannot be read, which `said` names; at most `share` of them (0: the data set as it is).
pub(super) fn usable(mut dataset: Dataset, share: f64, said: &mut Vec<String>) -> Result<Dataset> {
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
