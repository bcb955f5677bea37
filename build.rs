//! Compiles `kernels/*.cu` with nvcc, where there is one, and lists the kernels that the operations declare.

#[path = "tools/shared_folder.rs"]
mod shared_folder;

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::SystemTime,
};

use shared_folder::SharedFolder;

fn main() {
    for path in ["build.rs", "tools/shared_folder.rs", "kernels", "src/ops", ".cuda"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in ["NVCC", "CUDA_HOME", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    list_declarations(&out);
    match find_nvcc() {
        Some(nvcc) => compile_all(&nvcc, &out),
        None if env::var_os("CARGO_FEATURE_REQUIRE_NVCC").is_some() => {
            fail("feature require-nvcc: no nvcc in NVCC, CUDA_HOME, PATH or .cuda; run tools/setup-cuda.sh")
        }
        None => {
            println!("cargo:warning=no nvcc found: built without GPU kernels (tools/setup-cuda.sh installs one)");
            write(&out.join("images.rs"), &images("", &[]));
        }
    }
}

fn fail(message: &str) -> ! {
    println!("cargo:warning={}", message.replace('\n', " | "));
    eprintln!("{message}");
    std::process::exit(1);
}

fn write(path: &Path, text: &str) {
    if let Err(error) = fs::write(path, text) {
        fail(&format!("{}: {error}", path.display()));
    }
}

/// Entries of a folder, sorted, so that builds do not depend on the file system's order.
fn entries(folder: &str) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).unwrap_or_else(|error| fail(&format!("{folder}: {error}")));
    let mut paths: Vec<_> = listed.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Every `src/ops/NAME/cuda.rs` declares kernels; tests/it/abi.rs holds them all against the compiled PTX.
fn list_declarations(out: &Path) {
    let mut text = String::from("fn declarations_of_ops() -> Vec<Declaration> {\n    let mut all = Vec::new();\n");
    for folder in entries("src/ops").iter().filter(|folder| folder.join("cuda.rs").is_file()) {
        text += &format!("    all.extend({}::cuda::declarations());\n", stem(folder));
    }
    text += "    all\n}\n";
    write(&out.join("declarations.rs"), &text);
}

fn find_nvcc() -> Option<PathBuf> {
    let mut candidates = Vec::new();
    candidates.extend(env::var_os("NVCC").map(PathBuf::from));
    candidates.extend(env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc")));
    candidates.push("nvcc".into());
    candidates.push(Path::new(&env::var_os("CARGO_MANIFEST_DIR")?).join(".cuda/bin/nvcc"));
    let works = |nvcc: &PathBuf| Command::new(nvcc).arg("--version").output().is_ok_and(|run| run.status.success());
    candidates.into_iter().find(works)
}

fn compile_all(nvcc: &Path, out: &Path) {
    let sources: Vec<_> =
        entries("kernels").into_iter().filter(|path| path.extension().is_some_and(|e| e == "cu")).collect();
    let folder = SharedFolder::open(out, "kernels").unwrap_or_else(|error| fail(&error));
    // Six times smaller than by default; what binaries weigh is mostly their kernels' debug lines. Needs nvcc 12.8.
    let help = Command::new(nvcc).arg("--help").output();
    let small = help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--compress-mode"));
    // What a build makes depends on the sources and on the compiler alone, which its version names.
    let release = Command::new(nvcc).arg("--version").output().map(|run| run.stdout).unwrap_or_default();
    let release = String::from_utf8_lossy(&release);
    let version = format!("{}\n{release}", nvcc.display());
    // Kernel files do not depend on each other: as many at once as there are cores, the longest first.
    let jobs: usize = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let length = |path: &PathBuf| fs::metadata(path).map_or(0, |about| about.len());
    let mut longest_first = sources.clone();
    longest_first.sort_by_key(|path| Reverse(length(path)));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, longest_first.len().max(1)) {
            scope.spawn(|| {
                while let Some(source) = longest_first.get(next.fetch_add(1, Ordering::Relaxed)) {
                    compile(nvcc, &version, source, folder.path(), small);
                }
            });
        }
    });
    for name in sources.iter().map(|source| stem(source)) {
        for suffix in ["fatbin", "ptx"] {
            folder.copy(&format!("{name}.{suffix}"), out).unwrap_or_else(|error| fail(&error));
        }
    }
    let entry = |source: &PathBuf| {
        let name = stem(source);
        let (image, architectures) = (out.join(format!("{name}.fatbin")), targets(&name).map(|(_, code)| code));
        let architectures: Vec<&str> = architectures.collect();
        format!(
            "    Image {{ name: {name:?}, architectures: &{architectures:?}, bytes: include_bytes!({image:?}) }},\n"
        )
    };
    // "Cuda compilation tools, release 13.0, V13.0.88".
    let release = release.split("release ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("unknown");
    write(&out.join("images.rs"), &images(release, &sources.iter().map(entry).collect::<Vec<_>>()));
}

/// The text that src/device/images.rs includes.
fn images(release: &str, entries: &[String]) -> String {
    format!(
        "/// Every kernel file, compiled; none without nvcc.\npub static IMAGES: &[Image] = &[\n{}];\n\
         /// The nvcc that compiled them, `13.0`; empty without one.\npub static NVCC_RELEASE: &str = {release:?};\n",
        entries.concat()
    )
}

/// The virtual and the real architectures that a kernel file is compiled for; where both are virtual, it is PTX.
fn targets(name: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    const EVERY: [(&str, &str); 3] = [("compute_80", "sm_80"), ("compute_90a", "sm_90a"), ("compute_80", "compute_80")];
    let hopper_alone = name.ends_with("_sm90");
    EVERY.into_iter().filter(move |(_, code)| !hopper_alone || *code == "sm_90a")
}

/// The text of a source and of all that it includes of ours, each once.
fn with_includes(source: &Path, seen: &mut BTreeMap<PathBuf, String>) {
    if seen.contains_key(source) {
        return;
    }
    let text = fs::read_to_string(source).unwrap_or_else(|error| fail(&format!("{}: {error}", source.display())));
    let names: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("#include \"")?.split_once('"'))
        .map(|(name, _)| Path::new("kernels/include").join(name))
        .collect();
    seen.insert(source.to_owned(), text);
    for include in names.iter().filter(|path| path.is_file()) {
        with_includes(include, seen);
    }
}

fn compile(nvcc: &Path, version: &str, source: &Path, out: &Path, small: bool) {
    let name = stem(source);
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "-std=c++17", "-O3", "-lineinfo", "-Xptxas=-v", "-Ikernels/include"]);
    command.args(targets(&name).map(|(arch, code)| format!("-gencode=arch={arch},code={code}")));
    command.args(small.then_some("-compress-mode=size"));
    command.arg("-o").arg(out.join(format!("{name}.fatbin"))).arg(source);
    // What was made from the same text with the same arguments is good still: a change of one kernel does not compile them all.
    let mut texts = BTreeMap::new();
    with_includes(source, &mut texts);
    let made_of = format!("{version}\n{command:?}\n{texts:?}");
    let stamp = out.join(format!("{name}.made-of"));
    let report = out.join(format!("{name}.ptxas"));
    if fs::read_to_string(&stamp).is_ok_and(|known| known == made_of) {
        // tools/ptxas-table.sh goes by the times of files, which a checkout renews.
        let _ = fs::File::options().append(true).open(&report).and_then(|file| file.set_modified(SystemTime::now()));
        return;
    }
    let _ = fs::remove_file(&stamp);
    // The PTX is on the way to the fatbin anyway; tests/it/abi.rs reads the kernels' parameters from it.
    let kept = out.join(format!("{name}.keep"));
    fs::create_dir_all(&kept).unwrap_or_else(|error| fail(&format!("{}: {error}", kept.display())));
    command.arg("-keep").arg("-keep-dir").arg(&kept);
    let run = command.output().unwrap_or_else(|error| fail(&format!("{}: {error}", nvcc.display())));
    let log = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() {
        fail(&format!("nvcc {} failed:\n{log}", source.display()));
    }
    // Of several targets each has a name of its own.
    let ptx =
        kept.join(if targets(&name).count() == 1 { format!("{name}.ptx") } else { format!("{name}.compute_80.ptx") });
    if let Err(error) = fs::copy(&ptx, out.join(format!("{name}.ptx"))) {
        fail(&format!("{}: {error}", ptx.display()));
    }
    // Only a saving of space: the next build writes the folder again.
    let _ = fs::remove_dir_all(&kept);
    // Registers, spills and shared memory of every kernel, for tools/ptxas-table.sh.
    write(&report, &log);
    write(&stamp, &made_of);
}
