//! Every citation in the repository leads somewhere: `docs/method.md, "Features"` to a heading of that file, `src/lib.rs` to a
//! file. A citation is found in any text, comments and strings included, and may go on in the next line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::common::files_under;

const FOLDERS: [&str; 7] = ["src", "kernels", "tests", "docs", "tools", "benches", "examples"];
const FILES: [&str; 4] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "build.rs"];
const TEXTS: [&str; 9] = ["rs", "cu", "cuh", "cpp", "h", "py", "sh", "md", "toml"];
/// What cited source files end in.
const SOURCES: [&str; 6] = [".rs", ".cu", ".cuh", ".py", ".sh", ".cpp"];
/// Pages that tell of files as they once were.
const HISTORY: [&str; 3] = ["docs/worklog.md", "docs/performance.md", "docs/predictions.md"];
/// Not in the repository: a file that tools/gpu-bundle-run.sh writes.
const WRITTEN: &str = "join.md";
/// Names that stand for any other: those of the instructions to add something.
const EXAMPLES: [&str; 3] = ["NAME", "my_op", "square"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text as one line, without what begins a comment's line.
fn flat(text: &str) -> String {
    let bare = |line: &str| {
        let line = line.trim();
        let comment = ["//!", "///", "//", "# "].iter().find_map(|start| line.strip_prefix(start));
        comment.unwrap_or(line).trim().to_owned()
    };
    text.lines().map(bare).collect::<Vec<_>>().join(" ")
}

/// The headings of a markdown file.
fn headings(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let heading = |line: &str| line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim().to_owned());
    text.lines().filter_map(heading).collect()
}

/// `"A"`, `"A", "B"`, `"A" and "B"` or `"A" to "B"` at the beginning of `rest`, after what closes the file's name.
fn cited_headings(rest: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = rest.trim_start_matches([')', '`']);
    let mut before: &[&str] = &[", \""];
    while let Some(inside) = before.iter().find_map(|start| rest.strip_prefix(start))
        && let Some((heading, after)) = inside.split_once('"')
    {
        found.push(heading);
        (rest, before) = (after, &[", \"", " and \"", " to \""]);
    }
    found
}

/// The file of that name, seen from `folder` or one of those around it.
fn resolve(folder: &Path, name: &str) -> Option<PathBuf> {
    let around = folder.ancestors().take_while(|folder| folder.starts_with(root()));
    around.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// What is wrong with the citations in `text`, the content of `file`.
fn faults(file: &Path, text: &str) -> Vec<String> {
    let folder = file.parent().unwrap();
    // Tests make files up, and these pages tell of files as they once were.
    let cites_no_source = HISTORY.iter().any(|page| file == root().join(page))
        || file.components().any(|part| part.as_os_str() == "tests");
    let text = flat(text);
    let of_name = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let mut faults = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find(of_name).map(|offset| at + offset) {
        let end = text[start..].find(|c| !of_name(c)).map_or(text.len(), |length| start + length);
        at = end;
        let name = text[start..end].trim_end_matches('.');
        let is_page = name.ends_with(".md") && !name.ends_with("/.md") && name != ".md";
        let in_repository = FOLDERS.iter().any(|folder| name.starts_with(&format!("{folder}/")));
        let is_source = in_repository && SOURCES.iter().any(|ending| name.ends_with(ending));
        let is_cited = is_page || (is_source && !cites_no_source);
        if !is_cited || EXAMPLES.iter().any(|example| name.contains(example)) {
            continue;
        }
        let fault = |what: String| format!("{}: {name}{what}", file.strip_prefix(root()).unwrap_or(file).display());
        match resolve(folder, name) {
            None if Path::new(name).ends_with(WRITTEN) => {}
            None => faults.push(fault(" is not in the repository".into())),
            Some(page) if is_page => {
                let known = headings(&page);
                let missing = cited_headings(&text[start + name.len()..]).into_iter();
                let missing = missing.filter(|heading| !known.iter().any(|known| known == heading));
                faults.extend(missing.map(|heading| fault(format!(" has no heading \"{heading}\""))));
            }
            Some(_) => {}
        }
    }
    faults
}

#[test]
fn every_citation_leads_somewhere() {
    let mut files: Vec<PathBuf> = FILES.iter().map(|file| root().join(file)).collect();
    files.extend(FOLDERS.iter().flat_map(|folder| files_under(&root().join(folder), &TEXTS)));
    let faults: Vec<String> = files.iter().flat_map(|file| faults(file, &fs::read_to_string(file).unwrap())).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_wrong_citation_is_found() {
    // Made from parts: this file is searched too.
    let (page, source) = (["docs/method", "md"].join("."), ["src/ops/none", "rs"].join("."));
    let of = |text: &str| faults(&root().join("src/planted.rs"), text);
    assert_eq!(of(&format!("//! The features ({page}, \"Features\").")), [""; 0]);
    assert_eq!(of(&format!("/// {page},\n    /// \"Total\n    /// loss\" and \"Data\"")), [""; 0]);
    assert_eq!(of(&format!("// {page}, \"Feature\"")), [format!("src/planted.rs: {page} has no heading \"Feature\"")]);
    assert_eq!(of(&format!("{page}, \"Features\" to \"Nothing\"")).len(), 1);
    assert_eq!(of(&format!("[here](../{page}), \"Nothing\"")).len(), 1);
    let absent = ["METHOD", "md"].join(".");
    assert_eq!(of(&format!("// {absent}, \"Data\"")), [format!("src/planted.rs: {absent} is not in the repository")]);
    assert_eq!(of(&format!("see {source}.")), [format!("src/planted.rs: {source} is not in the repository")]);
}
