//! What the benches do with filters, and with rows that fail.

#[path = "../../benches/kernels/rows.rs"]
mod rows;

use std::{fs, path::Path};

use bicl::{DType, Device, Error, Result};
use rows::{Filters, Rows, alive, dtype};
use serde_json::{Value, json};

fn filters(texts: &[&str], dtype: Option<DType>) -> Filters {
    Filters { texts: texts.iter().map(|text| (*text).to_owned()).collect(), dtype }
}

#[test]
fn a_row_passes_that_contains_any_text_and_has_the_dtype() {
    const ROWS: [(&str, DType); 4] = [
        ("conv2d forward 2x8 bf16", DType::Bf16),
        ("conv2d forward 2x8 f32", DType::F32),
        ("aspp backward 2x8 bf16", DType::Bf16),
        ("relu forward 2x8 bf16", DType::Bf16),
    ];
    let passed = |filters: &Filters| ROWS.map(|(label, dtype)| filters.pass(label, dtype));
    assert_eq!(passed(&Filters::default()), [true; 4]);
    assert_eq!(passed(&filters(&["conv2d"], None)), [true, true, false, false]);
    assert_eq!(passed(&filters(&["conv2d", "aspp"], None)), [true, true, true, false]);
    assert_eq!(passed(&filters(&["conv2d", "aspp"], Some(DType::Bf16))), [true, false, true, false]);
    assert_eq!(passed(&filters(&[], Some(DType::F32))), [false, true, false, false]);
    assert_eq!(passed(&filters(&["nothing"], None)), [false; 4]);
    assert!(filters(&["nothing"], Some(DType::F32)).has(DType::F32));
    assert!(!filters(&[], Some(DType::F32)).has(DType::Bf16));
}

#[test]
fn a_dtype_has_two_names() {
    assert_eq!((dtype("bf16").unwrap(), dtype("f32").unwrap()), (DType::Bf16, DType::F32));
    assert_eq!(dtype("fp32").unwrap_err().to_string(), r#"config: dtype "fp32"; use bf16 or f32"#);
}

fn key(shape: &str) -> Value {
    json!({ "op": "conv2d", "shape": shape, "direction": "forward", "dtype": "bf16", "device": "cuda" })
}

fn failure() -> Result<()> {
    Err(Error::Internal("differs\nfrom the CPU".into()))
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn rows_go_on_after_a_failure_and_every_line_is_there_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let mut rows = Rows::new(Some(path.clone())).unwrap();
    let mut timed = key("a");
    timed["ms"] = 1.5.into();
    rows.write(&timed).unwrap();
    assert_eq!(lines(&path), [timed.clone()], "before the row has ended");
    rows.settle(&key("a"), Ok::<(), Error>(()), || unreachable!("nobody doubts the device")).unwrap();
    rows.finish(&Filters::default()).unwrap();

    rows.settle(&key("b"), failure(), || Ok(())).unwrap();
    rows.settle(&key("c"), Ok::<(), Error>(()), || unreachable!()).unwrap();
    let mut failed = key("b");
    failed["error"] = "internal error: differs from the CPU; please report it".into();
    assert_eq!(lines(&path), [timed, failed]);
    let error = rows.finish(&Filters::default()).unwrap_err().to_string();
    assert!(error.contains("failed rows: 1"), "{error}");
}

#[test]
fn a_dead_device_ends_the_run_after_the_row_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let mut rows = Rows::new(Some(path.clone())).unwrap();
    let dead = || Err(Error::Cuda { op: "cuStreamSynchronize".into(), message: "CUDA_ERROR_ILLEGAL_ADDRESS".into() });
    let error = rows.settle(&key("b"), failure(), dead).unwrap_err().to_string();
    for part in ["conv2d b forward bf16", "CUDA_ERROR_ILLEGAL_ADDRESS", "new process"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    assert_eq!(error.lines().count(), 1);
    let lines = lines(&path);
    assert_eq!((lines.len(), lines[0]["shape"].as_str(), lines[0].get("ms")), (1, Some("b"), None));
    assert!(rows.finish(&Filters::default()).is_err());
}

#[test]
fn a_run_without_rows_and_a_file_that_cannot_be_written_are_errors() {
    let error = Rows::default().finish(&filters(&["nothing"], Some(DType::F32))).unwrap_err().to_string();
    assert_eq!(error, r#"config: no row of dtype f32 contains any of ["nothing"]; use other filters"#);
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing").join("rows.jsonl");
    assert!(Rows::new(Some(missing)).is_err());
}

#[test]
fn a_device_that_computes_is_alive() {
    for device in [Device::cpu(), Device::plan()] {
        alive(&device).unwrap();
    }
}
