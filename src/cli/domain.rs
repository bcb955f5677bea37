//! A data set as the command line names it.

use std::{path::PathBuf, str::FromStr};

use crate::{Error, data::Description};

/// A built-in data set, a description's file, or `folder:DIR`.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    /// As the configuration has it.
    pub name: String,
    pub description: Description,
    /// The folder, where the name says it.
    pub root: Option<PathBuf>,
}

impl FromStr for Domain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, root) = match text.split_once(':') {
            Some(("folder", folder)) if !folder.is_empty() => ("folder", Some(folder.into())),
            _ => (text, None),
        };
        Ok(Self { name: name.to_owned(), description: name.parse()?, root })
    }
}
