//! Circles between the files of src.
//!
//! The rule: of the modules inside one module (files, or folders with all that is in them), none may import from another that
//! directly or by way of further ones imports from it. A module and those inside it may import from each other: `mod.rs` says
//! what its parts share, and puts them together. A name that a module re-exports counts for the file that defines it, so no
//! circle hides behind a re-export. Imports are `use` declarations and paths in the code; those of `#[cfg(test)]` modules
//! do not count, for they are no part of the program.

use std::collections::{BTreeMap, BTreeSet};

use super::code_of;

/// The names from the root of the crate to a module or an item.
type Path = Vec<String>;

/// What a file says about other files.
#[derive(Default)]
struct Module {
    /// By the name that it has here, what `use` brings in.
    names: BTreeMap<String, Path>,
    /// All paths of the file as they are written, with the number of inline modules around each.
    paths: Vec<(Path, usize)>,
}

/// Identifiers, `::`, and other characters one by one.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = if word > 0 {
            word
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The paths of a `use` declaration from token `i` on, each with the name that it gives; where it ends.
fn use_tree<'a>(tokens: &[&'a str], mut i: usize, mut path: Vec<&'a str>, all: &mut Vec<(Path, String)>) -> usize {
    let owned = |path: &[&str]| path.iter().map(|name| (*name).to_owned()).collect::<Path>();
    while i < tokens.len() {
        match tokens[i] {
            "::" => i += 1,
            "{" => {
                i += 1;
                while i < tokens.len() && tokens[i] != "}" {
                    let next = use_tree(tokens, i, path.clone(), all);
                    // On in any case, over the comma or what no declaration has.
                    i = next + usize::from(next == i || tokens.get(next) == Some(&","));
                }
                return i + 1;
            }
            "*" => {
                path.push("*");
                all.push((owned(&path), "*".to_owned()));
                return i + 1;
            }
            "self" if !path.is_empty() => i += 1,
            name if is_name(name) && name != "as" => {
                path.push(name);
                i += 1;
            }
            _ => break,
        }
    }
    let renamed = tokens.get(i) == Some(&"as");
    let name = if renamed { tokens.get(i + 1) } else { path.last() };
    all.push((owned(&path), (*name.unwrap_or(&"_")).to_owned()));
    if renamed { i + 2 } else { i }
}

/// The token after the block that token `i` opens.
fn after_block(tokens: &[&str], i: usize) -> usize {
    let mut depth = 0;
    for (k, token) in tokens.iter().enumerate().skip(i) {
        match *token {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return k + 1;
        }
    }
    tokens.len()
}

impl Module {
    fn read(text: &str) -> Self {
        let code = code_of(text);
        let tokens = tokens(&code);
        let mut module = Self::default();
        let (mut i, mut depth, mut inline) = (0, 0, Vec::new());
        while i < tokens.len() {
            let before = if i > 0 { tokens[i - 1] } else { "" };
            match tokens[i] {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    inline.pop_if(|opened| *opened == depth);
                }
                "mod" if tokens.get(i + 2) == Some(&"{") => {
                    if tokens[..i].ends_with(&["#", "[", "cfg", "(", "test", ")", "]"]) {
                        i = after_block(&tokens, i + 2);
                        continue;
                    }
                    inline.push(depth);
                }
                "use" => {
                    let mut all = Vec::new();
                    i = use_tree(&tokens, i + 1, Vec::new(), &mut all);
                    for (path, name) in all {
                        module.paths.push((path.clone(), inline.len()));
                        if inline.is_empty() {
                            module.names.insert(name, path);
                        }
                    }
                    continue;
                }
                name if is_name(name) && !["::", "."].contains(&before) && tokens.get(i + 1) == Some(&"::") => {
                    let mut path = vec![name.to_owned()];
                    while tokens.get(i + 1) == Some(&"::") && tokens.get(i + 2).is_some_and(|name| is_name(name)) {
                        path.push(tokens[i + 2].to_owned());
                        i += 2;
                    }
                    module.paths.push((path, inline.len()));
                }
                _ => {}
            }
            i += 1;
        }
        module
    }
}

/// The modules of a crate, by their paths.
struct Crate {
    modules: BTreeMap<Path, Module>,
    /// Macros that stand at the root wherever they are defined, and where that is.
    macros: BTreeMap<String, Path>,
}

/// `src/ops/relu/mod.rs` is the module ops::relu.
fn module_of(file: &str) -> Path {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    let path = path.trim_end_matches("/mod");
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

impl Crate {
    /// From names and texts of files.
    fn new(files: &[(String, String)]) -> Self {
        let (mut modules, mut macros) = (BTreeMap::new(), BTreeMap::new());
        // The program is a crate of its own.
        for (file, text) in files.iter().filter(|(file, _)| !file.starts_with("src/bin/")) {
            let code = code_of(text);
            for exported in code.split("#[macro_export]").skip(1) {
                let name = exported.trim_start().trim_start_matches("macro_rules!").trim_start();
                let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
                macros.insert(name[..end].to_owned(), module_of(file));
            }
            modules.insert(module_of(file), Module::read(text));
        }
        Self { modules, macros }
    }

    /// The module in whose file lies what `path`, written in `from`, names; none where that is another crate.
    fn find(&self, from: &Path, path: &[String], inline: usize, depth: usize) -> Option<Path> {
        let (first, mut rest) = path.split_first()?;
        // Names of names: a circle of them, which does not compile, ends somewhere.
        if depth > 20 {
            return None;
        }
        let mut at = match first.as_str() {
            "crate" => Vec::new(),
            "self" => from.clone(),
            "super" => {
                // Each inline module is one step that stays in the file.
                let mut steps = 1;
                while rest.first().is_some_and(|name| name == "super") {
                    (steps, rest) = (steps + 1, &rest[1..]);
                }
                from[..from.len().saturating_sub(usize::saturating_sub(steps, inline))].to_vec()
            }
            name => {
                let below = self.modules.contains_key(&[from.as_slice(), &[name.to_owned()]].concat());
                if !below && !self.modules.get(from)?.names.contains_key(name) {
                    return None;
                }
                rest = path;
                from.clone()
            }
        };
        while let Some((name, after)) = rest.split_first() {
            let below = [at.as_slice(), std::slice::from_ref(name)].concat();
            if self.modules.contains_key(&below) {
                (at, rest) = (below, after);
            } else if let Some(target) = self.modules.get(&at)?.names.get(name) {
                let whole = [target.as_slice(), after].concat();
                // What it brings in by the same name, as `use half::bf16`, is of another crate.
                return if whole == path { None } else { self.find(&at, &whole, 0, depth + 1) };
            } else if let (true, Some(home)) = (at.is_empty(), self.macros.get(name)) {
                return Some(home.clone());
            } else {
                break;
            }
        }
        Some(at)
    }

    /// For each module, which of those beside it those in it import, and one such import in words.
    fn imports(&self) -> BTreeMap<Path, BTreeMap<Path, String>> {
        let mut imports: BTreeMap<Path, BTreeMap<Path, String>> = BTreeMap::new();
        for (from, module) in &self.modules {
            for (path, inline) in &module.paths {
                let Some(to) = self.find(from, path, *inline, 0) else { continue };
                let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                // Above, below or itself.
                if shared == from.len() || shared == to.len() {
                    continue;
                }
                let words = format!("{} names {}, of {}", from.join("::"), path.join("::"), to.join("::"));
                let own = imports.entry(from[..=shared].to_vec()).or_default();
                own.entry(to[..=shared].to_vec()).or_insert(words);
            }
        }
        imports
    }
}

/// Every circle by one import after the other; those that share an import with one before are left out.
pub fn circles(files: &[(String, String)]) -> Vec<String> {
    let imports = Crate::new(files).imports();
    let (mut found, mut done) = (Vec::new(), BTreeSet::new());
    for start in imports.keys() {
        // The shortest way back to where it began: breadth first.
        let mut ways = vec![vec![start]];
        let mut seen = BTreeSet::new();
        let mut next = 0;
        while next < ways.len() {
            let way = ways[next].clone();
            next += 1;
            for to in imports.get(way[way.len() - 1]).into_iter().flat_map(|own| own.keys()) {
                if to == start {
                    let steps = way.iter().zip(way.iter().skip(1).copied().chain([start]));
                    let steps: Vec<&str> = steps.map(|(a, b)| imports[*a][b].as_str()).collect();
                    if steps.iter().all(|step| done.insert((*step).to_owned())) {
                        found.push(steps.join("; "));
                    }
                    next = ways.len();
                    break;
                }
                if seen.insert(to) {
                    ways.push([way.as_slice(), &[to]].concat());
                }
            }
        }
    }
    found
}
