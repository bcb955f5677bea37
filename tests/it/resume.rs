//! A run that was stopped or killed and resumed ends with the same bits as one that was not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const STEPS: &[&str] = &[
    "model.width=4",
    "warmup.steps=3",
    "warmup.batch=2",
    "adapt.rounds=2",
    "adapt.steps=3",
    "data.batch=1",
    "batch_norm.precise=true",
    "log.checkpoint_every=1",
    "log.log_every=1",
    "log.samples=1",
    "warmup.crop=[48,64]",
    "data.crop=[48,64]",
];

fn miniature(folder: &Path) -> PathBuf {
    let root = folder.join("data");
    let options = bicl::data::miniature::Options {
        source_images: 4,
        target_train: 3,
        target_val: 2,
        width: 64,
        height: 48,
        ..Default::default()
    };
    bicl::data::miniature::generate(&root, &options).unwrap();
    root
}

fn trainer(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.args(arguments).args(["--device", "cpu"]).stdin(Stdio::null());
    command
}

fn fresh(root: &Path, out: &Path) -> Command {
    let mut command = trainer(&["--preset", "miniature"]);
    command.arg("--data-root").arg(root).arg("--out").arg(out);
    for assignment in STEPS {
        command.args(["--set", assignment]);
    }
    command
}

#[track_caller]
fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn weights(out: &Path) -> Vec<u8> {
    fs::read(out.join("adapted.safetensors")).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let root = miniature(folder.path());
    let outs = ["a", "b", "c"].map(|name| folder.path().join(name));
    succeed(fresh(&root, &outs[0]));
    let mut one_thread = fresh(&root, &outs[1]);
    one_thread.env("RAYON_NUM_THREADS", "1").args(["--set", "data.threads=0"]);
    succeed(one_thread);
    let mut seeded = fresh(&root, &outs[2]);
    seeded.args(["--seed", "1"]);
    succeed(seeded);
    let tensors = |out: &Path| {
        // The configuration inside the file differs by the number of threads; the numbers may not.
        let bytes = weights(out);
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut all: Vec<(String, Vec<u8>)> =
            tensors.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
        all.sort();
        all
    };
    assert!(tensors(&outs[0]) == tensors(&outs[1]), "the number of threads changed the weights");
    assert!(tensors(&outs[0]) != tensors(&outs[2]), "the seed changed nothing");
}

#[test]
fn stopping_anywhere_and_resuming_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = miniature(folder.path());
    let whole = folder.path().join("whole");
    succeed(fresh(&root, &whole));
    // Inside the warm-up, at its end, inside a round, at a round's end.
    for steps in ["1", "3", "5", "6"] {
        let out = folder.path().join(steps);
        let mut first = fresh(&root, &out);
        first.args(["--max-steps", steps]);
        let said = succeed(first);
        assert!(said.contains(&format!("continue with: trainer --resume {}", out.display())), "{said}");
        let out_text = out.to_str().unwrap();
        succeed(trainer(&["--resume", out_text]));
        assert!(weights(&out) == weights(&whole), "stopped after {steps} steps");
        let lines = |out: &Path| fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        assert_eq!(lines(&out), lines(&whole), "the log has gaps or doubles");
    }
}

#[test]
fn precise_statistics_change_the_targets_statistics_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = miniature(folder.path());
    let tensors = |precise: &str| {
        let out = folder.path().join(precise);
        let mut command = fresh(&root, &out);
        // One round: the labels of a second would be others.
        command.args(["--set", "adapt.rounds=1", "--set", &format!("batch_norm.precise={precise}")]);
        succeed(command);
        let bytes = weights(&out);
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let own = tensors.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec()));
        own.collect::<std::collections::BTreeMap<_, _>>()
    };
    let (running, precise) = (tensors("false"), tensors("true"));
    assert!(running.keys().eq(precise.keys()));
    for (name, value) in &running {
        assert_eq!(*value != precise[name], name.starts_with("model.target."), "{name}");
    }
}

#[test]
fn a_broken_validation_image_costs_no_step() {
    let folder = tempfile::tempdir().unwrap();
    let root = miniature(folder.path());
    let out = folder.path().join("broken");
    let mut command = fresh(&root, &out);
    command.args(["--set", "log.checkpoint_every=1000"]);
    let image = root.join("cityscapes/leftImg8bit/val/miniature/miniature_000000_000000_leftImg8bit.png");
    let intact = fs::read(&image).unwrap();
    fs::write(&image, &intact[..intact.len() / 2]).unwrap();
    let error = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(error.contains("miniature_000000_000000") && error.contains("truncated"), "{error}");
    let header = String::from_utf8_lossy(&fs::read(out.join("checkpoint.safetensors")).unwrap()).into_owned();
    assert!(header.contains(r#"\"step\":3,\"total\":3"#), "the warm-up's steps are not in the checkpoint");
    fs::write(&image, &intact).unwrap();
    succeed(trainer(&["--resume", out.to_str().unwrap()]));
}

#[test]
fn a_broken_image_costs_no_step() {
    let folder = tempfile::tempdir().unwrap();
    let root = miniature(folder.path());
    let [whole, out] = ["whole", "broken"].map(|name| folder.path().join(name));
    let run = |out: &Path, more: &[&str]| {
        let mut command = fresh(&root, out);
        // No checkpoint inside a stage; every target image comes up twice in the round.
        command.args(["--set", "log.checkpoint_every=1000", "--set", "adapt.rounds=1", "--set", "adapt.steps=6"]);
        command.args(more);
        command
    };
    succeed(run(&whole, &[]));
    succeed(run(&out, &["--max-steps", "4"]));
    let image = root.join("cityscapes/leftImg8bit/train/miniature/miniature_000001_000000_leftImg8bit.png");
    let intact = fs::read(&image).unwrap();
    fs::write(&image, &intact[..intact.len() / 2]).unwrap();
    let output = trainer(&["--resume", out.to_str().unwrap()]).output().unwrap();
    let (said, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("miniature_000001") && error.contains("truncated"), "{error}");
    assert!(said.contains("is saved; --resume") && !said.contains("step 4 is saved"), "{said}");
    fs::write(&image, &intact).unwrap();
    succeed(trainer(&["--resume", out.to_str().unwrap()]));
    assert!(weights(&out) == weights(&whole));
}

#[test]
fn killing_at_any_moment_and_resuming_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = miniature(folder.path());
    let whole = folder.path().join("whole");
    succeed(fresh(&root, &whole));
    let out = folder.path().join("killed");
    let mut run = fresh(&root, &out);
    // SIGKILL again and again, ever later, until a run gets to its end.
    for attempt in 0u64..200 {
        let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 + 25 * attempt));
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        if ended.is_some_and(|status| status.success()) {
            assert!(weights(&out) == weights(&whole), "killed {attempt} times");
            assert!(attempt > 0, "the run was never killed");
            return;
        }
        let begun = out.join("checkpoint.safetensors").exists();
        run = if begun { trainer(&["--resume", out.to_str().unwrap()]) } else { fresh(&root, &out) };
    }
    panic!("the run never ended");
}
