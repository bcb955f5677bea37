//! What the Rust code passes to a kernel against what the compiled kernel takes, without a GPU: symbols, and the number
//! and sizes of the parameters as the PTX states them.
//!
//! Needs nvcc when the library is built; else prints `skipped: no nvcc`, which REQUIRE_NVCC=1 makes a failure.

use std::{collections::BTreeMap, path::Path};

use bicl::{device::IMAGES, doctor::kernel_declarations, tensor::Declaration};

/// Kernels by symbol, with the sizes of their parameters in bytes.
type Kernels = BTreeMap<String, Vec<usize>>;

/// The entries of a PTX file. An entry is `.visible .entry NAME(` and a line for each parameter, such as
/// `.param .u64 NAME_param_0,` or `.param .align 8 .b8 NAME_param_1[24]`, up to `)`.
fn entries(ptx: &str) -> Result<Kernels, String> {
    let mut kernels = Kernels::new();
    for entry in ptx.split(".visible .entry ").skip(1) {
        let (symbol, rest) = entry.split_once('(').ok_or("an entry without parameters")?;
        let (parameters, _) = rest.split_once(')').ok_or("an entry that does not end")?;
        let sizes: Result<_, String> =
            parameters.split(',').map(str::trim).filter(|line| !line.is_empty()).map(size).collect();
        kernels.insert(symbol.trim().to_owned(), sizes?);
    }
    Ok(kernels)
}

/// Bytes of one `.param` line.
fn size(line: &str) -> Result<usize, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let kind = words.iter().find(|word| {
        let digits = word.trim_start_matches(['.', 'u', 's', 'b', 'f']);
        word.starts_with('.') && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    let bits = kind.and_then(|kind| kind[2..].parse::<usize>().ok()).ok_or_else(|| format!("no type in {line:?}"))?;
    let count = match line.split_once('[') {
        Some((_, count)) => count.trim_end_matches(']').parse().map_err(|_| format!("no extent in {line:?}"))?,
        None => 1,
    };
    Ok(bits / 8 * count)
}

/// All that differs between the declarations and the kernels of one image.
fn differences(image: &str, declared: &[Declaration], compiled: &Kernels) -> Vec<String> {
    let mut found = Vec::new();
    for declaration in declared {
        match compiled.get(declaration.symbol) {
            None => found.push(format!("{image}: {} is declared, but not compiled", declaration.symbol)),
            Some(sizes) if *sizes != declaration.sizes => found.push(format!(
                "{image}: {} takes parameters of {sizes:?} bytes, declared are {:?}",
                declaration.symbol, declaration.sizes
            )),
            Some(_) => {}
        }
    }
    let is_declared = |symbol: &&String| declared.iter().any(|declaration| declaration.symbol == **symbol);
    let undeclared = compiled.keys().filter(|symbol| !is_declared(symbol));
    found.extend(undeclared.map(|symbol| format!("{image}: {symbol} is compiled, but nothing declares it")));
    found
}

#[test]
fn declarations_match_the_compiled_kernels() {
    let folder = Path::new(env!("OUT_DIR"));
    let required = |name: &str| std::env::var_os(name).is_some_and(|value| value == "1");
    if IMAGES.is_empty() || !folder.is_dir() {
        assert!(!required("REQUIRE_NVCC"), "REQUIRE_NVCC=1, but the library was built without nvcc, or elsewhere");
        println!("skipped: no nvcc");
        return;
    }
    let declarations = kernel_declarations();
    let mut found = Vec::new();
    for image in IMAGES {
        let path = folder.join(image.name).with_extension("ptx");
        let ptx = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let compiled = entries(&ptx).unwrap_or_else(|message| panic!("{}: {message}", path.display()));
        let of_image: Vec<_> = declarations.iter().filter(|d| d.image == image.name).cloned().collect();
        found.extend(differences(image.name, &of_image, &compiled));
    }
    let known = |image| IMAGES.iter().any(|candidate| candidate.name == image);
    let lost = declarations.iter().filter(|declaration| !known(declaration.image));
    found.extend(lost.map(|d| format!("{}: there is no kernel file of this name for {}", d.image, d.symbol)));
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The emulator has a kernel for every declaration, and no other; declarations are unique.
#[test]
fn declarations_match_the_emulator() {
    let mut declared: Vec<&str> = kernel_declarations().iter().map(|declaration| declaration.symbol).collect();
    declared.sort_unstable();
    let twice: Vec<_> = declared.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "declared twice: {twice:?}");
    let emulated = bicl_emulator::kernels();
    let missing: Vec<_> = declared.iter().filter(|name| !emulated.iter().any(|kernel| kernel == **name)).collect();
    assert!(missing.is_empty(), "declared, but not in the emulator: {missing:?}");
    // The emulator's own test kernels lie in tools/emulator and are named test_*.
    let undeclared = emulated.iter().filter(|name| !name.starts_with("test_") && !declared.contains(&name.as_str()));
    let undeclared: Vec<_> = undeclared.collect();
    assert!(undeclared.is_empty(), "compiled, but nothing declares: {undeclared:?}");
}

#[test]
fn the_check_can_fail() {
    let ptx = "
.version 9.0
.visible .entry good_f32(
	.param .u64 good_f32_param_0,
	.param .align 8 .b8 good_f32_param_1[24],
	.param .f64 good_f32_param_2,
	.param .u64 .ptr .align 1 good_f32_param_3,
	.param .align 64 .b8 good_f32_param_map[128],
	.param .u32 good_f32_param_4
)
.maxntid 256
{ ret; }
.visible .entry stray()
{ ret; }
";
    let compiled = entries(ptx).unwrap();
    assert_eq!(compiled["good_f32"], [8, 24, 8, 8, 128, 4]);
    assert_eq!(compiled["stray"], [0usize; 0]);
    let declare = |symbol, sizes: &[usize]| Declaration { image: "x", symbol, sizes: sizes.to_vec() };
    let stray = declare("stray", &[]);
    let check = |declaration: Declaration| differences("x", &[declaration, stray.clone()], &compiled);
    assert_eq!(check(declare("good_f32", &[8, 24, 8, 8, 128, 4])), [""; 0]);
    assert!(check(declare("good_f32", &[8, 16, 8, 8, 128, 4]))[0].contains("[8, 24, 8, 8, 128, 4] bytes"));
    assert!(check(declare("good_f32", &[8, 24, 8, 8, 64, 4]))[0].contains("[8, 24, 8, 8, 128, 4] bytes"));
    assert!(check(declare("good_f32", &[8, 24, 8, 8]))[0].contains("declared are [8, 24, 8, 8]"));
    let renamed = check(declare("good_f64", &[8, 24, 8, 8, 128, 4]));
    assert!(renamed[0].contains("not compiled") && renamed[1].contains("nothing declares"), "{renamed:?}");
    assert!(entries(".visible .entry broken(\n.param .u64").is_err());
}
