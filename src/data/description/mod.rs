//! A data set as a TOML file describes it: where images and labels lie, and what the labels mean. docs/data.md, "A
//! description".

mod labels;
mod pattern;
mod place;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use labels::{LabelTable, Labels};
pub use pattern::Pattern;
use serde::{Deserialize, Serialize};

use super::{
    class_list::{Class, ClassList, ClassSubset},
    split::Split,
};
use crate::{Error, Result};

/// The file's content, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// On the command line, and the folder below `--data-root`.
    name: String,
    /// In messages.
    title: String,
    /// Who made it, and where it is described.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    source: String,
    /// Usual width and height in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<[usize; 2]>,
    /// A list of classes by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    classes: Option<Known>,
    splits: Splits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    labels: Option<Labels>,
    /// The classes, where `classes` does not name a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    class: Vec<Class>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subset: Vec<Subset>,
}

/// Lists of classes with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Known {
    Cityscapes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subset {
    name: String,
    classes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Splits {
    /// Of a data set that is not divided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all: Option<Files>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    train: Option<Files>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    val: Option<Files>,
}

/// Where the files of a split lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Images; suffixes are those of [`super::listing::IMAGE_SUFFIXES`].
    pub images: Pattern,
    /// Labels: what the wildcards of `images` stand for goes in the place of theirs. Absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Pattern>,
}

#[derive(Debug)]
struct Inner {
    content: Content,
    classes: ClassList,
    table: Option<LabelTable>,
    /// The text that it was read from.
    text: String,
}

/// A data set: cheap to clone. In a configuration it is the name of a built-in one, or the whole description, so that a
/// run does not depend on the file that it came from.
#[derive(Clone, Debug)]
pub struct Description(Arc<Inner>);

impl PartialEq for Description {
    fn eq(&self, other: &Self) -> bool {
        self.0.content == other.0.content
    }
}

impl Eq for Description {}

impl Description {
    /// The description in `text`; `Err` is one line that says where it is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let content: Content = toml::from_str(text).map_err(|error| {
            let message = error.message().replace('\n', " ");
            match error.span() {
                Some(span) => format!("{}: {message}", place::of_span(text, span)),
                None => message,
            }
        })?;
        Self::check(content, text.to_owned())
            .map_err(|(field, message)| format!("{}: {message}", place::of_field(text, &field)))
    }

    fn check(content: Content, text: String) -> Result<Self, (String, String)> {
        let wrong = |field: &str, message: &str| Err((field.to_owned(), message.to_owned()));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if content.name.is_empty() || !content.name.chars().all(plain) {
            return wrong("name", "use letters, digits, - and _");
        }
        if content.title.is_empty() || content.title.contains(char::is_control) {
            return wrong("title", "give a name for messages, of one line");
        }
        if content.size.is_some_and(|size| size.contains(&0)) {
            return wrong("size", "give width and height in pixels, above 0");
        }
        let (classes, palette_of) = match (content.classes, content.class.is_empty()) {
            (Some(Known::Cityscapes), true) => (ClassList::cityscapes(), "GTA5 and Cityscapes"),
            (None, false) => (ClassList::new(content.class.clone(), Vec::new())?, content.title.as_str()),
            (Some(_), false) => return wrong("classes", "there are [[class]] tables too; leave one of the two out"),
            (None, true) => return wrong("name", "no classes: add classes = \"cityscapes\", or a [[class]] for each"),
        };
        let classes = match content.subset.is_empty() {
            true => classes,
            false => ClassList::new(classes.iter().cloned().collect(), subsets(&content.subset, &classes)?)?,
        };
        let splits = &content.splits;
        match (&splits.all, &splits.train, &splits.val) {
            (Some(_), None, None) | (None, Some(_), _) => {}
            (Some(_), ..) => return wrong("splits.all", "stands beside train or val; leave one of the two out"),
            _ => return wrong("splits", "give [splits.train] and [splits.val], or [splits.all]"),
        }
        let mut labelled = false;
        for (name, files) in [("all", &splits.all), ("train", &splits.train), ("val", &splits.val)] {
            let Some(Files { images, labels: Some(labels) }) = files else { continue };
            labelled = true;
            if images.wildcards() != labels.wildcards() {
                return wrong(
                    &format!("splits.{name}.labels"),
                    &format!("has {} wildcards, images has {}", labels.wildcards(), images.wildcards()),
                );
            }
        }
        let table = match (&content.labels, labelled) {
            (Some(labels), true) => Some(LabelTable::of(&content.title, labels, &classes, palette_of)?),
            (None, false) => None,
            (Some(_), false) => return wrong("labels", "no split names label files"),
            (None, true) => return wrong("splits", "splits name label files; add [labels] with what they mean"),
        };
        Ok(Self(Arc::new(Inner { content, classes, table, text })))
    }

    /// Reads a description's file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        Self::parse(&text).map_err(|message| Error::data(path, message))
    }

    /// All that the file says, as it is written into configurations.
    pub(super) fn whole(&self) -> &impl Serialize {
        &self.0.content
    }

    /// The name: also the folder below `--data-root`.
    pub fn name(&self) -> &str {
        &self.0.content.name
    }

    /// What it is called in messages.
    pub fn title(&self) -> &str {
        &self.0.content.title
    }

    /// Who made it, and where it is described.
    pub fn source(&self) -> &str {
        &self.0.content.source
    }

    /// Usual width and height in pixels.
    pub fn size(&self) -> Option<[usize; 2]> {
        self.0.content.size
    }

    /// The text of the file.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The classes.
    pub fn classes(&self) -> &ClassList {
        &self.0.classes
    }

    /// What its labels mean; `None` where it has none.
    pub fn labels(&self) -> Option<&LabelTable> {
        self.0.table.as_ref()
    }

    /// Train ids that its labels do not hold, or too rarely. Empty where it has no labels.
    pub fn absent_classes(&self) -> Vec<u8> {
        self.labels().map(|table| table.absent.clone()).unwrap_or_default()
    }

    /// Where a split's files lie; `None` where there is no such split.
    pub fn files(&self, split: Split) -> Option<&Files> {
        let splits = &self.0.content.splits;
        let own = match split {
            Split::Train => splits.train.as_ref(),
            Split::Val => splits.val.as_ref(),
        };
        own.or(splits.all.as_ref())
    }

    /// The data set's folder below `data_root`.
    pub fn root_in(&self, data_root: &Path) -> PathBuf {
        data_root.join(self.name())
    }
}

fn subsets(subsets: &[Subset], classes: &ClassList) -> Result<Vec<ClassSubset>, (String, String)> {
    let find = |name: &String| {
        let wrong = || ("subset".to_owned(), format!("no class is named {name:?}"));
        classes.iter().position(|class| class.name == *name).ok_or_else(wrong)
    };
    let subset = |subset: &Subset| {
        let mut ids = subset.classes.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        ids.sort_unstable();
        Ok(ClassSubset { name: subset.name.clone(), classes: ids })
    };
    subsets.iter().map(subset).collect()
}

impl From<Error> for (String, String) {
    fn from(error: Error) -> Self {
        ("class".to_owned(), error.to_string())
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
