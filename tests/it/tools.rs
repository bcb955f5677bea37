//! tools/figures.py and tools/join_bench.py on small files with numbers that can be checked by hand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const NAME: &str = "2026-01-31-nvidia-h100-80gb-hbm3-0123456.json";
const README: &str = "# Title\n<!-- figures: tools/figures.py -->\nold\n<!-- /figures -->\nend\n";

const COPY: &str = r#"{"op":"copy","shape":"1024 MiB","direction":"forward","dtype":"u8","device":"cuda","ms":2,"bytes_per_second":1e12}"#;
const OURS_PRODUCT: &str = r#"{"op":"matrix_product","shape":"8192x8192x8192","direction":"forward","dtype":"bf16","device":"cuda","ms":2,"operations_per_second":5e14}"#;
const THEIR_PRODUCT: &str = r#"{"op":"matrix_product","shape":"8192x8192x8192","direction":"forward","dtype":"bf16","device":"cuda","peer":"eager","ms":1.8,"operations_per_second":6e14}"#;

/// A row; `more` are further fields.
fn row(op: &str, shape: &str, direction: &str, dtype: &str, ms: f64, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(
        r#"{{"op":"{op}","shape":"{shape}","direction":"{direction}","dtype":"{dtype}","device":"cuda","ms":{ms}{comma}{more}}}"#
    )
}

/// A bf16 row that has no time.
fn failure(op: &str, shape: &str, direction: &str, more: &str) -> String {
    row(op, shape, direction, "bf16", 1.0, more).replace("\"ms\":1,", "")
}

/// Our rows, PyTorch's.
fn rows() -> [Vec<String>; 2] {
    let (large, small) = ("2x92x92x256 256x3x3x256 s1 d2", "2x92x92x1024 256x1x1x1024 s1 d1");
    let published = "resnet101 w64 C19 2+2x730x730";
    let contrast = "2x92x92x76 730x730 C19";
    let work = r#""operations":9e12,"peak_mib":1000,"kernels":{
        "conv2d_mma_forward_large_bf16":{"launches":3,"bytes":100},
        "batch_norm_forward_bf16":{"launches":2,"bytes":2000000000},
        "entropy_f32":{"launches":1,"bytes":500000000}}"#
        .replace('\n', "");
    let ours = vec![
        COPY.into(),
        OURS_PRODUCT.into(),
        row("conv2d", large, "forward", "bf16", 0.1, r#""operations_per_second":3e14"#),
        row("conv2d", small, "data", "bf16", 0.2, r#""operations_per_second":3e14"#),
        row("prototypes", "2x92x92x2048 C19", "forward", "bf16", 0.1, r#""bytes_per_second":8e11"#),
        row("weighted_sum", "2 scalars", "forward", "f32", 0.01, ""),
        row("training_step", published, "step", "bf16", 40.0, &work),
        row("contrastive_labels", contrast, "both", "f32", 0.5, ""),
        failure("conv2d", small, "weight", r#""error":"differs from the CPU""#),
        // It failed once and was measured later.
        failure("conv2d", large, "forward", r#""error":"out of memory""#),
    ];
    let theirs = vec![
        THEIR_PRODUCT.into(),
        row("conv2d", large, "forward", "bf16", 0.4, r#""peer":"eager""#),
        row("conv2d", small, "data", "bf16", 0.2, r#""peer":"eager""#),
        row("training_step", published, "step", "bf16", 100.0, r#""peer":"eager","peak_mib":2500"#),
        row("training_step", published, "step", "bf16", 90.0, r#""peer":"graph","peak_mib":3000"#),
        row("training_step", published, "step", "bf16", 80.0, r#""peer":"compile","peak_mib":2000"#),
        failure("training_step", published, "step", r#""peer":"compile_graph","error":"RuntimeError: no\nmore""#),
        row("contrastive_labels", contrast, "both", "f32", 10.0, r#""peer":"eager""#),
    ];
    [ours, theirs]
}

/// What run.sh would write.
fn result() -> String {
    let rows = rows().concat().join(",");
    format!(
        r#"{{"card":"NVIDIA H100 80GB HBM3","driver":"570.1","date":"2026-01-31T12:00:00Z",
        "commit":"0123456789abcdef0123456789abcdef01234567",
        "parts":[{{"name":"step","status":0}},
            {{"name":"peer-norm","status":124,"message":"run: stopped after 30 s\nmore"}}],
        "rows":[{rows}]}}"#
    )
}

/// An empty folder with a README to write into and a folder for results.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("results")).unwrap();
    fs::write(folder.join("README.md"), README).unwrap();
    folder
}

fn python(script: &str, arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(script);
    // Without -B the checkout would get a folder of compiled files.
    let output = Command::new("python3").arg("-B").arg(script).args(arguments).output();
    output.expect("these tests need python3 (3.9 or later) in PATH")
}

fn figures(folder: &Path, more: &[&str]) -> Output {
    let (results, readme) = (folder.join("results"), folder.join("README.md"));
    let paths = ["--results", results.to_str().unwrap(), "--readme", readme.to_str().unwrap()];
    python("figures.py", &[&paths, more].concat())
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Fails with one line that holds all of `parts`.
fn assert_fails(output: &Output, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in {message}");
    }
}

#[track_caller]
fn assert_holds(text: &str, line: &str) {
    assert!(text.contains(line), "{line:?} is missing in\n{text}");
}

#[test]
fn figures_are_written_with_their_numbers_and_their_reasons() {
    let folder = folder("figures");
    fs::write(folder.join("results").join(NAME), result()).unwrap();
    assert_fails(&figures(&folder, &["--check"]), &["README.md", "run tools/figures.py"]);
    assert_eq!(fs::read_to_string(folder.join("README.md")).unwrap(), README, "--check wrote");
    text(&figures(&folder, &[]));
    text(&figures(&folder, &["--check"]));
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(readme.starts_with("# Title\n<!-- figures") && readme.ends_with("<!-- /figures -->\nend\n"), "{readme}");
    // 9 TFLOP in 40 ms are 225 TFLOP/s, of the 600 that cuBLAS reached.
    assert_holds(&readme, "| 2.00x (40.0 ms, PyTorch 80.0 ms: compile; compile_graph not measured; MFU 38 %) |");
    // Factors 4 and 1.
    assert_holds(
        &readme,
        "| geometric mean 2.00x, least 1.00x of 2 rows (1 failed); at most 300 TFLOP/s, 50 % of the measured matrix rate |",
    );
    assert_holds(&readme, "| 20.0x (500 us, PyTorch 10000 us: eager; compile not measured) |");
    assert_holds(&readme, "| geometric mean 80 %, least 80 % of 1000 GB/s, 1 rows |");
    assert_holds(&readme, "| 0.50x (1000 MiB, PyTorch 2000 MiB: compile) |");
    assert_holds(&readme, "| NVIDIA H100 80GB HBM3, 570.1, 2026-01-31, 0123456 |");
    assert_holds(&readme, "| PyTorch, best of eager and torch.compile | none: peer-norm: run: stopped after 30 s |  |");
}

#[test]
fn figures_without_results_say_so() {
    let folder = folder("nothing");
    text(&figures(&folder, &[]));
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    assert_eq!(readme.matches("| none: no GPU has run it yet |").count(), 7, "{readme}");
}

#[test]
fn figures_name_the_file_that_is_wrong() {
    let folder = folder("wrong");
    let path = folder.join("results").join(NAME);
    fs::write(&path, &result()[..200]).unwrap();
    assert_fails(&figures(&folder, &[]), &[NAME, "damaged", "remove the file"]);
    fs::write(&path, r#"{"rows": []}"#).unwrap();
    assert_fails(&figures(&folder, &[]), &[NAME, "unknown schema", "'card'"]);
    fs::write(&path, result().replace("\"ms\":0.4", "\"ms\":NaN")).unwrap();
    assert_fails(&figures(&folder, &[]), &[NAME, "row 12", "ms is nan"]);
    fs::remove_file(&path).unwrap();
    fs::write(folder.join("results/h100.json"), result()).unwrap();
    assert_fails(&figures(&folder, &[]), &["h100.json", NAME, "rename it"]);
    fs::remove_file(folder.join("results/h100.json")).unwrap();
    fs::write(folder.join("README.md"), "no marks\n").unwrap();
    assert_fails(&figures(&folder, &[]), &["README.md", "<!-- /figures -->"]);
}

#[test]
fn rows_are_joined_with_factors_rates_and_the_breakdown() {
    let folder = folder("join");
    let [own, theirs] = rows();
    let (ours, peer, whole) = (folder.join("ours.jsonl"), folder.join("theirs.jsonl"), folder.join("whole.json"));
    fs::write(&ours, own.join("\n")).unwrap();
    // The bench was killed while it wrote.
    fs::write(&peer, theirs.join("\n") + "\n{\"op\": \"conv2d\", \"sha").unwrap();
    fs::write(&whole, result()).unwrap();
    let table = text(&python("join_bench.py", &[ours.to_str().unwrap(), peer.to_str().unwrap()]));
    assert_eq!(table, text(&python("join_bench.py", &[whole.to_str().unwrap()])));
    assert_holds(&table, "| forward | bf16 | cuda | 0.1000 | 300 TFLOP/s | 50 % | 0.4000 | 4.00 | eager |");
    assert_holds(&table, "| weight | bf16 | cuda | ours | differs from the CPU |");
    assert_holds(&table, "| step | bf16 | cuda | compile_graph | RuntimeError: no |");
    assert!(!table.contains("out of memory"), "a row that was measured later is called failed:\n{table}");
    assert_holds(&table, "| forward | bf16 | cuda | 0.1000 | 800 GB/s | 80 % |  |  | no row of PyTorch's |");
    assert_holds(&table, "| training_step | step | bf16 | cuda | 1 | 2.00 | 2.00 |");
    assert_holds(&table, "| bf16 | cuda | ours | 40.000 |  | 38 % | 1000 |  |");
    assert_holds(&table, "| bf16 | cuda | eager | 100.000 | 2.50 | 15 % | 2500 | 0.40 |");
    // 9 TFLOP at 300 TFLOP/s; 2 GB and 0.5 GB at 1 TB/s.
    assert_holds(&table, "| convolutions | 3 | 0 | 30.000 | 75 % | 300 TFLOP/s");
    assert_holds(&table, "| batch norm | 2 | 2000 | 2.000 | 5 % | 1000 GB/s");
    assert_holds(&table, "| losses and the rest | 1 | 500 | 0.500 | 1 % | 1000 GB/s");
    assert_holds(&table, "| not explained by these |  |  | 7.500 | 19 % |");
}

#[test]
fn files_that_cannot_be_joined_are_named() {
    let folder = folder("apart");
    let [ours, theirs] = ["ours.jsonl", "theirs.jsonl"].map(|name| folder.join(name));
    let join = || python("join_bench.py", &[ours.to_str().unwrap(), theirs.to_str().unwrap()]);
    assert_fails(&join(), &["ours.jsonl", "--json"]);
    fs::write(&ours, row("relu", "1x2", "forward", "f32", 1.0, "")).unwrap();
    fs::write(&theirs, row("relu", "1x3", "forward", "f32", 1.0, "")).unwrap();
    assert_fails(&join(), &["no row", "compare the fields"]);
    fs::write(&theirs, "{\"op\": \"relu\"}\n").unwrap();
    assert_fails(&join(), &["theirs.jsonl, line 1", "run the bench again"]);
}
