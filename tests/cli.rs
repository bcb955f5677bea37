//! The command line: what a user sees, above all when something is wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

fn trainer(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The one line of an error; the exit status must be 1.
#[track_caller]
fn error_of(arguments: &[&str]) -> String {
    let output = trainer(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
    assert_eq!(text.lines().count(), 1, "not one line: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text.trim_end().strip_prefix("error: ").expect("an error says that it is one").to_owned()
}

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
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

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn source_label(&self) -> PathBuf {
        first_file(&self.folder.path().join("data/gta5/labels"))
    }

    /// Trains a few steps of a tiny network, with `more` arguments.
    fn train(&self, out: &str, more: &[&str]) -> Output {
        let (root, out) = (self.path("data"), self.path(out));
        let sets = [
            "model.width=4",
            "warmup.steps=2",
            "warmup.batch=1",
            "adapt.rounds=1",
            "adapt.steps=1",
            "data.batch=1",
            "warmup.crop=[32,32]",
            "data.crop=[32,32]",
            "log.samples=1",
        ];
        let mut arguments = vec!["--preset", "miniature", "--device", "cpu", "--data-root", &root, "--out", &out];
        for set in &sets {
            arguments.extend(["--set", set]);
        }
        arguments.extend(more);
        trainer(&arguments)
    }

    #[track_caller]
    fn train_error(&self, out: &str, more: &[&str]) -> String {
        let output = self.train(out, more);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(text.lines().count(), 1, "not one line: {text}");
        text
    }
}

fn first_file(folder: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.remove(0)
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [&["--no-such-option"][..], &["eval"], &["--preset", "papier"], &["--resume", "x", "--seed", "1"]]
    {
        let output = trainer(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    assert!(trainer(&["--help"]).status.success());
}

#[test]
fn a_gpu_that_is_asked_for_is_never_replaced_by_the_cpu() {
    if bicl::Device::cuda(0).is_ok() {
        println!("skipped: a GPU is present");
        return;
    }
    let text = error_of(&["--demo", "--device", "cuda", "--out", "/nonexistent/demo"]);
    assert!(text.contains("--device cpu"), "{text}");
}

#[test]
fn missing_and_empty_folders_name_the_layout() {
    let text = error_of(&["--data-root", "/no/such/folder", "--device", "cpu"]);
    assert!(text.contains("/no/such/folder/gta5"), "{text}");
}

#[test]
fn unknown_configuration_keys_are_named() {
    let fixture = Fixture::new();
    let text = fixture.train_error("run", &["--set", "adapt.runds=2"]);
    assert!(text.contains("runds"), "{text}");
    let file = fixture.path("config.toml");
    fs::write(&file, "[optimizer]\nmomentom = 0.5\n").unwrap();
    let text = fixture.train_error("run", &["--config", &file]);
    assert!(text.contains("momentom"), "{text}");
}

#[test]
fn broken_files_are_named_and_nothing_is_lost() {
    let fixture = Fixture::new();
    let label = fixture.source_label();
    let whole = fs::read(&label).unwrap();
    for (what, content) in [("truncated", &whole[..whole.len() / 2]), ("empty", &[][..]), ("no image", b"hello")] {
        fs::write(&label, content).unwrap();
        let text = fixture.train_error(what, &[]);
        assert!(text.contains(label.to_str().unwrap()), "{what}: {text}");
        fs::write(&label, &whole).unwrap();
    }
    fs::remove_file(&label).unwrap();
    let text = fixture.train_error("without label", &[]);
    assert!(text.contains(label.file_name().unwrap().to_str().unwrap()), "{text}");
}

#[test]
fn a_crop_larger_than_the_image_is_padded() {
    let fixture = Fixture::new();
    let output = fixture.train("run", &["--set", "warmup.crop=[96,128]", "--set", "data.crop=[96,128]"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn damaged_and_foreign_checkpoints_are_refused() {
    let fixture = Fixture::new();
    assert!(fixture.train("run", &[]).status.success());
    let checkpoint = fixture.path("run/adapted.safetensors");
    let whole = fs::read(&checkpoint).unwrap();
    let evaluate = || error_of(&["eval", &checkpoint, "--device", "cpu"]);
    for (what, content) in [("half", &whole[..whole.len() / 2]), ("empty", &[][..]), ("text", b"not a checkpoint")] {
        fs::write(&checkpoint, content).unwrap();
        let text = evaluate();
        assert!(text.contains("adapted.safetensors"), "{what}: {text}");
    }
    // A safetensors file of another program.
    fs::write(&checkpoint, whole).unwrap();
    let weights = fixture.path("weights.safetensors");
    assert!(trainer(&["export", &checkpoint, "--out", &weights]).status.success());
    let text = error_of(&["eval", &weights, "--device", "cpu"]);
    assert!(text.contains("no checkpoint of this program"), "{text}");
    // Weights of another shape.
    let text = fixture.train_error("wide", &["--init-weights", &weights, "--set", "model.width=8"]);
    assert!(text.contains("the network wants"), "{text}");
}

#[test]
fn a_diverging_loss_stops_the_run_and_keeps_the_checkpoint() {
    let fixture = Fixture::new();
    let text = fixture.train_error("run", &["--set", "warmup.learning_rate=1e30", "--set", "warmup.steps=20"]);
    assert!(text.contains("at step") && text.contains("checkpoint.safetensors"), "{text}");
    assert!(Path::new(&fixture.path("run/checkpoint.safetensors")).exists());
}

#[test]
fn an_existing_run_is_not_overwritten() {
    let fixture = Fixture::new();
    assert!(fixture.train("run", &[]).status.success());
    let text = fixture.train_error("run", &[]);
    assert!(text.contains("--resume"), "{text}");
}

#[test]
fn a_full_disk_leaves_the_old_checkpoint() {
    if !Path::new("/dev/full").exists() {
        println!("skipped: no /dev/full");
        return;
    }
    let fixture = Fixture::new();
    assert!(fixture.train("run", &["--max-steps", "1"]).status.success());
    let checkpoint = fixture.path("run/checkpoint.safetensors");
    let before = fs::read(&checkpoint).unwrap();
    // What is written goes to a device that is always full.
    std::os::unix::fs::symlink("/dev/full", format!("{checkpoint}.partial")).unwrap();
    let text = error_of(&["--resume", &fixture.path("run"), "--device", "cpu"]);
    assert!(text.contains("the disk is full") && text.contains("checkpoint.safetensors"), "{text}");
    assert!(fs::read(&checkpoint).unwrap() == before, "the old checkpoint must survive");
}

#[test]
fn evaluation_and_prediction_give_json() {
    let fixture = Fixture::new();
    let output = fixture.train("run", &["--json"]);
    assert!(output.status.success());
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(outcome["evaluations"]["source only"]["miou"].is_f64(), "{outcome}");
    let run = fixture.path("run");
    let output = trainer(&["eval", &run, "--json", "--device", "cpu"]);
    let scores: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        scores["scores"]["miou"], outcome["evaluations"]["round 0"]["miou"],
        "the saved network scores the same"
    );
    let pictures = fixture.path("pictures");
    let images = fixture.path("data/gta5/images");
    let output = trainer(&["predict", &images, "--checkpoint", &run, "--out", &pictures, "--json", "--device", "cpu"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["predictions"].as_array().unwrap().len(), 2);
    assert_eq!(fs::read_dir(&pictures).unwrap().count(), 4, "a colour map and an overlay for each image");
}

#[test]
fn check_finds_what_is_wrong() {
    let fixture = Fixture::new();
    let root = fixture.path("data");
    let output = trainer(&["check", "--data-root", &root]);
    assert!(output.status.success());
    fs::write(fixture.source_label(), b"").unwrap();
    let text = error_of(&["check", "--data-root", &root]);
    assert!(text.contains("1 problems"), "{text}");
}

#[test]
fn ctrl_c_saves_and_exits_with_0() {
    let fixture = Fixture::new();
    let (root, out) = (fixture.path("data"), fixture.path("run"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(["--preset", "miniature", "--device", "cpu", "--data-root", &root, "--out", &out])
        .args(["--set", "model.width=4", "--set", "warmup.crop=[32,32]", "--set", "warmup.steps=1000000"])
        .args(["--set", "log.log_every=1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let metrics = PathBuf::from(&out).join("metrics.jsonl");
    while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 2 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("trainer --resume"), "{said}");
}
