//! `trainer doctor`: what a user sees without a GPU, and on one.

use std::time::{Duration, Instant};

use crate::common::trainer::{error_of, trainer};
use bicl::{Device, device::IMAGES};
use serde_json::Value;

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// The rows of a JSON report by name.
fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let rows = report["rows"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name} in {report}"))
}

#[test]
fn what_is_missing_is_said_in_a_line_each_and_at_once() {
    if Device::cuda(0).is_ok() {
        println!("skipped: a GPU is present");
        return;
    }
    // The first start reads the program from the disk.
    trainer(&["doctor", "--help"]);
    let start = Instant::now();
    let output = trainer(&["doctor"]);
    let elapsed = start.elapsed();
    let (table, error) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(1), "{table}{error}");
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    assert!(error.starts_with("error: ") && error.lines().count() == 1, "{error}");
    let lines: Vec<&str> = table.lines().map(str::trim).collect();
    let has = |status: &str, name: &str, more: &str| {
        lines.iter().any(|line| {
            line.starts_with(status) && line[status.len()..].trim().starts_with(name) && line.contains(more)
        })
    };
    if matches!(Device::cuda(0), Err(bicl::Error::NoDriver)) {
        assert!(has("failed", "driver", "libcuda.so.1 was not found"), "{table}");
        assert!(lines.iter().any(|line| line.starts_with("-> install NVIDIA's driver")), "{table}");
        assert!(has("skipped", "card", "needs the driver"), "{table}");
    }
    if IMAGES.is_empty() {
        assert!(has("failed", "kernels", "holds no GPU kernels"), "{table}");
        assert!(lines.iter().any(|line| line.starts_with("-> run tools/setup-cuda.sh")), "{table}");
    }
    assert!(has("skipped", "all that runs on it", "need what is missing"), "{table}");
}

#[test]
fn json_is_one_document() {
    let output = trainer(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["device"], "cuda:0");
    assert_eq!(report["ok"].as_bool().unwrap(), output.status.success());
    let failed = report["rows"].as_array().unwrap().iter().any(|row| row["status"] == "failed");
    assert_eq!(failed, !output.status.success());
    for name in ["driver", "card", "kernels", "cache folder", "glibc"] {
        let row = row(&report, name);
        assert!(row["seconds"].is_f64() && row["group"] == "host" && row["detail"].is_string(), "{row}");
        assert_eq!(row["advice"].is_string(), row["status"] == "failed", "{row}");
    }
    if Device::cuda(0).is_ok() {
        assert!(output.status.success(), "{report:#}");
        assert!(report["seconds"].as_f64().unwrap() < 30.0, "{report:#}");
    }
}

#[test]
fn a_card_that_is_not_there_is_named() {
    let output = trainer(&["doctor", "--device", "cuda:97", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["device"]), (Some(1), &"cuda:97".into()));
    assert_ne!(row(&report, "card")["status"], "ok");
}

#[test]
fn a_cache_that_cannot_be_written_is_a_failed_row() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_trainer"));
    let output = command.args(["doctor", "--json"]).env("BICL_CACHE", file.join("in")).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = row(&report, "cache folder");
    assert!(row["status"] == "failed" && row["advice"].as_str().unwrap().contains("BICL_CACHE"), "{row}");
}

/// The hidden part, by which the program talks to its own processes.
#[test]
fn a_process_writes_a_line_for_each_event() {
    let output = trainer(&["doctor", "--probe", "kernels", "--probe", "glibc"]);
    let lines: Vec<Value> = text(output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["begin", "end", "begin", "end"]);
    assert_eq!((&lines[0]["name"], &lines[3]["row"]["name"]), (&"kernels".into(), &"glibc".into()));
    let text = error_of(&["doctor", "--probe", "nonsense"]);
    assert!(text.contains("there is no check \"nonsense\""), "{text}");
    let output = trainer(&["doctor", "--device", "cpu"]);
    assert_eq!(output.status.code(), Some(2));
}
