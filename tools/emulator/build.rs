//! Compiles the kernels and the emulator's runtime with the C++ compiler into one static library.
//!
//! One object a file, made anew only when the file, a header it includes, or the command changed.

// Objects are linked where they lie, so that nothing is copied here.
#[allow(dead_code)]
#[path = "../shared_folder.rs"]
mod shared_folder;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
    sync::atomic::{AtomicUsize, Ordering},
};

use shared_folder::SharedFolder;

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let root = here.join("../..").canonicalize().unwrap_or_else(|error| fail(&format!("{}: {error}", here.display())));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let here = root.join("tools/emulator");
    let folders = [root.join("kernels"), here.join("src"), here.join("tests/kernels")];
    for folder in &folders {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    for file in ["build.rs", "../shared_folder.rs"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let shared = SharedFolder::open(&out, "emulated-kernels").unwrap_or_else(|error| fail(&error));

    let sources: Vec<PathBuf> = folders.iter().flat_map(|folder| sources(folder)).collect();
    let objects: Vec<PathBuf> = sources.iter().map(|source| object(shared.path(), &root, source)).collect();
    // Optimised in every profile: unoptimised kernels would take hours.
    // Lines alone of the debug information: all of it takes a fifth of the time, and four times the space in every binary.
    let compiler = cc::Build::new().cpp(true).opt_level(2).debug(false).flag("-g1").warnings(false).get_compiler();
    // Kernel files do not depend on each other: as many at once as cargo grants.
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1usize);
    let next = AtomicUsize::new(0);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut failures = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= sources.len() {
                    return failures;
                }
                failures.extend(compile(&compiler, &root, &sources[i], &objects[i]).err());
            }
        };
        let workers: Vec<_> = (0..jobs.clamp(1, sources.len())).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("the worker does not panic")).collect()
    });
    if !failures.is_empty() {
        fail(&failures.join("\n"));
    }

    list_barriers(&out, &root, &folders);
    cc::Build::new().cargo_metadata(false).objects(&objects).compile("bicl_emulated_kernels");
    println!("cargo:rustc-link-search=native={}", out.display());
    // Whole: kernels are found through a table that their own static initialisers fill.
    println!("cargo:rustc-link-lib=static:+whole-archive,-bundle=bicl_emulated_kernels");
    println!("cargo:rustc-link-lib=dylib=stdc++");
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    exit(1);
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).unwrap_or_else(|error| fail(&format!("{}: {error}", folder.display())));
    let mut paths: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "cu" || e == "cpp"));
    paths.sort();
    paths
}

/// Calls that a launch can leave out, as the kernels' text has them.
const BARRIERS: [&str; 18] = [
    "__syncthreads();",
    "__syncwarp();",
    "cp_async_wait<",
    "mbarrier_init_fence();",
    "mbarrier_arrive(",
    "mbarrier_arrive_at(",
    "cluster_sync();",
    "mbarrier_expect(",
    "mbarrier_wait(",
    "tma_store_commit();",
    "tma_store_wait_read<",
    "proxy_fence();",
    "wgmma_fence();",
    "wgmma_commit();",
    "wgmma_wait<",
    "wgmma_operand(",
    "warpgroup_sync(",
    "sync<",
];

/// The headers that define them.
const DEFINING: [&str; 3] = ["hopper.cuh", "hopper_emulated.cuh", "mma.cuh"];

/// Where the kernels' text holds one of [`BARRIERS`], for `barriers_written`: (file, line).
///
/// A call inside a macro has the line of the macro's use when it runs, so it must not stand there. A wrapper that passes
/// its caller's place on (`file_`) is none itself, its callers are.
fn list_barriers(out: &Path, root: &Path, folders: &[PathBuf]) {
    let mut files: Vec<PathBuf> = folders.iter().flat_map(|folder| sources(folder)).collect();
    let include = root.join("kernels/include");
    let headers = fs::read_dir(&include).unwrap_or_else(|error| fail(&format!("{}: {error}", include.display())));
    files.extend(headers.flatten().map(|entry| entry.path()));
    files.retain(|path| path.extension().is_some_and(|e| e == "cu" || e == "cuh"));
    files.retain(|path| !DEFINING.iter().any(|name| path.ends_with(Path::new("include").join(name))));
    files.sort();
    let mut table = String::from("static WRITTEN: &[(&str, u32)] = &[\n");
    for path in files {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())));
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        for (line, code) in emulated_lines(&text) {
            let (code, _) = code.split_once("//").unwrap_or((code, ""));
            if !BARRIERS.iter().any(|call| calls(code, call)) || code.contains("file_") {
                continue;
            }
            if code.trim_end().ends_with('\\') {
                fail(&format!(
                    "{name}:{line}: a barrier in a macro cannot be told from its other uses; put it in a function"
                ));
            }
            table += &format!("    ({name:?}, {line}),\n");
        }
    }
    let path = out.join("barriers.rs");
    fs::write(&path, table + "];\n").unwrap_or_else(|error| fail(&format!("{}: {error}", path.display())));
}

/// Whether the code holds this call, and not one whose name ends like it.
fn calls(code: &str, call: &str) -> bool {
    let part_of_name = |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    code.match_indices(call).any(|(at, _)| !part_of_name(&code[..at]))
}

/// The lines that the emulator compiles, numbered from 1: all but the device's side of `EMU_HOST`.
fn emulated_lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    // For each open conditional: which side of EMU_HOST it is on; None if it asks for something else.
    let mut open: Vec<Option<bool>> = Vec::new();
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let directive = line.trim_start();
        if directive.starts_with("#if") {
            open.push(match directive.split_whitespace().collect::<Vec<_>>()[..] {
                ["#ifdef", "EMU_HOST", ..] => Some(true),
                ["#ifndef", "EMU_HOST", ..] => Some(false),
                _ => None,
            });
        } else if directive.starts_with("#else") {
            if let Some(Some(side)) = open.last_mut() {
                *side = !*side;
            }
        } else if directive.starts_with("#endif") {
            open.pop();
        }
        !open.contains(&Some(false))
    })
}

/// `kernels/conv2d.cu` becomes `FOLDER/kernels-conv2d.cu.o`.
fn object(folder: &Path, root: &Path, source: &Path) -> PathBuf {
    let relative = source.strip_prefix(root).unwrap_or(source).to_string_lossy().replace('/', "-");
    folder.join(relative + ".o")
}

fn command(compiler: &cc::Tool, root: &Path, source: &Path, object: &Path) -> Command {
    let mut command = compiler.to_command();
    // No contraction: results do not depend on whether the host has fused multiply-add.
    command.args(["-std=c++20", "-ffp-contract=off", "-ftls-model=initial-exec"]);
    command.arg(format!("-fmacro-prefix-map={}/=", root.display()));
    command.arg("-I").arg(root.join("tools/emulator/src")).arg("-I").arg(root.join("kernels/include"));
    if source.extension().is_some_and(|e| e == "cu") {
        command.args(["-x", "c++", "-include", "cuda_host.h"]);
    }
    command.arg("-MMD").arg("-MF").arg(object.with_extension("d"));
    command.arg("-c").arg(source).arg("-o").arg(object);
    command
}

fn compile(compiler: &cc::Tool, root: &Path, source: &Path, object: &Path) -> Result<(), String> {
    let mut command = command(compiler, root, source, object);
    let record = object.with_extension("command");
    let text = format!("{command:?}");
    if fs::read_to_string(&record).is_ok_and(|old| old == text) && up_to_date(object) {
        return Ok(());
    }
    let _ = fs::remove_file(&record);
    let run = command.output().map_err(|error| {
        format!("{:?}: {error}; the emulator needs a C++20 compiler, named by CXX", command.get_program())
    })?;
    if !run.status.success() {
        let log = String::from_utf8_lossy(&run.stderr);
        return Err(format!("{} does not compile for the emulator:\n{log}", source.display()));
    }
    fs::write(&record, text).map_err(|error| format!("{}: {error}", record.display()))
}

/// Whether the object is newer than all that its dependency file lists.
fn up_to_date(object: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let (Some(made), Ok(rule)) = (modified(object), fs::read_to_string(object.with_extension("d"))) else {
        return false;
    };
    let Some((_, listed)) = rule.split_once(": ") else { return false };
    listed
        .split_whitespace()
        .filter(|word| *word != "\\")
        .all(|path| modified(Path::new(path)).is_some_and(|changed| changed < made))
}
