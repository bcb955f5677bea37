//! Running the program in tests: its one-line errors, and a miniature data set to run it on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A run of three steps.
pub const TINY: &[&str] = &[
    "--set",
    "model.width=4",
    "--set",
    "warmup.steps=2",
    "--set",
    "warmup.batch=1",
    "--set",
    "adapt.rounds=1",
    "--set",
    "adapt.steps=1",
    "--set",
    "data.batch=1",
    "--set",
    "warmup.crop=[32,32]",
    "--set",
    "data.crop=[32,32]",
    "--set",
    "log.samples=1",
];

pub fn trainer(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The one line of an error; the exit status must be 1.
#[track_caller]
pub fn error_of(arguments: &[&str]) -> String {
    let output = trainer(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "not one line: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text.trim_end().strip_prefix("error: ").expect("an error says that it is one").to_owned()
}

pub struct Fixture {
    pub folder: tempfile::TempDir,
}

impl Fixture {
    /// Two images of the source, two of the target, one to validate, 64 x 48.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = bicl::data::miniature::Options {
            source_images: 2,
            target_train: 2,
            target_val: 1,
            width: 64,
            height: 48,
            ..Default::default()
        };
        bicl::data::miniature::generate(&folder.path().join("data"), &options).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn source_label(&self) -> PathBuf {
        first_file(&self.folder.path().join("data/gta5/labels"))
    }

    /// Trains a few steps of a tiny network, with `more` arguments.
    pub fn train(&self, out: &str, more: &[&str]) -> Output {
        let (root, out) = (self.path("data"), self.path(out));
        let mut arguments = vec!["--preset", "miniature", "--device", "cpu", "--data-root", &root, "--out", &out];
        arguments.extend(TINY);
        arguments.extend(more);
        trainer(&arguments)
    }

    #[track_caller]
    pub fn train_error(&self, out: &str, more: &[&str]) -> String {
        let output = self.train(out, more);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(text.lines().count(), 1, "not one line: {text}");
        text
    }
}

pub fn first_file(folder: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.remove(0)
}
