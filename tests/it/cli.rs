//! The command line: what a user sees, above all when something is wrong.

use std::{fs, path::Path};

use crate::common::trainer::{Fixture, error_of, trainer};

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["--no-such-option"][..],
        &["eval"],
        &["eval", "x", "--split", "test"],
        &["--preset", "papier"],
        &["--seed", "-1"],
        &["--seed", "18446744073709551615"],
        &["--max-steps", "-1"],
        &["--device", "gpu"],
        &["--resume", "x", "--seed", "1"],
        &["--demo", "--source", "gta5"],
    ] {
        let output = trainer(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.starts_with("error: ") && text.ends_with("; see --help\n"), "{text}");
        assert_eq!(text.lines().count(), 1, "not one line: {text}");
    }
    assert!(trainer(&["--help"]).status.success());
}

#[test]
fn a_gpu_that_is_asked_for_is_never_replaced_by_the_cpu() {
    if bicl::Device::cuda(0).is_ok() {
        println!("skipped: a GPU is present");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo").to_str().unwrap().to_owned();
    let text = error_of(&["--demo", "--device", "cuda", "--out", &out]);
    assert!(text.contains("--device cpu"), "{text}");
    assert!(!Path::new(&out).exists(), "it must show before scenes are made");
    let text = error_of(&["--device", "cuda", "--data-root", "/no/such/folder"]);
    assert!(text.contains("--device cpu"), "{text}");
}

#[test]
fn tensor_core_precision_is_refused_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo").to_str().unwrap().to_owned();
    let text = error_of(&["--demo", "--device", "cpu", "--precision", "tf32", "--out", &out]);
    assert!(text.contains("use fp32 or --device cuda"), "{text}");
    assert!(!Path::new(&out).exists(), "it must show before scenes are made");
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
    assert!(text.contains("config.toml: unknown field `momentom`"), "{text}");
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
    // What a run goes on from, damaged in the same ways.
    let (run, last) = (fixture.path("run"), fixture.path("run/checkpoint.safetensors"));
    for (what, content) in [("half", &whole[..whole.len() / 2]), ("empty", &[][..]), ("text", b"not a checkpoint")] {
        fs::write(&last, content).unwrap();
        let text = error_of(&["--resume", &run, "--device", "cpu"]);
        assert!(text.contains("checkpoint.safetensors"), "{what}: {text}");
    }
    // Of a network that the run's configuration does not describe.
    fs::write(&last, &whole).unwrap();
    let config = fixture.path("run/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\nwidth = 4\n", "\nwidth = 8\n")).unwrap();
    let text = error_of(&["--resume", &run, "--device", "cpu"]);
    assert!(
        text.contains("checkpoint.safetensors: conv1.weight has extents [4, 7, 7, 3], the network wants"),
        "{text}"
    );
    fs::remove_file(&last).unwrap();
    let text = error_of(&["--resume", &run, "--device", "cpu"]);
    assert!(text.contains("holds no checkpoint.safetensors"), "{text}");
    // A safetensors file of another program.
    fs::write(&checkpoint, whole).unwrap();
    let weights = fixture.path("weights.safetensors");
    assert!(trainer(&["export", &checkpoint, "--out", &weights]).status.success());
    fs::copy(&weights, &last).unwrap();
    let text = error_of(&["--resume", &run, "--device", "cpu"]);
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
fn weights_that_are_not_finite_replace_no_checkpoint() {
    let fixture = Fixture::new();
    let sets = ["--set", "warmup.learning_rate=1e300", "--set", "warmup.steps=20", "--set", "log.checkpoint_every=1"];
    let text = fixture.train_error("run", &sets);
    assert!(text.contains("after step 1") && text.contains("an older one is intact"), "{text}");
    let (network, _) =
        bicl::train::Network::open(Path::new(&fixture.path("run/checkpoint.safetensors")), &bicl::Device::cpu())
            .unwrap();
    for (name, tensor) in network.parameters.iter() {
        assert!(tensor.to_vec::<f32>().unwrap().iter().all(|value| value.is_finite()), "{name}");
    }
}

#[test]
fn a_folder_that_is_no_run_is_not_resumed() {
    let fixture = Fixture::new();
    for folder in [fixture.path("nowhere"), fixture.path("data")] {
        let text = error_of(&["--resume", &folder, "--device", "cpu"]);
        assert!(text.contains(&folder) && text.contains("no run to resume"), "{text}");
    }
}

#[test]
fn a_run_whose_data_has_moved_is_resumed_from_there() {
    let fixture = Fixture::new();
    assert!(fixture.train("run", &["--max-steps", "1"]).status.success());
    fs::rename(fixture.path("data"), fixture.path("moved")).unwrap();
    let (run, root) = (fixture.path("run"), fixture.path("moved"));
    let text = error_of(&["--resume", &run, "--device", "cpu"]);
    assert!(text.contains("no such folder"), "{text}");
    let output = trainer(&["--resume", &run, "--device", "cpu", "--data-root", &root]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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
