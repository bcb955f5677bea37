//! Ctrl-C in every phase of a run: it saves, exits with 0, and says how to go on; what was interrupted and resumed ends
//! with the same bits.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use crate::common::trainer::{Fixture, TINY, trainer};

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until `seen`, which must come before the program's end.
#[track_caller]
fn wait(child: &mut Child, seen: impl Fn() -> bool) {
    while !seen() {
        std::thread::sleep(Duration::from_millis(5));
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
    }
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// The end of a program that was interrupted: what it said.
#[track_caller]
fn stopped(child: Child, out: &str) -> String {
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{error}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("continue with: trainer --resume {out}")), "{said}");
    said
}

fn contains(file: &str, text: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|content| content.contains(text))
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn in_the_warm_up() {
    let fixture = Fixture::new();
    let (root, out) = (fixture.path("data"), fixture.path("run"));
    let mut arguments = vec!["--preset", "miniature", "--device", "cpu", "--data-root", &root, "--out", &out];
    arguments.extend(TINY);
    arguments.extend(["--set", "warmup.steps=1000000", "--set", "log.log_every=1"]);
    let mut child = start(&arguments);
    wait(&mut child, || contains(&fixture.path("run/metrics.jsonl"), "\"step\":2}"));
    interrupt(&child);
    stopped(child, &out);
}

/// Interrupts a run where `seen` says so, resumes it, and compares it with a run that was left alone. Evaluation at a
/// larger size gives the time to hit.
#[track_caller]
fn interrupt_and_resume(seen: impl Fn(&Fixture) -> bool, unsaid: &str) {
    let fixture = Fixture::new();
    let (root, out) = (fixture.path("data"), fixture.path("run"));
    let slow = ["--set", "data.eval_short_side=640", "--set", "log.samples=0", "--set", "log.log_every=1"];
    let mut arguments = vec!["--preset", "miniature", "--device", "cpu", "--data-root", &root, "--out", &out];
    arguments.extend(TINY);
    arguments.extend(slow);
    let mut child = start(&arguments);
    wait(&mut child, || seen(&fixture));
    interrupt(&child);
    let said = stopped(child, &out);
    assert!(!said.contains(unsaid), "it was interrupted too late: {said}");
    succeeded(&trainer(&["--resume", &out, "--device", "cpu"]));
    succeeded(&fixture.train("whole", &slow));
    for file in ["adapted.safetensors", "metrics.jsonl"] {
        let [one, other] = ["run", "whole"].map(|run| fs::read(fixture.path(&format!("{run}/{file}"))).unwrap());
        assert!(one == other, "{file} differs");
    }
}

#[test]
fn in_an_evaluation() {
    let last_step = |fixture: &Fixture| contains(&fixture.path("run/metrics.jsonl"), "\"step\":2}");
    interrupt_and_resume(last_step, "source only: target mIoU");
}

#[test]
fn in_the_pseudo_labels() {
    let begun = |fixture: &Fixture| Path::new(&fixture.path("run/labels/round-0.partial")).exists();
    interrupt_and_resume(begun, "static labels on");
}

/// A demo whose scenes are being generated.
fn generating(out: &str) -> Child {
    let mut arguments = vec!["--demo", "--device", "cpu", "--out", out];
    arguments.extend(TINY);
    let mut child = start(&arguments);
    wait(&mut child, || {
        let entries = fs::read_dir(out).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).any(|path| path.join("gta5").exists())
    });
    child
}

#[test]
fn a_demo_that_generates_scenes_is_resumed_to_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo").to_str().unwrap().to_owned();
    let child = generating(&out);
    interrupt(&child);
    stopped(child, &out);
    let said = succeeded(&trainer(&["--resume", &out, "--device", "cpu", "--max-steps", "1"]));
    assert!(said.contains("stopped after 1 steps; continue with: trainer --resume"), "{said}");
    let said = succeeded(&trainer(&["--resume", &out, "--device", "cpu"]));
    assert!(said.contains("adapted (round 0)") && said.contains("points of mIoU; pictures in"), "{said}");
}

#[test]
fn a_second_one_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo").to_str().unwrap().to_owned();
    let child = generating(&out);
    interrupt(&child);
    // Two signals that wait at the same time would be one.
    std::thread::sleep(Duration::from_millis(200));
    interrupt(&child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert!(!Path::new(&out).join("config.toml").exists(), "it went on");
}
