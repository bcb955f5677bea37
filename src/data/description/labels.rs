//! How a data set's label files tell classes: ids, colours, or both.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::data::{class_list::ClassList, classes::IGNORE};

/// The table `[labels]` of a description.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// The channel (0 red, 1 green, 2 blue) that holds the id in files with colour channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<usize>,
    /// Whether files in the classes' own colours are read too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub class_colors: bool,
    /// Classes that its labels hold too rarely to learn, beside those without ids and colours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
    /// Ids that are known and no class; 255 always is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub void_ids: Vec<u8>,
    /// Ids of each class, by the class's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ids: BTreeMap<String, Vec<u8>>,
    /// Colours of each class, by the class's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub colors: BTreeMap<String, Vec<[u8; 3]>>,
    /// Colours that are known and no class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub void_colors: Vec<[u8; 3]>,
    /// Colours of ids that are no class, by the id: what a palette holds there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub palette: BTreeMap<String, [u8; 3]>,
}

/// From the ids and colours of label files to train ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelTable {
    /// Whose ids, for messages.
    pub(in crate::data) title: String,
    /// Whose palette, for messages.
    pub(in crate::data) palette_of: String,
    /// By id: the train id, [`IGNORE`] for known ids that are no class, `None` for unknown ids.
    pub(in crate::data) ids: [Option<u8>; 256],
    /// By colour: the train id or [`IGNORE`]. Empty where colours are not read.
    pub(in crate::data) colors: HashMap<[u8; 3], u8>,
    /// The colour that a palette has at an id.
    pub(in crate::data) palette: HashMap<u8, [u8; 3]>,
    /// The channel with the id in files with colour channels.
    pub(in crate::data) channel: Option<usize>,
    /// Train ids that its labels do not hold, or too rarely; ascending.
    pub(in crate::data) absent: Vec<u8>,
}

/// What is wrong in the table, and in which field.
pub(super) type Wrong = (String, String);

impl LabelTable {
    /// The table of train ids themselves, `0..classes`, as pseudo labels hold them.
    pub fn train_ids(classes: usize) -> Self {
        let known = |id: u8| id == IGNORE || usize::from(id) < classes;
        Self::new("trainIds", |id| known(id).then_some(id))
    }

    /// Every id as it is: for looks at files whose ids are in doubt.
    pub fn raw() -> Self {
        Self::new("raw", Some)
    }

    fn new(title: &str, ids: impl Fn(u8) -> Option<u8>) -> Self {
        Self {
            title: title.into(),
            palette_of: title.into(),
            ids: std::array::from_fn(|id| ids(id as u8)),
            colors: HashMap::new(),
            palette: HashMap::new(),
            channel: None,
            absent: Vec::new(),
        }
    }

    /// The largest known id below 255.
    pub fn last(&self) -> u8 {
        (0..255).rev().find(|&id| self.ids[usize::from(id)].is_some()).unwrap_or(0)
    }

    /// Whether the id lies in one of several channels.
    pub fn reads_channel(&self) -> bool {
        self.channel.is_some()
    }

    /// Whether some id or colour stands for the train id.
    fn knows(&self, class: u8) -> bool {
        self.ids.iter().flatten().chain(self.colors.values()).any(|&known| known == class)
    }

    /// The table of a description.
    pub(super) fn of(title: &str, labels: &Labels, classes: &ClassList, palette_of: &str) -> Result<Self, Wrong> {
        let find = |field: &str, name: &str| {
            let train_id = classes.iter().position(|class| class.name == *name);
            let known = || classes.iter().map(|class| class.name.as_str()).collect::<Vec<_>>().join(", ");
            let wrong = || (format!("labels.{field}.{name}"), format!("no class has this name; use {}", known()));
            train_id.map(|class| class as u8).ok_or_else(wrong)
        };
        let mut table = Self::new(title, |_| None);
        table.palette_of = palette_of.into();
        if labels.channel.is_some_and(|channel| channel > 2) {
            return Err(("labels.channel".into(), "use 0, 1 or 2".into()));
        }
        table.channel = labels.channel;
        for &id in labels.void_ids.iter().chain([&255]) {
            table.ids[usize::from(id)] = Some(IGNORE);
        }
        for (name, ids) in &labels.ids {
            let class = find("ids", name)?;
            for &id in ids {
                if table.ids[usize::from(id)].replace(class).is_some() {
                    return Err((format!("labels.ids.{name}"), format!("{id} has another meaning already")));
                }
                if labels.class_colors {
                    table.palette.insert(id, classes.color(class.into()));
                }
            }
        }
        if labels.class_colors {
            table.colors.insert([0; 3], IGNORE);
        }
        for (id, &color) in &labels.palette {
            let Ok(number) = id.parse::<u8>() else {
                return Err((format!("labels.palette.{id}"), "the key is no id from 0 to 255".into()));
            };
            table.palette.insert(number, color);
            table.colors.insert(color, IGNORE);
        }
        table.colors.extend(labels.void_colors.iter().map(|&color| (color, IGNORE)));
        if labels.class_colors {
            // Several ids may share a class's colour: it is the class then.
            for (class, color) in classes.iter().map(|class| class.color).enumerate() {
                table.colors.insert(color, class as u8);
            }
        }
        for (name, colors) in &labels.colors {
            let class = find("colors", name)?;
            for &color in colors {
                if table.colors.insert(color, class).is_some_and(|other| other != class) {
                    return Err((format!("labels.colors.{name}"), format!("{color:?} has another meaning already")));
                }
            }
        }
        let all = 0..classes.len() as u8;
        table.absent = all.filter(|&class| !table.knows(class)).collect();
        if table.absent.len() == classes.len() {
            return Err(("labels".into(), "neither ids nor colours of any class; give [labels.ids]".into()));
        }
        for name in &labels.absent {
            let class = find("absent", name).map_err(|(_, message)| ("labels.absent".to_owned(), message))?;
            table.absent.push(class);
        }
        table.absent.sort_unstable();
        table.absent.dedup();
        Ok(table)
    }
}
