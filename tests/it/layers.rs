//! The rules of the house that a compiler does not check: imports go one way and in no circle, only src/device names cudarc,
//! `unsafe` stays where it belongs and says why it is sound, files stay short.

mod circles;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::common::files_under;

/// A module imports only from those before it.
const LAYERS: [&str; 12] =
    ["dtype", "device", "tensor", "autograd", "ops", "nn", "models", "adapt", "data", "train", "doctor", "cli"];
/// What `data` may not import, though it comes later: it knows files and images, not networks.
const NOT_IN_DATA: [&str; 4] = ["ops", "nn", "models", "adapt"];
const LONGEST: usize = 450;
/// Lines before an `unsafe` in which its SAFETY comment must stand.
const NEAR: usize = 16;

/// The layer of a name under `crate::`; `None` for what is free for all (errors).
fn layer_of(name: &str) -> Option<Result<usize, String>> {
    let home = match name {
        "error" | "Error" | "Result" => return None,
        "DType" => "dtype",
        "Device" => "device",
        "Tensor" | "kernels" | "with_float" | "with_real" => "tensor",
        other => other,
    };
    Some(LAYERS.iter().position(|layer| *layer == home).ok_or_else(|| format!("crate::{name} is in no layer")))
}

/// The text with comments, strings and characters blanked out; lines stay.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let blank =
        |code: &mut String, part: &[char]| part.iter().for_each(|c| code.push(if *c == '\n' { '\n' } else { ' ' }));
    let mut i = 0;
    while i < chars.len() {
        let rest = &chars[i..];
        let end = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => {
                (2..rest.len()).find(|&k| rest[k - 1..=k] == ['*', '/'] && k > 2).map_or(rest.len(), |k| k + 1)
            }
            ['r', '"' | '#', ..] if i == 0 || !(chars[i - 1].is_alphanumeric() || chars[i - 1] == '_') => {
                let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
                let open = 2 + hashes;
                let closes = |k: usize| {
                    rest[k] == '"' && rest[k + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
                };
                match rest.get(1 + hashes) {
                    Some('"') => (open..rest.len()).find(|&k| closes(k)).map_or(rest.len(), |k| k + 1 + hashes),
                    _ => 0,
                }
            }
            ['"', ..] => {
                let mut k = 1;
                while k < rest.len() && rest[k] != '"' {
                    k += if rest[k] == '\\' { 2 } else { 1 };
                }
                (k + 1).min(rest.len())
            }
            // A character, not a lifetime.
            ['\'', '\\', _, ..] => rest[3..].iter().position(|c| *c == '\'').map_or(0, |k| k + 4),
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        match end {
            0 => {
                code.push(chars[i]);
                i += 1;
            }
            end => {
                blank(&mut code, &rest[..end]);
                i += end;
            }
        }
    }
    code
}

/// The first names of all paths that begin with `crate::`, those in braces included.
fn imports_of(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(inside) = rest.trim_start().strip_prefix('{') else {
            names.push(first_name(rest));
            continue;
        };
        // `{a::{b, c}, d}`: what follows the brace or a comma of the first level.
        let (mut depth, mut start) = (1, 0);
        for (k, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 || (depth == 1 && c == ',') {
                names.push(first_name(&inside[start..k]));
                start = k + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn first_name(path: &str) -> String {
    path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether `unsafe` may occur in this file: devices, launches, and the vector code of operations.
fn may_be_unsafe(path: &str) -> bool {
    let in_ops = path.starts_with("src/ops/");
    let microkernel =
        in_ops && ["simd.rs", "tile.rs", "product.rs", "math.rs", "cpu.rs"].iter().any(|end| path.ends_with(end));
    path.starts_with("src/device/")
        || ["src/tensor/launch.rs", "src/tensor/elementwise.rs", "src/doctor/layouts/cuda.rs"].contains(&path)
        || (in_ops && (path.ends_with("/cuda.rs") || path.contains("/cuda/")))
        || microkernel
}

/// Everything in a file that breaks a rule. `path` is relative to the repository's root.
fn broken_rules(path: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let mut broken = Vec::new();
    let mut report = |what: String| broken.push(format!("{path}: {what}"));

    let top = path.trim_start_matches("src/").split('/').next().unwrap_or("").trim_end_matches(".rs");
    // lib.rs lists the modules, error.rs serves all but knows the first alone, the binary calls the library from outside.
    if !["lib", "bin"].contains(&top) {
        match LAYERS.iter().position(|layer| *layer == if top == "error" { LAYERS[0] } else { top }) {
            None => report(format!("module {top} is in no layer")),
            Some(own) => {
                for name in imports_of(&code) {
                    match layer_of(&name) {
                        None => {}
                        Some(Err(message)) => report(message),
                        Some(Ok(other)) if other > own => report(format!("{top} imports {}", LAYERS[other])),
                        Some(Ok(other)) if top == "data" && NOT_IN_DATA.contains(&LAYERS[other]) => {
                            report(format!("data imports {}", LAYERS[other]))
                        }
                        Some(Ok(_)) => {}
                    }
                }
            }
        }
    }

    let words = |line: &str, word: &str| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|candidate| candidate == word)
    };
    if top != "device" && words(&code, "cudarc") {
        report("names cudarc, which only src/device may".into());
    }
    let lines: Vec<&str> = text.lines().collect();
    for (i, line) in code.lines().enumerate().filter(|(_, line)| words(line, "unsafe")) {
        if !may_be_unsafe(path) {
            report(format!("line {}: unsafe outside devices, launches and vector code", i + 1));
        }
        // A block or an implementation states why it is sound; a function hands the duty to its callers.
        let is_claim = line.contains("unsafe {") || line.contains("unsafe impl");
        let nearby = &lines[i.saturating_sub(NEAR)..=i];
        if is_claim && !nearby.iter().any(|line| line.contains("SAFETY")) {
            report(format!("line {}: unsafe without a SAFETY comment", i + 1));
        }
    }
    if lines.len() > LONGEST {
        report(format!("{} lines; split what is longer than {LONGEST}", lines.len()));
    }
    broken
}

/// Names, relative to the repository's root, and texts of all files of src.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = files_under(&root.join("src"), &["rs"]);
    assert!(files.len() > 20, "the sources are not where they were");
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        (name, fs::read_to_string(path).unwrap())
    };
    files.iter().map(read).collect()
}

#[test]
fn the_rules_hold() {
    let broken: Vec<String> = sources().iter().flat_map(|(name, text)| broken_rules(name, text)).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn no_circle_of_imports() {
    let circles = circles::circles(&sources());
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

/// `check_barriers` proves that the loss of any barrier of a file shows; each file that has one must ask for it.
#[test]
fn every_kernel_file_with_a_barrier_is_checked() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["tests", "tools/emulator/tests"];
    let mut tests: Vec<PathBuf> = folders.iter().flat_map(|folder| files_under(&root.join(folder), &["rs"])).collect();
    // This file names what it looks for.
    tests.retain(|path| !path.ends_with("layers.rs"));
    let read = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
    let checks: Vec<String> = tests.iter().map(read).filter(|text| text.contains("check_barriers")).collect();
    let mut files: Vec<&str> = bicl_emulator::barriers_written().iter().map(|(file, _)| *file).collect();
    files.dedup();
    assert!(files.contains(&"kernels/include/dev.cuh"), "{files:?}");
    for file in files.iter().filter(|file| file.starts_with("kernels/")) {
        let literal = format!("\"{file}\"");
        assert!(checks.iter().any(|text| text.contains(&literal)), "no test calls check_barriers({literal}, ..)");
    }
}

#[test]
fn the_checker_can_fail() {
    let broken = |path: &str, text: &str| broken_rules(path, text).join("\n");
    let clean = [
        ("src/nn/layers.rs", "use crate::{Result, autograd::{Tape, Var}, ops::{self, relu}};"),
        ("src/tensor/dtype.rs", "use crate::{Error, Device, device::Launch};"),
        ("src/train/run.rs", "use crate::{adapt::pairs, data};\nfn f() { crate::models::x(); }"),
        (
            "src/ops/relu/mod.rs",
            "// crate::train, unsafe and cudarc in a comment\nconst A: &str = \"crate::cli unsafe\";",
        ),
        ("src/ops/relu/mod.rs", "const A: &str = r#\"crate::cli \" unsafe\"#; fn f<'a>(c: char) -> bool { c == '\"' }"),
        ("src/ops/relu/cuda.rs", "// SAFETY: sound.\nunsafe { f() }"),
        ("src/device/cuda.rs", "use cudarc::driver;"),
    ];
    for (path, text) in clean {
        assert_eq!(broken(path, text), "", "{text}");
    }
    let dirty = [
        ("src/tensor/mod.rs", "use crate::ops;", "tensor imports ops"),
        ("src/error.rs", "use crate::tensor::Tensor;", "error imports tensor"),
        ("src/ops/relu/mod.rs", "use crate::{Error, nn::{self}};", "ops imports nn"),
        (
            "src/ops/relu/mod.rs",
            "use crate::{\n    autograd::{Tape, Var},\n    train::Config,\n};",
            "ops imports train",
        ),
        ("src/device/pool.rs", "fn f(x: &crate::Tensor) {}", "device imports tensor"),
        ("src/ops/relu/mod.rs", "fn f() { let c = '\"'; crate::cli::run(); }", "ops imports cli"),
        ("src/train/run.rs", "use crate::doctor::Check;", "train imports doctor"),
        ("src/data/loader.rs", "use crate::{nn::Forward, tensor::Tensor};", "data imports nn"),
        ("src/data/loader.rs", "use crate::adapt::pairs;", "data imports adapt"),
        ("src/misc/mod.rs", "", "module misc is in no layer"),
        ("src/nn/mod.rs", "use crate::misc::x;", "crate::misc is in no layer"),
        ("src/ops/relu/cuda.rs", "use cudarc::driver;", "names cudarc"),
        ("src/nn/mod.rs", "// SAFETY: sound.\nunsafe { f() }", "unsafe outside"),
        ("src/ops/relu/cuda.rs", "unsafe { f() }", "without a SAFETY comment"),
        ("src/nn/mod.rs", &"//\n".repeat(LONGEST + 1), "451 lines"),
    ];
    for (path, text, want) in dirty {
        assert!(broken(path, text).contains(want), "{text}: {:?} does not say {want}", broken(path, text));
    }
}

#[test]
fn planted_circles_are_found() {
    let found = |planted: &[(&str, &str)]| {
        // The layout of the house: an op's mod.rs shares names with its files, and re-exports what others use.
        let clean = [
            ("src/lib.rs", "pub mod ops;\npub mod device;\npub use device::Device;"),
            (
                "src/device/mod.rs",
                "mod buffer;\npub use buffer::Buffer;\npub struct Device;\n#[macro_export]\nmacro_rules! run {}",
            ),
            ("src/device/buffer.rs", "use super::Device;"),
            ("src/ops/mod.rs", "pub mod add;\npub mod relu;\npub use relu::{Mask, relu};"),
            (
                "src/ops/relu/mod.rs",
                "mod cpu;\npub use cpu::Mask;\nconst OP: u8 = 0;\npub fn relu() { cpu::forward() }",
            ),
            (
                "src/ops/relu/cpu.rs",
                "use super::OP; // crate::ops::add::add\nuse crate::{Device, device::Buffer, run};",
            ),
            ("src/ops/add/mod.rs", "use super::Mask;\nuse crate::ops::relu as other;\npub fn add() { other::relu() }"),
        ];
        let replaced = |file: &str| planted.iter().any(|(other, _)| *other == file);
        let files = clean.iter().filter(|(file, _)| !replaced(file)).chain(planted);
        circles::circles(&files.map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect::<Vec<_>>())
    };
    assert_eq!(found(&[]), [""; 0]);
    let dirty: [(&[(&str, &str)], &str); 8] = [
        (&[("src/ops/relu/cpu.rs", "use crate::ops::add;")], "ops::relu::cpu names crate::ops::add, of ops::add"),
        (
            &[("src/ops/relu/cpu.rs", "fn f() { super::super::add::add() }")],
            "names super::super::add::add, of ops::add",
        ),
        // Through the re-export of another module, whose file is not in the circle.
        (
            &[("src/device/buffer.rs", "use crate::ops::Mask;")],
            "device::buffer names crate::ops::Mask, of ops::relu::cpu",
        ),
        (&[("src/device/buffer.rs", "use crate::{ops::{self}, Error};")], "device::buffer names crate::ops, of ops"),
        (
            &[("src/ops/relu/cpu.rs", "use crate::ops as all;\nfn f() { all::add::add() }")],
            "names all::add::add, of ops::add",
        ),
        // Between the files of one folder, by way of a third.
        (
            &[
                ("src/ops/relu/cpu.rs", "use super::gpu::A;\npub struct Mask;"),
                ("src/ops/relu/gpu.rs", "use crate::ops::relu::tile::{A as B, self};"),
                ("src/ops/relu/tile.rs", "fn f(mask: super::Mask) {}"),
            ],
            "ops::relu::gpu names crate::ops::relu::tile",
        ),
        (
            &[
                ("src/device/buffer.rs", "use super::pool;"),
                ("src/device/pool.rs", "mod inner { use super::super::Buffer; }"),
            ],
            "device::pool names super::super::Buffer, of device::buffer",
        ),
        (
            &[("src/tensor.rs", "use crate::run;"), ("src/device/buffer.rs", "use crate::tensor::T;")],
            "tensor names crate::run",
        ),
    ];
    for (planted, want) in dirty {
        let found = found(planted).join("\n");
        assert!(found.contains(want), "{planted:?}: {found:?} does not say {want}");
    }
    let tests =
        "use super::OP;\n#[cfg(test)]\nmod tests { use crate::ops::add; fn f() { add::add() } }\npub struct Mask;";
    assert_eq!(found(&[("src/ops/relu/cpu.rs", tests)]), [""; 0], "tests are no part of the program");
}
