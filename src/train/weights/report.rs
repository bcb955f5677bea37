//! What an import did with a file's tensors, for the reader and the log.

use std::path::PathBuf;

use serde::Serialize;

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file.
    pub file: PathBuf,
    /// Tensors taken, by our names.
    pub loaded: Vec<String>,
    /// The target's own, which the file does not have and which start from the source's.
    pub shared: Vec<String>,
    /// Tensors of the network that the file lacks: they keep their initial values.
    pub missing: Vec<String>,
    /// Tensors of the file that the network has no place for, by the file's names.
    pub unused: Vec<String>,
    /// Those that no network here has: an ImageNet classifier, counters of batches.
    pub left_out: Vec<String>,
    /// What may be wrong.
    pub notes: Vec<String>,
}

impl Report {
    /// As lines to print.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{}: {} tensors taken", self.file.display(), self.loaded.len())];
        let mut list = |what: &str, names: &[String]| {
            if let Some(first) = names.first() {
                lines.push(format!("{} {what}, the first is {first}", names.len()));
            }
        };
        list("tensors of the target's own start from the source's", &self.shared);
        list("tensors of the network are not in the file and keep their initial values", &self.missing);
        list("tensors of the file have no place in the network", &self.unused);
        list("tensors of the file are left out, for no network here has such", &self.left_out);
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines
    }
}
