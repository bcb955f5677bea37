//! The classes that a network tells apart, with names and colours. docs/method.md, "Data".

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::classes::{CLASSES, COLORS, LABEL_IDS, NAMES, Subset};
use crate::{Error, Result};

/// One class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Its name in tables.
    pub name: String,
    /// Its colour in pictures: red, green, blue.
    pub color: [u8; 3],
    /// The id that stands for it in label files for cityscapesScripts and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_id: Option<u8>,
}

/// Some of the classes, over which a mean of its own is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassSubset {
    /// What the mean is called: `16 classes`.
    pub name: String,
    /// Train ids, ascending.
    pub classes: Vec<usize>,
}

/// Classes in order: train id `c` is entry `c`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassList {
    classes: Vec<Class>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subsets: Vec<ClassSubset>,
}

impl ClassList {
    /// Cityscapes' 19 classes, with SYNTHIA's 16 and 13 as subsets.
    pub fn cityscapes() -> Self {
        let class = |c: usize| Class { name: NAMES[c].into(), color: COLORS[c], label_id: Some(LABEL_IDS[c]) };
        let subset = |of: Subset| {
            let classes = of.classes();
            ClassSubset { name: format!("{} classes", classes.len()), classes }
        };
        let subsets = [Subset::Synthia16, Subset::Synthia13].map(subset).into();
        Self { classes: (0..CLASSES).map(class).collect(), subsets }
    }

    /// A list of 1 to 255 classes of different names; subsets name classes of the list.
    pub fn new(classes: Vec<Class>, subsets: Vec<ClassSubset>) -> Result<Self> {
        let refuse = |message: String| Err(Error::Config(format!("class list: {message}")));
        if !(1..=255).contains(&classes.len()) {
            return refuse(format!("{} classes; give 1 to 255", classes.len()));
        }
        if let Some(class) = classes.iter().find(|c| c.name.is_empty() || c.name.contains(char::is_control)) {
            return refuse(format!("{:?} is no name of one line", class.name));
        }
        for (c, class) in classes.iter().enumerate() {
            if classes[..c].iter().any(|other| other.name == class.name) {
                return refuse(format!("two classes are named {:?}; rename one", class.name));
            }
        }
        if let Some(subset) = subsets.iter().find(|subset| subset.classes.iter().any(|&c| c >= classes.len())) {
            return refuse(format!("subset {:?} names a class beyond the {}", subset.name, classes.len()));
        }
        Ok(Self { classes, subsets })
    }

    /// `class 0`, `class 1`, ... in colours that differ from neighbour to neighbour.
    pub fn numbered(count: usize) -> Result<Self> {
        // Hues a golden angle apart.
        let level = |hue: f64| (255.0 * ((hue * 6.0 - 3.0).abs() - 1.0).clamp(0.0, 1.0)) as u8;
        let color = |c: usize| [0.0, 2.0 / 3.0, 1.0 / 3.0].map(|shift| level((c as f64 * 0.381_966 + shift).fract()));
        let class = |c: usize| Class { name: format!("class {c}"), color: color(c), label_id: None };
        Self::new((0..count).map(class).collect(), Vec::new())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// In order of train ids.
    pub fn iter(&self) -> impl Iterator<Item = &Class> {
        self.classes.iter()
    }

    /// The name of train id `class`; `class 20` beyond the list, for a network with more outputs than named classes.
    pub fn name(&self, class: usize) -> Cow<'_, str> {
        self.classes.get(class).map_or_else(|| format!("class {class}").into(), |class| class.name.as_str().into())
    }

    /// The colour of train id `class`; black beyond the list.
    pub fn color(&self, class: usize) -> [u8; 3] {
        self.classes.get(class).map_or([0; 3], |class| class.color)
    }

    /// The colours of all ids, 256 of them: black where there is no class.
    pub fn palette(&self) -> Vec<[u8; 3]> {
        (0..256).map(|id| self.color(id)).collect()
    }

    /// The subsets with a mean of their own.
    pub fn subsets(&self) -> &[ClassSubset] {
        &self.subsets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str) -> Class {
        Class { name: name.into(), color: [1, 2, 3], label_id: None }
    }

    #[test]
    fn cityscapes_has_names_colours_and_subsets() {
        let list = ClassList::cityscapes();
        assert_eq!((list.len(), &*list.name(13), list.color(13)), (19, "car", [0, 0, 142]));
        assert_eq!((&*list.name(20), list.color(20)), ("class 20", [0; 3]));
        let sizes: Vec<_> = list.subsets().iter().map(|s| (s.name.as_str(), s.classes.len())).collect();
        assert_eq!(sizes, [("16 classes", 16), ("13 classes", 13)]);
    }

    #[test]
    fn lists_that_mean_nothing_are_refused() {
        let subset = ClassSubset { name: "all".into(), classes: vec![0, 1] };
        assert!(ClassList::new(vec![class("a"), class("b")], vec![subset.clone()]).is_ok());
        for (classes, subsets) in [
            (vec![], vec![]),
            (vec![class("a"), class("a")], vec![]),
            (vec![class("a\nb")], vec![]),
            (vec![class("a")], vec![subset]),
        ] {
            assert!(ClassList::new(classes, subsets).is_err());
        }
    }
}
