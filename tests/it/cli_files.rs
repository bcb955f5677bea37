//! The command line on files and folders of every odd kind: what is predicted, where it goes, what is refused.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::Path,
    process::{Command, Stdio},
};

use crate::common::trainer::{Fixture, TINY, error_of, first_file, trainer};

/// A fixture with a run in `run`.
fn trained() -> Fixture {
    let fixture = Fixture::new();
    let output = fixture.train("run", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fixture
}

/// The files below `folder`, by their paths in it.
fn files(folder: &str) -> Vec<String> {
    fn walk(folder: &Path, base: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, base, found),
                false => found.push(path.strip_prefix(base).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new(folder), Path::new(folder), &mut found);
    found.sort();
    found
}

#[test]
fn predict_takes_images_of_both_kinds_and_subfolders() {
    let fixture = trained();
    let (run, photos) = (fixture.path("run"), fixture.path("photos"));
    let out = fixture.path("photos/pictures");
    let path = |name: &str| Path::new(&photos).join(name);
    fs::create_dir_all(path("a/b")).unwrap();
    let picture = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, 90]));
    for name in ["one.png", "same.png", "same.jpg", "a/two.jpeg"] {
        picture.save(path(name)).unwrap();
    }
    picture.save_with_format(path("a/b/three.JPG"), image::ImageFormat::Jpeg).unwrap();
    fs::write(path("notes.txt"), "no image").unwrap();
    fs::write(path(".hidden.png"), "no image").unwrap();
    // Links that lead back would never end, or bring in what lies beside the input.
    symlink("..", path("a/up")).unwrap();
    symlink("../..", path("a/above")).unwrap();
    let arguments = ["predict", &photos, "--checkpoint", &run, "--out", &out, "--device", "cpu"];
    // The second time the pictures lie there already, and are no input.
    for _ in 0..2 {
        let output = trainer(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let stems = ["a/b/three", "a/two", "one", "same.jpg", "same.png"];
        let want: Vec<_> =
            stems.iter().flat_map(|stem| [format!("{stem}_labels.png"), format!("{stem}_overlay.png")]).collect();
        assert_eq!(files(&out), want);
    }
    let colors = bicl::data::decode::read_image(&Path::new(&out).join("one_labels.png")).unwrap();
    assert_eq!((colors.width(), colors.height()), (40, 30));
    for color in colors.pixels().chunks(3) {
        assert!(bicl::data::classes::COLORS.iter().any(|known| known == color), "{color:?} is no class's colour");
    }
    let one = fixture.path("one");
    let output = trainer(&["predict", path("one.png").to_str().unwrap(), "--checkpoint", &run, "--out", &one]);
    assert!(output.status.success());
    assert_eq!(files(&one), ["one_labels.png", "one_overlay.png"]);
}

#[test]
fn generate_writes_a_data_set_that_check_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("scenes").to_str().unwrap().to_owned();
    let small = "--source-images 2 --target-train 3 --target-val 1 --width 64 --height 48".split(' ');
    let arguments: Vec<&str> = ["generate", &root, "--json"].into_iter().chain(small).collect();
    let outcome = |output: std::process::Output| -> serde_json::Value {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    for reused in [false, true] {
        let said = outcome(trainer(&arguments));
        assert_eq!((&said["images"], &said["reused"]), (&6.into(), &reused.into()), "{said}");
    }
    let checked = outcome(trainer(&["check", "--data-root", &root, "--json"]));
    let images: Vec<_> = checked["parts"].as_array().unwrap().iter().map(|part| part["images"].as_u64()).collect();
    assert_eq!(images, [Some(2), Some(3), Some(1)]);
    // Other scenes than those that lie there, and a style that there is not.
    assert!(error_of(&["generate", &root, "--seed", "1"]).contains(&root));
    assert!(error_of(&["generate", "nowhere", "--gap", "2"]).contains("use 0 to 1.5"));
}

#[test]
fn predict_names_what_it_cannot_read() {
    let fixture = trained();
    let (run, out, folder) = (fixture.path("run"), fixture.path("pictures"), fixture.path("photos"));
    let predict =
        |input: &str, out: &str| error_of(&["predict", input, "--checkpoint", &run, "--out", out, "--device", "cpu"]);
    fs::create_dir(&folder).unwrap();
    let text = predict(&folder, &out);
    assert!(text.contains(&folder) && text.contains("holds no image (png, jpg"), "{text}");
    assert!(predict(&fixture.path("nowhere.png"), &out).contains("nowhere.png"));
    symlink("loop.png", format!("{folder}/loop.png")).unwrap();
    assert!(predict(&folder, &out).contains("loop.png"));
    fs::remove_file(format!("{folder}/loop.png")).unwrap();
    fs::write(format!("{folder}/text.png"), "hello").unwrap();
    let text = predict(&folder, &out);
    assert!(text.contains("text.png: neither a PNG nor a JPEG"), "{text}");
    assert!(predict(&folder, &folder).contains("choose another --out"));
    let images = fixture.path("data/gta5/images");
    assert!(predict(&images, "/dev/null/pictures").contains("/dev/null/pictures"));
}

#[test]
fn evaluation_without_labels_names_the_image() {
    let fixture = trained();
    let text = error_of(&["eval", &fixture.path("run"), "--split", "train", "--device", "cpu"]);
    assert!(text.contains("leftImg8bit.png: image without label"), "{text}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let fixture = trained();
    let run = fixture.path("run");
    let text = error_of(&["--demo", "--device", "cpu", "--out", "/dev/null/demo"]);
    assert!(text.contains("/dev/null/demo"), "{text}");
    let text = error_of(&["export", &run, "--out", "/dev/null/x.safetensors"]);
    assert!(text.contains("/dev/null/x.safetensors"), "{text}");
    let locked = fixture.path("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    if fs::write(format!("{locked}/probe"), "").is_ok() {
        println!("skipped: this user may write into read-only folders");
        return;
    }
    let text = fixture.train_error("locked/run", &[]);
    assert!(text.contains("locked/run") && text.contains("permissions"), "{text}");
    let text = error_of(&["export", &run, "--out", &format!("{locked}/x.safetensors")]);
    assert!(text.contains("permissions"), "{text}");
}

#[test]
fn loops_of_links_are_named() {
    let fixture = Fixture::new();
    let images = fixture.path("data/gta5/images");
    let image = first_file(Path::new(&images));
    let whole = fs::read(&image).unwrap();
    fs::remove_file(&image).unwrap();
    symlink(image.file_name().unwrap(), &image).unwrap();
    let text = fixture.train_error("one", &[]);
    assert!(text.contains(image.to_str().unwrap()), "{text}");
    fs::remove_file(&image).unwrap();
    fs::write(&image, whole).unwrap();
    fs::rename(&images, fixture.path("elsewhere")).unwrap();
    symlink("images", &images).unwrap();
    let text = fixture.train_error("two", &[]);
    assert!(text.contains("gta5/images: Too many levels of symbolic links"), "{text}");
}

#[test]
fn paths_that_are_not_unicode_work_or_are_refused() {
    let fixture = trained();
    let odd = fixture.folder.path().join(std::ffi::OsStr::from_bytes(b"odd \xff\xfe"));
    if fs::create_dir(&odd).is_err() {
        println!("skipped: this file system wants Unicode");
        return;
    }
    let run = |arguments: &[&std::ffi::OsStr]| {
        let output = Command::new(env!("CARGO_BIN_EXE_trainer")).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!error.contains("panicked"), "{error}");
        (output.status.code(), error)
    };
    let image = first_file(Path::new(&fixture.path("data/gta5/images")));
    let input = odd.join(std::ffi::OsStr::from_bytes(b"\xff.png"));
    fs::copy(image, &input).unwrap();
    let (checkpoint, out) = (fixture.path("run"), odd.join("out"));
    let (code, error) = run(&[
        "predict".as_ref(),
        odd.as_ref(),
        "--checkpoint".as_ref(),
        checkpoint.as_ref(),
        "--out".as_ref(),
        out.as_ref(),
        "--json".as_ref(),
    ]);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.join(std::ffi::OsStr::from_bytes(b"\xff_labels.png")).exists());
    let weights = odd.join("weights.safetensors");
    let (code, error) =
        run(&["export".as_ref(), checkpoint.as_ref(), "--out".as_ref(), weights.as_ref(), "--json".as_ref()]);
    assert_eq!(code, Some(0), "{error}");
    let refused = [
        ["--device".as_ref(), "cpu".as_ref(), "--data-root".as_ref(), odd.as_os_str(), "--json".as_ref()],
        ["--device".as_ref(), "cpu".as_ref(), "--out".as_ref(), odd.as_os_str(), "--demo".as_ref()],
    ];
    for arguments in &refused {
        let (code, error) = run(arguments);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("not valid UTF-8") && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn a_closed_pipe_stops_nothing() {
    let fixture = trained();
    let (root, run, out) = (fixture.path("data"), fixture.path("run"), fixture.path("piped"));
    let pictures = fixture.path("pictures");
    let train = ["--preset", "miniature", "--device", "cpu", "--data-root", &root, "--out", &out];
    for arguments in [
        &["check", "--data-root", &root][..],
        &["eval", &run, "--device", "cpu"],
        &["predict", &root, "--checkpoint", &run, "--out", &pictures, "--device", "cpu"],
        &["--help"],
        &[&train[..], TINY].concat(),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_trainer"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.is_empty(), "{arguments:?}: {error}");
    }
    assert!(Path::new(&out).join("adapted.safetensors").exists(), "training goes on without a reader");
}
