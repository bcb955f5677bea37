//! The words of the field: an idea is called here what CUTLASS, cuDNN and PyTorch call it, so that a reader can search for it.
//! Names that stood for these ideas before must not come back. And kernels are read in 120 columns.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::common::files_under;

const FOLDERS: [&str; 6] = ["src", "kernels", "tests", "benches", "examples", "docs"];
const FILES: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];
const TEXTS: [&str; 4] = ["rs", "cu", "cuh", "md"];
/// The history of the names, and what names them.
const EXEMPT: [&str; 3] = ["docs/worklog.md", "docs/predictions.md", "tests/it/words.rs"];
const COLUMNS: usize = 120;

/// A name that is gone, and the field's.
const NAMES: [(&str, &str); 31] = [
    ("ASKING_REGISTERS", "PRODUCER_REGISTERS"),
    ("Arrivals", "Semaphores"),
    ("Choices", "TuneCache"),
    ("ConvParams", "ConvProblem"),
    ("Demand", "GradientRequest"),
    ("JoinShape", "FixupTile"),
    ("LabelPlaces", "LabelSampling"),
    ("MULTIPLYING_REGISTERS", "CONSUMER_REGISTERS"),
    ("NOTES_BYTES", "SCRATCH_BYTES"),
    ("NormAfter", "BatchNormEpilogue"),
    ("NormBefore", "BatchNormBackwardEpilogue"),
    ("OWN", "PINGPONG"),
    ("PartPlace", "PartialBlock"),
    ("PieceMoments", "BatchNormPartialStats"),
    ("PixelProduct", "PointwiseConv"),
    ("PixelSource", "PixelLoads"),
    ("TapSource", "TapLoads"),
    ("WgmmaProduct", "WgmmaProblem"),
    ("WorkItem", "WorkTile"),
    ("all_finite", "found_inf"),
    ("built_in", "heuristic"),
    ("conv2d_split_sum", "conv2d_split_k_reduce"),
    ("conv2d_window", "conv2d_few_channels"),
    ("fetch_tiles", "produce"),
    ("force_way", "DeviceOptions::config"),
    ("join_parts", "fixup"),
    ("multiply_slices", "mainloop"),
    ("multiply_tiles", "consume"),
    ("set_autotune", "DeviceOptions::autotune"),
    ("set_warpgroup_products", "DeviceOptions::warpgroups"),
    ("so_far", "accumulate"),
];

/// The same of phrases, in any case.
const PHRASES: [(&str, &str); 9] = [
    ("asking warp", "producer warp"),
    ("blocks that stay", "persistent blocks"),
    ("built-in way", "heuristic"),
    ("cut tile", "tile of the tail"),
    ("last round", "last wave"),
    ("that multiplies", "consumer"),
    ("those who multiply", "consumer warpgroups"),
    ("tiles of its own", "pingpong"),
    ("what became of", "what it is"),
];

/// Whether `text` has `name` with nothing of an identifier at either end.
fn has_name(text: &str, name: &str) -> bool {
    let of_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        !before.ends_with(of_name) && !after.starts_with(of_name)
    })
}

/// What is wrong with a line.
fn faults(file: &str, line: &str) -> Vec<String> {
    let names = NAMES.iter().filter(|(name, _)| has_name(line, name));
    let lower = line.to_lowercase();
    let phrases = PHRASES.iter().filter(|(phrase, _)| lower.contains(phrase));
    let mut faults: Vec<String> =
        names.chain(phrases).map(|(old, new)| format!("`{old}` is called {new} in the field")).collect();
    if file.starts_with("kernels/") && line.chars().count() > COLUMNS {
        faults.push(format!("more than {COLUMNS} columns; .clang-format says how to break it"));
    }
    faults
}

#[test]
fn ideas_have_the_names_of_the_field() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = FILES.iter().map(|file| root.join(file)).collect();
    files.extend(FOLDERS.iter().flat_map(|folder| files_under(&root.join(folder), &TEXTS)));
    assert!(files.len() > 200, "the sources are not where they were");
    let mut all = Vec::new();
    for path in files {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        if EXEMPT.contains(&name.as_str()) {
            continue;
        }
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            all.extend(faults(&name, line).into_iter().map(|fault| format!("{name}:{}: {fault}", number + 1)));
        }
    }
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

#[test]
fn a_planted_word_is_found() {
    for (old, new) in NAMES.iter().chain(&PHRASES) {
        let planted = format!("// the {old} here");
        assert_eq!(faults("src/planted.rs", &planted), [format!("`{old}` is called {new} in the field")]);
    }
    assert_eq!(faults("src/planted.rs", "let known = KNOWN + so_far_away;"), [""; 0]);
    assert_eq!(faults("kernels/planted.cu", &"x".repeat(COLUMNS)), [""; 0]);
    assert_eq!(faults("src/planted.rs", &"x".repeat(COLUMNS + 1)), [""; 0]);
    assert!(faults("kernels/planted.cu", &"x".repeat(COLUMNS + 1))[0].contains("120 columns"));
}
