//! The generated data set: determinism, labels, layouts, behaviour on folders that are not its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bicl::data::miniature::{LABEL_IDS, MIN_SIZE, Options, SOURCE, Style, TARGET, generate, render};

fn small() -> Options {
    Options { source_images: 3, target_train: 3, target_val: 2, width: 96, height: 64, ..Options::default() }
}

/// Every file below `root` with its bytes.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

/// FNV-1a.
fn checksum(parts: [&[u8]; 2]) -> u64 {
    parts
        .iter()
        .flat_map(|p| p.iter())
        .fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn renders_have_committed_checksums() {
    // A change of these values changes every figure that was measured on the miniature: raise VERSION in store.rs.
    for (style, want) in [(&SOURCE, SOURCE_SUM), (&TARGET, TARGET_SUM)] {
        let scene = render(3, 5, style, 97, 65).unwrap();
        let got = checksum([&scene.image, &scene.label]);
        assert_eq!(got, want, "{got:#018x}, wanted {want:#018x}");
    }
}

const SOURCE_SUM: u64 = 0x9156_fc4d_ba62_189e;
const TARGET_SUM: u64 = 0xd9cd_e341_44bb_5f20;

#[test]
fn files_do_not_depend_on_the_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let mut sets = Vec::new();
    for threads in [1, 2, 5] {
        let root = folder.path().join(threads.to_string());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| generate(&root, &small())).unwrap();
        sets.push(files(&root));
    }
    assert!(sets[0].len() == 3 * 2 + 3 + 2 * 2 + 1, "{:?}", sets[0].keys());
    assert!(sets[0] == sets[1] && sets[0] == sets[2]);
}

#[test]
fn seeds_and_indices_differ() {
    let scene = |seed, index| render(seed, index, &SOURCE, 64, 48).unwrap();
    assert_eq!(scene(0, 0), scene(0, 0));
    for other in [scene(0, 1), scene(1, 0)] {
        let same = scene(0, 0).label.iter().zip(&other.label).filter(|(a, b)| a == b).count();
        assert!(same < 64 * 48 * 95 / 100, "{same}");
    }
}

/// Share of each id over some scenes of a style.
fn shares(style: &Style, count: u64) -> BTreeMap<u8, f64> {
    let mut seen = BTreeMap::new();
    for index in 0..count {
        let scene = render(11, index, style, 128, 64).unwrap();
        assert_eq!((scene.image.len(), scene.label.len()), (128 * 64 * 3, 128 * 64));
        for id in scene.label {
            *seen.entry(id).or_insert(0.0) += 1.0 / (count * 128 * 64) as f64;
        }
    }
    seen
}

#[test]
fn both_styles_show_all_classes() {
    for style in [SOURCE, TARGET, SOURCE.between(&TARGET, 0.5)] {
        let shares = shares(&style, 40);
        assert_eq!(shares.keys().copied().collect::<Vec<_>>(), LABEL_IDS);
        let common = shares.values().filter(|&&share| share >= 0.001).count();
        assert!(common >= 15, "{shares:?}");
        // No class drowns the others.
        assert!(shares.values().all(|&share| share < 0.5), "{shares:?}");
    }
}

#[test]
fn every_image_shows_most_of_a_street() {
    for style in [&SOURCE, &TARGET] {
        for index in 0..30 {
            let scene = render(1, index, style, 128, 64).unwrap();
            let classes = LABEL_IDS.iter().filter(|&id| scene.label.iter().filter(|&l| l == id).count() >= 8).count();
            assert!(classes >= 7, "scene {index}: {classes} classes");
        }
    }
}

#[test]
fn between_meets_both_ends() {
    assert_eq!(SOURCE.between(&TARGET, 0.0), SOURCE);
    let end = SOURCE.between(&TARGET, 1.0);
    assert!((end.built - TARGET.built).abs() < 1e-6 && (end.leaf[1][0] - TARGET.leaf[1][0]).abs() < 1e-6);
}

/// Colour type, size and bytes of a PNG as stored.
fn stored(path: &Path) -> (png::ColorType, [u32; 2], Vec<u8>, usize) {
    let mut decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap()));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut bytes).unwrap();
    let palette = reader.info().palette.as_ref().map_or(0, |p| p.len() / 3);
    (frame.color_type, [frame.width, frame.height], bytes, palette)
}

#[test]
fn layouts_are_those_of_the_downloads() {
    let folder = tempfile::tempdir().unwrap();
    // An empty folder that exists already is taken.
    let report = generate(folder.path(), &small()).unwrap();
    assert_eq!((report.reused, report.images), (false, 8));
    let at = |name: &str| folder.path().join(name);

    let (kind, size, bytes, palette) = stored(&at("gta5/labels/00001.png"));
    assert_eq!((kind, size), (png::ColorType::Indexed, [96, 64]));
    assert!(palette >= 34 && bytes.iter().all(|id| LABEL_IDS.contains(id)));
    let (kind, size, ..) = stored(&at("gta5/images/00001.png"));
    assert_eq!((kind, size), (png::ColorType::Rgb, [96, 64]));

    let city = "miniature/miniature_000001_000000";
    let (kind, size, bytes, _) = stored(&at(&format!("cityscapes/gtFine/val/{city}_gtFine_labelIds.png")));
    assert_eq!((kind, size), (png::ColorType::Grayscale, [96, 64]));
    assert!(bytes.iter().all(|id| LABEL_IDS.contains(id)));
    for split in ["train", "val"] {
        let (kind, ..) = stored(&at(&format!("cityscapes/leftImg8bit/{split}/{city}_leftImg8bit.png")));
        assert_eq!(kind, png::ColorType::Rgb);
    }
    // The target's training images are unlabelled.
    assert!(!at("cityscapes/gtFine/train").exists());
    // The stored bytes are the rendered ones.
    let scene = render(0, 0, &SOURCE, 96, 64).unwrap();
    assert_eq!(stored(&at("gta5/images/00001.png")).2, scene.image);
    assert_eq!(stored(&at("gta5/labels/00001.png")).2, scene.label);
}

#[test]
fn oracle_labels_are_written_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("set");
    generate(&root, &Options { oracle_labels: true, ..small() }).unwrap();
    let name = "cityscapes/gtFine/train/miniature/miniature_000002_000000_gtFine_labelIds.png";
    assert_eq!(stored(&root.join(name)).1, [96, 64]);
}

#[test]
fn the_same_options_reuse_and_others_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/b");
    generate(&root, &small()).unwrap();
    let probe = root.join("gta5/images/00001.png");
    let written = fs::metadata(&probe).unwrap().modified().unwrap();
    assert!(generate(&root, &small()).unwrap().reused);
    assert_eq!(fs::metadata(&probe).unwrap().modified().unwrap(), written);

    let before = files(&root);
    let message = generate(&root, &Options { seed: 9, ..small() }).unwrap_err().to_string();
    assert!(message.contains(root.to_str().unwrap()) && message.contains("other options"), "{message}");
    assert_eq!(message.lines().count(), 1);
    assert!(files(&root) == before);
}

#[test]
fn foreign_folders_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("gta5/images")).unwrap();
    fs::write(folder.path().join("gta5/images/00001.png"), b"mine").unwrap();
    let message = generate(folder.path(), &small()).unwrap_err().to_string();
    assert!(message.contains("not empty") && message.contains(folder.path().to_str().unwrap()), "{message}");
    assert_eq!(files(folder.path()).len(), 1);

    let broken = tempfile::tempdir().unwrap();
    fs::write(broken.path().join("miniature.json"), b"{").unwrap();
    let message = generate(broken.path(), &small()).unwrap_err().to_string();
    assert!(message.contains("miniature.json") && message.contains("manifest"), "{message}");

    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(generate(&file, &small()).is_err() && file.is_file());
}

#[test]
fn an_interrupted_generation_leaves_nothing_and_is_redone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("set");
    // What a killed process leaves: its workshop. 4194305 is above the largest process number of Linux.
    let stale = folder.path().join(".set.miniature-4194305-0");
    fs::create_dir_all(stale.join("gta5/images")).unwrap();
    fs::write(stale.join("gta5/images/00001.png"), b"half").unwrap();
    // Another data set's workshop and an unrelated folder are not ours to remove.
    let other = folder.path().join(".other.miniature-4194305-0");
    let notes = folder.path().join(".set.miniature-notes");
    fs::create_dir_all(&other).unwrap();
    fs::create_dir_all(&notes).unwrap();

    assert!(!generate(&root, &small()).unwrap().reused);
    assert!(!stale.exists() && other.exists() && notes.exists());
    assert_eq!(files(&root).len(), 3 * 2 + 3 + 2 * 2 + 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn odd_sizes_work_and_small_ones_are_refused() {
    for [width, height] in [MIN_SIZE, [65, 49], [131, 77], [64, 200]] {
        let scene = render(0, 1, &TARGET, width, height).unwrap();
        assert_eq!((scene.label.len(), scene.image.len()), (width * height, 3 * width * height));
        assert!(scene.label.iter().all(|id| LABEL_IDS.contains(id)));
    }
    for [width, height] in [[63, 48], [64, 47], [0, 0], [4000, 100]] {
        let message = render(0, 0, &SOURCE, width, height).unwrap_err().to_string();
        assert!(message.contains(&format!("{width} x {height}")) && message.contains("64 x 48"), "{message}");
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("set");
    for bad in [
        Options { width: 10, ..small() },
        Options { target_val: 0, ..small() },
        Options { gap: f32::NAN, ..small() },
        Options { source_images: 100_000, ..small() },
    ] {
        assert!(generate(&root, &bad).is_err());
        assert!(!root.exists());
    }
}
