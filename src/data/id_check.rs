//! Whether label files hold the ids that their data set says: the two conventions of Cityscapes' ids are easily mixed up,
//! and either reads as the other without an error.

use super::{Dataset, classes::LABEL_IDS, decode, description::LabelTable};
use crate::{Error, Result};

/// Files that are looked at, spread over the data set.
const FILES: usize = 8;

impl Dataset {
    /// Errors where files of label ids hold train ids, by a look at a few of them: no id above 18, and most pixels of ids that
    /// as label ids are void (0 to 6), but as train ids road, sidewalk, building.
    pub fn expect_ids(&self) -> Result<()> {
        let Some(table) = self.description().labels() else { return Ok(()) };
        let are_label_ids =
            LABEL_IDS.iter().enumerate().all(|(class, &id)| table.ids[usize::from(id)] == Some(class as u8));
        if !are_label_ids {
            return Ok(());
        }
        let labels: Vec<_> = self.items().iter().filter_map(|item| item.labels.as_ref()).collect();
        let mut counts = [0u64; 256];
        for path in labels.iter().step_by(labels.len().div_ceil(FILES).max(1)) {
            // What cannot be read is said where it is used; colours tell no ids.
            let Ok(ids) = decode::read_labels(path, &LabelTable::raw()) else { return Ok(()) };
            ids.ids().iter().for_each(|&id| counts[usize::from(id)] += 1);
        }
        let of = |ids: std::ops::Range<usize>| counts[ids].iter().sum::<u64>();
        match labels.first() {
            Some(first) if of(19..255) == 0 && of(0..7) > of(7..19) => Err(Error::data(
                first,
                format!(
                    "holds trainIds (0 to 18), as the other files that were looked at, where {} has label ids; name such \
                     files NAME_gtFine_labelTrainIds.png and the data set cityscapes-trainids, or describe it (trainer \
                     datasets show cityscapes-trainids)",
                    self.description().title()
                ),
            )),
            _ => Ok(()),
        }
    }
}
