//! The built-in descriptions, a TOML file each, and how configurations and commands name one.

use std::{path::Path, str::FromStr, sync::LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::description::Description;
use crate::{Error, Result};

const TEXTS: [&str; 14] = [
    include_str!("sets/gta5.toml"),
    include_str!("sets/synthia.toml"),
    include_str!("sets/cityscapes.toml"),
    include_str!("sets/acdc.toml"),
    include_str!("sets/bdd100k.toml"),
    include_str!("sets/camvid.toml"),
    include_str!("sets/cityscapes-trainids.toml"),
    include_str!("sets/dark-zurich.toml"),
    include_str!("sets/idd.toml"),
    include_str!("sets/kitti.toml"),
    include_str!("sets/mapillary.toml"),
    include_str!("sets/synscapes.toml"),
    include_str!("sets/urbansyn.toml"),
    include_str!("sets/folder.toml"),
];

static SETS: LazyLock<Vec<Description>> = LazyLock::new(|| {
    // Every test of data reads all of them first.
    TEXTS.iter().map(|text| Description::parse(text).expect("a built-in description has no error")).collect()
});

/// All of them.
pub fn all() -> &'static [Description] {
    &SETS
}

/// GTA5.
pub fn gta5() -> Description {
    SETS[0].clone()
}

/// SYNTHIA-RAND-CITYSCAPES.
pub fn synthia() -> Description {
    SETS[1].clone()
}

/// Cityscapes.
pub fn cityscapes() -> Description {
    SETS[2].clone()
}

/// A built-in one by its name, or the path of a file that ends in `.toml`.
impl FromStr for Description {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(found) = all().iter().find(|set| set.name() == text) {
            return Ok(found.clone());
        }
        if text.ends_with(".toml") {
            return Self::read(Path::new(text));
        }
        let names: Vec<&str> = all().iter().map(Description::name).collect();
        Err(Error::Config(format!("unknown data set `{text}`; use {}, or a description's file.toml", names.join(", "))))
    }
}

impl Serialize for Description {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match all().contains(self) {
            true => serializer.serialize_str(self.name()),
            false => self.whole().serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Description {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A string, or a table; toml::Value tells which.
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(name) => name.parse().map_err(D::Error::custom),
            value => {
                let text = toml::to_string(&value).map_err(D::Error::custom)?;
                Self::parse(&text).map_err(D::Error::custom)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_are_what_they_are_called() {
        assert_eq!(
            [gta5(), synthia(), cityscapes()].map(|set| set.name().to_owned()),
            ["gta5", "synthia", "cityscapes"]
        );
    }
}
