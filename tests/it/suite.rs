//! The shape of the test binaries: no file is left out, none is a binary of its own, and what the GPU bundle runs needs no
//! repository.

use std::{fs, path::Path};

/// Asks for every device with kernels.
const DEVICES: [&str; 3] = ["kernel_devices", "all_devices", "check_devices"];
/// Needs cargo, the repository or the program.
const REPOSITORY: [&str; 4] = ["CARGO_", "OUT_DIR", "common::trainer", "Command::new"];

/// The Rust files of a folder: names and texts.
fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    paths.map(|path| (path.file_stem().unwrap().to_string_lossy().into(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_file_is_in_the_one_binary() {
    for (tests, binary) in [("tests", "it"), ("tools/emulator/tests", "emulator")] {
        let more: Vec<String> = files(tests).into_iter().map(|(name, _)| name).collect();
        let folder = format!("{tests}/{binary}");
        assert!(more.is_empty(), "{tests}: each of {more:?} would be a binary of its own; move them to {folder}");
        let (main, mut others): (Vec<_>, Vec<_>) = files(&folder).into_iter().partition(|(name, _)| name == "main");
        if binary == "it" {
            others.extend(files("tests/it/kernels"));
        }
        for (name, _) in &others {
            let listed = main[0].1.lines().any(|line| line.trim() == format!("mod {name};"));
            assert!(listed, "{folder}/main.rs has no line `mod {name};`");
        }
    }
}

#[test]
fn tests_of_kernels_are_those_that_a_gpu_host_can_run() {
    let has = |text: &str, words: &[&str]| words.iter().any(|word| text.contains(word));
    for (name, text) in files("tests/it").iter().filter(|(name, _)| name != "suite") {
        assert!(
            !has(text, &DEVICES),
            "tests/it/{name}.rs asks for devices with kernels: it belongs in tests/it/kernels"
        );
    }
    for (name, text) in files("tests/it/kernels") {
        assert!(!has(&text, &REPOSITORY), "tests/it/kernels/{name}.rs needs what the GPU bundle does not bring");
    }
}
