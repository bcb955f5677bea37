//! Where files lie: a path with wildcards, without the suffix.

use std::path::PathBuf;

use regex_lite::Regex;
use serde::{Deserialize, Serialize};

/// A path below a data set's folder, of folders between slashes: `*` stands for one or more characters of a name, `**/`
/// for any number of folders, also none. The suffix of the file is left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
    regex: Regex,
    /// Of the folders alone, with the slash at the end.
    folders: Regex,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(String),
    /// `*`, `**/`.
    Wildcard,
}

impl Pattern {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Number of wildcards.
    pub fn wildcards(&self) -> usize {
        self.parts.iter().filter(|part| matches!(part, Part::Wildcard)).count()
    }

    /// The folder in which every match lies.
    pub fn base(&self) -> PathBuf {
        let literal = match self.parts.first() {
            Some(Part::Literal(literal)) => literal.as_str(),
            _ => "",
        };
        literal.rsplit_once('/').map_or("", |(folder, _)| folder).into()
    }

    /// What the wildcards stand for in `path`, which has slashes and no suffix; `None` where it does not match.
    pub fn matches<'a>(&self, path: &'a str) -> Option<Vec<&'a str>> {
        let captures = self.regex.captures(path)?;
        (1..captures.len()).map(|i| captures.get(i).map(|found| found.as_str())).collect()
    }

    /// Whether `path` lies in a folder of the pattern, whatever its name is.
    pub fn holds_folder_of(&self, path: &str) -> bool {
        let folder = path.rfind('/').map_or("", |slash| &path[..=slash]);
        self.folders.is_match(folder)
    }

    /// The path with the wildcards filled in.
    pub fn fill(&self, wildcards: &[&str]) -> String {
        let mut next = wildcards.iter();
        let part = |part: &Part| match part {
            Part::Literal(literal) => literal.clone(),
            Part::Wildcard => next.next().copied().unwrap_or_default().to_owned(),
        };
        self.parts.iter().map(part).collect()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let components: Vec<&str> = text.split('/').collect();
        if components.iter().any(|part| matches!(*part, "" | "." | "..")) || text.contains('\\') {
            return Err(format!("{text:?} is no path below the data set's folder; write it as images/*"));
        }
        if components.iter().any(|part| part.contains("**") && *part != "**") {
            return Err(format!("{text:?} has ** inside a name; let it stand between slashes"));
        }
        let (mut parts, mut regex, mut folders) = (Vec::new(), String::from("^"), String::new());
        let mut literal = String::new();
        let flush = |literal: &mut String, parts: &mut Vec<Part>, regex: &mut String| {
            if !literal.is_empty() {
                regex.push_str(&regex_lite::escape(literal));
                parts.push(Part::Literal(std::mem::take(literal)));
            }
        };
        for (i, component) in components.iter().enumerate() {
            let last = i + 1 == components.len();
            if last {
                flush(&mut literal, &mut parts, &mut regex);
                folders = format!("{regex}$");
            }
            if *component == "**" {
                if last {
                    return Err(format!("{text:?} ends in **; name the files too, as in **/*"));
                }
                flush(&mut literal, &mut parts, &mut regex);
                regex.push_str("((?:[^/]+/)*)");
                parts.push(Part::Wildcard);
                continue;
            }
            for (j, piece) in component.split('*').enumerate() {
                if j > 0 {
                    flush(&mut literal, &mut parts, &mut regex);
                    regex.push_str("([^/]+)");
                    parts.push(Part::Wildcard);
                }
                literal.push_str(piece);
            }
            if !last {
                literal.push('/');
            }
        }
        flush(&mut literal, &mut parts, &mut regex);
        if !components.last().is_some_and(|name| name.contains('*')) {
            return Err(format!("{text:?} names one file; write * for what differs between the files' names"));
        }
        regex.push('$');
        let compiled = |regex: &str| Regex::new(regex).map_err(|error| format!("{text:?}: {error}"));
        let (regex, folders) = (compiled(&regex)?, compiled(&folders)?);
        Ok(Self { text, parts, regex, folders })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn wildcards_carry_over() {
        let images = pattern("leftImg8bit/train/**/*_leftImg8bit");
        let labels = pattern("gtFine/train/**/*_gtFine_labelIds");
        assert_eq!((images.base(), images.wildcards()), ("leftImg8bit/train".into(), 2));
        for (path, want) in [
            ("leftImg8bit/train/ulm/ulm_1_leftImg8bit", Some("gtFine/train/ulm/ulm_1_gtFine_labelIds")),
            ("leftImg8bit/train/x_leftImg8bit", Some("gtFine/train/x_gtFine_labelIds")),
            ("leftImg8bit/train/a/b/x_leftImg8bit", Some("gtFine/train/a/b/x_gtFine_labelIds")),
            ("leftImg8bit/train/ulm/ulm_1", None),
            ("leftImg8bit/val/ulm/x_leftImg8bit", None),
        ] {
            assert_eq!(images.matches(path).map(|found| labels.fill(&found)).as_deref(), want, "{path}");
        }
    }

    #[test]
    fn what_lies_in_another_folder_is_told_from_a_wrong_name() {
        let images = pattern("rgb/*/val/**/*_rgb");
        for (path, want) in [
            ("rgb/night/val/x", true),
            ("rgb/night/val/a/b/x", true),
            ("rgb/night/train/a/x_rgb", false),
            ("rgb/val/x_rgb", false),
        ] {
            assert_eq!(images.holds_folder_of(path), want, "{path}");
        }
        assert!(pattern("*").holds_folder_of("x") && !pattern("*").holds_folder_of("a/x"));
    }

    #[test]
    fn names_with_signs_are_taken_as_they_are() {
        let images = pattern("a+b (1)/*.x");
        assert_eq!(images.matches("a+b (1)/q.x"), Some(vec!["q"]));
        assert_eq!(images.matches("aab (1)/q.x"), None);
        assert_eq!((pattern("**/*").base(), pattern("rgb/*").base()), ("".into(), "rgb".into()));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for text in ["", "/images/*", "images//*", "../x/*", "images\\*", "images/a**", "images/**", "images/one"] {
            assert!(Pattern::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
