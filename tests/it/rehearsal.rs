//! The two calls of the GPU bundle (tools/gpu-bundle-run.sh) on stand-ins for everything that they run: what hangs, crashes, fails
//! or is killed must leave the other parts their results, within the limits.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// What stands before every stand-in: rows as the benches write them, and a process that only SIGKILL ends.
const COMMON: &str = r#"#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$CALLS"
json=/dev/null
arguments=" $* "
if [[ $arguments =~ ' --json '([^ ]+) ]]; then json=${BASH_REMATCH[1]}; fi
row() { # OP MILLISECONDS MORE
  printf '{"op":"%s","shape":"2x2","direction":"forward","dtype":"bf16","device":"cuda","ms":%s%s}\n' "$1" "$2" "${3-}" >>"$json"
}
hang() {
  trap '' TERM
  while :; do sleep 0.2; done
}
"#;

const NVIDIA_SMI: &str = r#"
case $arguments in *query-gpu*) echo "NVIDIA H100 80GB HBM3, 580.1, 9.0, Default, 81559 MiB, 1980 MHz, 700.00 W" ;; esac
"#;

/// The products by warpgroups hang; alone, one of them passes, one crashes. One of the other tests panics.
const TESTS: &str = r#"
[ "$REQUIRE_GPU" = 1 ] && [ "$BICL_TEST_DEVICES" = gpu ] || exit 3
case $arguments in
  *--list*wgmma*--skip* | *--list*--skip*) printf '%s: test\n' kernels::relu::good kernels::relu::bad ;;
  *--list*wgmma*) printf '%s: test\n' kernels::conv2d_wgmma::good kernels::conv2d_wgmma::bad ;;
  *--exact*kernels::conv2d_wgmma::bad*) kill -SEGV $$ ;;
  *--exact*kernels::relu::bad*) echo "thread 'kernels::relu::bad' panicked at tests/it/kernels/relu.rs:1:1:"; echo "1 is not 2"; exit 101 ;;
  *--exact*) echo "ok" ;;
  *" kernels:: "*--skip*) echo "test kernels::relu::good ... ok"; echo "test kernels::relu::bad ... FAILED"; exit 101 ;;
  *kernels::graph::*) [ "${BICL_WARPGROUPS-}" = off ] || exit 4 ;;
  *kernels::conv2d_wgmma::the*) exit 0 ;;
  *wgmma*) hang ;;
esac
"#;

const TRAINER: &str = r#"
case $arguments in
  *--version*) echo "trainer 0.1.0"; sleep "${VERSION_TAKES-0}" ;;
  *doctor*--json*) printf '{\n  "verdict": "well"\n}\n' ;;
esac
"#;

/// Fails as a memory checker that found something does.
const SANITIZER: &str = r#"
[ -z "${BICL_WARPGROUPS-}" ] || exit 5
echo "ERROR SUMMARY: 3 errors"
exit 9
"#;

/// Crashes after it has written.
const NCU: &str = r#"
[[ $arguments =~ ' --log-file '([^ ]+) ]] && echo '"ID","Kernel Name"' >"${BASH_REMATCH[1]}"
kill -ABRT $$
"#;

/// The convolutions' bench leaves half a line, whose brackets look whole, and hangs.
const KERNELS: &str = r#"
case $arguments in
  *batch_norm*) row batch_norm 0.5 ;;
  *) row conv2d 0.25; printf '{"op":"conv2d","shape":{}' >>"$json"; hang ;;
esac
"#;

const STEP: &str = r#"
echo '{"choices":1}' >"$BICL_CACHE/card.json"
row training_step 40 ',"kernels":{"a":{"launches":1,"bytes":2}}'
if [ -n "${STEP_SLEEPS-}" ]; then echo $$ >"$STEP_SLEEPS"; sleep 8; fi
"#;

const PYTHON: &str = r#"
case $arguments in
  *join_bench*) exec python3 -B "$@" ;;
  *importlib.metadata*) echo "torch: torch 2.11.0" ;;
  *--gate*)
    # It compiles before its gate opens.
    [[ $arguments =~ ' --gate '([^ ]+) ]] && gate=${BASH_REMATCH[1]} && [ ! -e "$gate" ] || exit 6
    until [ -e "$gate" ]; do sleep 0.1; done
    case $arguments in
      *" step "*) row training_step 80 ',"peer":"compile"' ;;
      *) hang ;;
    esac
    ;;
  *" conv2d "*)
    row conv2d 0.5 ',"peer":"eager"'
    printf '{"op":"copy","shape":"1","direction":"forward","dtype":"u8","device":"cuda","peer":"eager","error":"no \\"memory\\""}\n' |
      tee -a "$json"
    exit 1
    ;;
  *" step "*) row training_step 100 ',"peer":"eager"'; row training_step 90 ',"peer":"graph"' ;;
  *memory*) row batch_norm 0.75 ',"peer":"eager"'; row relu NaN ',"peer":"eager"' ;;
esac
"#;

struct Rehearsal {
    folder: PathBuf,
    run: Command,
}

/// A bundle of stand-ins, and run.sh as it is called.
fn rehearsal(name: &str, call: &str, limits: &str) -> Rehearsal {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rehearsal-{name}"));
    let _ = fs::remove_dir_all(&folder);
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools");
    for part in ["path", "tests/bin", "benches", "bin", "tools", "temporary"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    let programs = [
        ("path/nvidia-smi", NVIDIA_SMI),
        ("path/compute-sanitizer", SANITIZER),
        ("path/ncu", NCU),
        ("path/python", PYTHON),
        ("tests/bin/it", TESTS),
        ("benches/kernels", KERNELS),
        ("benches/step", STEP),
        ("bin/trainer", TRAINER),
    ];
    for (path, text) in programs {
        fs::write(folder.join(path), format!("{COMMON}{text}")).unwrap();
        fs::set_permissions(folder.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for script in ["run.sh", "parts.sh"] {
        fs::copy(tools.join(format!("gpu-bundle-{script}")), folder.join(script)).unwrap();
    }
    fs::copy(tools.join("join_bench.py"), folder.join("tools/join_bench.py")).unwrap();
    fs::write(folder.join("commit"), "0123456789abcdef\n").unwrap();
    let path = format!("{}:{}", folder.join("path").display(), std::env::var("PATH").unwrap());
    let mut run = Command::new("bash");
    run.arg(folder.join("run.sh")).args([call, "out"]).current_dir(&folder);
    run.env("PATH", path).env("CALLS", folder.join("calls")).env("TMPDIR", folder.join("temporary"));
    run.env("PYTHON", folder.join("path/python")).env("LIMITS", limits).env_remove("BICL_WARPGROUPS");
    run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Rehearsal { folder, run }
}

impl Rehearsal {
    /// Runs it to its end, which must come within `seconds` and with this exit status. What it printed.
    fn finish(&mut self, seconds: u64, status: i32) -> String {
        let start = Instant::now();
        let output = self.run.stdout(Stdio::piped()).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(start.elapsed() < Duration::from_secs(seconds), "{:?}\n{printed}", start.elapsed());
        assert_eq!(output.status.code(), Some(status), "{printed}");
        let left = fs::read_dir(self.folder.join("temporary")).unwrap().count();
        assert_eq!(left, 0, "temporary files are left");
        printed
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.join("out").join(name)
    }

    /// The names of what came back, each small enough.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join("out")).unwrap().map(Result::unwrap);
        let mut names: Vec<_> = entries
            .inspect(|entry| assert!(entry.metadata().unwrap().len() <= 16 << 20, "{entry:?} is too large"))
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What Python's parser, told to refuse NaN, makes of an expression over the file.
    fn json(&self, name: &str, expression: &str) -> String {
        let script = format!(
            "import json, sys\ndef refuse(name): raise ValueError(name)\n\
             d = json.load(open(sys.argv[1]), parse_constant=refuse)\n\
             status = {{p['name']: p['status'] for p in d['parts']}}\n\
             message = {{p['name']: p['message'] for p in d['parts']}}\nprint({expression})"
        );
        let output = Command::new("python3").args(["-c", &script]).arg(self.out(name)).output();
        let output = output.expect("these tests need python3 (3.9 or later) in PATH");
        let text = fs::read_to_string(self.out(name)).unwrap_or_default();
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_string()
    }

    /// Starts it and waits until the step's bench, which then sleeps, has its first row in the file.
    fn until_the_first_row(&mut self) -> Child {
        self.run.env("STEP_SLEEPS", self.folder.join("step.pid"));
        let child = self.run.spawn().unwrap();
        let start = Instant::now();
        while !fs::read_to_string(self.out("figures.json")).is_ok_and(|text| text.contains("training_step")) {
            assert!(start.elapsed() < Duration::from_secs(20), "no row within 20 s");
            sleep(Duration::from_millis(50));
        }
        child
    }
}

#[test]
fn correctness_goes_on_after_a_hang_a_crash_and_a_failure() {
    let limits = "wgmma=2 one=3 again=8 memcheck=10";
    let mut rehearsal = rehearsal("correctness", "correctness", limits);
    let printed = rehearsal.finish(150, 1);
    assert_eq!(rehearsal.files(), ["correctness.json", "logs.tgz"]);
    let status = |name| rehearsal.json("correctness.json", &format!("status['{name}']"));
    for passed in ["host", "layouts", "kernels::conv2d_wgmma::good", "graph", "doctor"] {
        assert_eq!(status(passed), "0", "{passed}\n{printed}");
    }
    assert_eq!(status("wgmma"), "137");
    assert_eq!(status("kernels::conv2d_wgmma::bad"), "139");
    assert_eq!(status("others"), "101");
    assert_eq!(status("memcheck"), "9");
    // Of the others only the one that did not pass is repeated.
    let names = rehearsal.json("correctness.json", "[name for name in status if 'relu' in name]");
    assert_eq!(names, "['kernels::relu::bad']");
    let message = |name| rehearsal.json("correctness.json", &format!("message['{name}']"));
    assert_eq!(message("wgmma"), "run: stopped after 2 s");
    assert_eq!(message("kernels::conv2d_wgmma::bad"), "error: ended by signal 11");
    assert!(message("kernels::relu::bad").contains("1 is not 2"));
    assert!(message("memcheck").contains("3 errors"));
    let fields = "d['card'], d['driver'], d['torch'], d['warpgroups'], d['doctor'], d['running']";
    let expected = "('NVIDIA H100 80GB HBM3', '580.1', 'torch 2.11.0', 'off', {'verdict': 'well'}, None)";
    assert_eq!(rehearsal.json("correctness.json", &format!("({fields})")), expected);
    // The table comes last, with what went wrong.
    let table = printed.split("exit status\n").last().unwrap();
    assert!(table.contains("    error: ended by signal 11") && table.contains("left out"), "{printed}");
}

#[test]
fn figures_keep_every_row_that_was_whole() {
    // The join has time on a machine that runs other tests beside this one.
    let limits = "conv2d=2 compiled-losses=2 compiled-step=10 join=60";
    let mut rehearsal = rehearsal("figures", "figures", limits);
    let printed = rehearsal.finish(150, 1);
    let files = ["choices.json", "figures.json", "join.md", "logs.tgz", "ncu.csv", "rows.jsonl"];
    assert_eq!(rehearsal.files(), files);
    let status = |name| rehearsal.json("figures.json", &format!("status['{name}']"));
    for passed in ["step", "peer-step", "compiled-step", "norm", "peer-norm", "join"] {
        assert_eq!(status(passed), "0", "{passed}\n{printed}");
    }
    assert_eq!([status("conv2d"), status("peer-conv2d")], ["137", "1"]);
    assert_eq!([status("ncu"), status("compiled-losses")], ["134", "137"]);
    let rows = "sorted((r['op'], r.get('peer', 'ours'), r.get('ms', 'error')) for r in d['rows'])";
    let expected = "[('batch_norm', 'eager', 0.75), ('batch_norm', 'ours', 0.5), ('conv2d', 'eager', 0.5), \
        ('conv2d', 'ours', 0.25), ('copy', 'eager', 'error'), ('training_step', 'compile', 80), \
        ('training_step', 'eager', 100), ('training_step', 'graph', 90), ('training_step', 'ours', 40)]";
    assert_eq!(rehearsal.json("figures.json", rows), expected);
    assert!(rehearsal.json("figures.json", "message['peer-conv2d']").contains("no \\\"memory\\\""));
    let join = fs::read_to_string(rehearsal.out("join.md")).unwrap();
    assert!(join.contains("| 80.000 | 2.00 | compile |") && join.contains("| eager | no \"memory\" |"), "{join}");
    let lines = fs::read_to_string(rehearsal.out("rows.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 9, "{lines}");
    // What is compiled starts before anything is measured.
    let calls = fs::read_to_string(rehearsal.folder.join("calls")).unwrap();
    let first = |text: &str| calls.lines().position(|line| line.contains(text)).unwrap();
    assert!(first("compile_graph") < first("--only ceilings"), "{calls}");
}

#[test]
fn a_call_that_is_killed_leaves_what_it_had() {
    let mut rehearsal = rehearsal("killed", "figures", "");
    rehearsal.run.env("PARTS", "step join");
    let mut child = rehearsal.until_the_first_row();
    child.kill().unwrap();
    child.wait().unwrap();
    let fields = "(d['running'], [r['ms'] for r in d['rows']], status)";
    assert_eq!(rehearsal.json("figures.json", fields), "('step', [40], {'host': 0})");
    assert!(rehearsal.files().len() <= 8);
}

#[test]
fn a_call_that_is_told_to_end_takes_its_processes_along() {
    let mut rehearsal = rehearsal("ended", "figures", "");
    rehearsal.run.env("PARTS", "step join");
    let mut child = rehearsal.until_the_first_row();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(rehearsal.json("figures.json", "(d['running'], len(d['rows']))"), "('step', 1)");
    let pid = fs::read_to_string(rehearsal.folder.join("step.pid")).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    let start = Instant::now();
    while process.exists() {
        assert!(start.elapsed() < Duration::from_secs(5), "{} still runs", process.display());
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_call_without_time_says_what_was_left_out() {
    let mut rehearsal = rehearsal("late", "correctness", "");
    // Five seconds are kept for the end; the host takes the other four.
    rehearsal.run.env("TOTAL_SECONDS", "9").env("VERSION_TAKES", "20").env("PARTS", "layouts wgmma graph");
    rehearsal.finish(30, 1);
    let last = rehearsal.json("correctness.json", "(status['graph'], message['graph'])");
    assert_eq!(last, "(None, 'skipped: no time left')");
}

#[test]
fn a_call_of_which_all_passes_exits_well() {
    let mut rehearsal = rehearsal("well", "correctness", "");
    rehearsal.run.env("PARTS", "layouts doctor");
    rehearsal.finish(30, 0);
    assert_eq!(rehearsal.json("correctness.json", "(d['passed'], d['failed'], d['warpgroups'])"), "(3, 0, 'on')");
}

#[test]
fn wrong_arguments_are_named() {
    for (call, parts, limits, message) in [
        ("measure", "", "", "usage: run.sh correctness|figures"),
        ("figures", "step demo", "", "PARTS names 'demo'"),
        ("figures", "step", "demo=3", "LIMITS says 'demo=3'"),
    ] {
        let mut rehearsal = rehearsal("arguments", call, limits);
        let output = rehearsal.run.env("PARTS", parts).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(printed.contains(message) && printed.lines().count() == 1, "{printed}");
    }
}
