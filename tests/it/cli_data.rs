//! The command line on people's own data: descriptions, targets without labels, what is left out; and what `eval`, `predict` and
//! `check` say of it.

use std::{fs, path::Path};

use serde_json::Value;

use crate::common::trainer::{Fixture, error_of, first_file, trainer};

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    let output = trainer(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a run prints, which must succeed.
#[track_caller]
fn trained(fixture: &Fixture, out: &str, more: &[&str]) -> String {
    let output = fixture.train(out, more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn data_sets_are_listed_and_shown() {
    let listed = json(&["datasets", "--json"]);
    let sets = listed["datasets"].as_array().unwrap();
    assert!(sets.len() >= 14 && sets.iter().any(|set| set["name"] == "acdc" && set["labelled"] == true), "{listed}");
    let shown = trainer(&["datasets", "show", "synthia"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.starts_with("# SYNTHIA-RAND-CITYSCAPES") && text.contains("channel = 0"), "{text}");
    assert_eq!(trainer(&["datasets", "show", "nothing"]).status.code(), Some(2));
}

/// Five classes: the other ids of the miniature scenes are void.
const FIVE: &str = r#"name = "five"
title = "Five classes"

[splits.all]
images = "images/*"
labels = "labels/*"

[labels]
void_ids = [0, 1, 2, 3, 4, 5, 6, 9, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24, 25, 27, 28, 29, 30, 31, 32, 33, 34]

[labels.ids]
street = [7]
"side walk" = [8]
house = [11]
green = [21]
rest = [23, 26]

[[class]]
name = "street"
color = [200, 0, 0]

[[class]]
name = "side walk"
color = [0, 200, 0]

[[class]]
name = "house"
color = [0, 0, 200]

[[class]]
name = "green"
color = [200, 200, 0]

[[class]]
name = "rest"
color = [0, 200, 200]
"#;

#[test]
fn five_classes_of_ones_own_train_and_predict_in_their_colours() {
    let fixture = Fixture::new();
    let (file, data) = (fixture.path("five.toml"), fixture.path("data/gta5"));
    fs::write(&file, FIVE).unwrap();
    let domains = ["--source", &file, "--target", &file, "--source-root", &data, "--target-root", &data];
    let text = trained(&fixture, "run", &domains);
    assert!(text.contains("side walk") && text.contains("five -> five"), "{text}");
    // The run needs the file no more.
    fs::remove_file(&file).unwrap();
    let (run, out) = (fixture.path("run"), fixture.path("out"));
    let scores = json(&["eval", &run, "--device", "cpu", "--json"]);
    assert_eq!(scores["scores"]["iou"].as_array().unwrap().len(), 5, "{scores}");
    let image = first_file(Path::new(&fixture.path("data/gta5/images")));
    let weights = fixture.path("five.safetensors");
    json(&["export", &run, "--out", &weights, "--json"]);
    // A checkpoint and an export know the classes.
    for from in [&run, &weights] {
        let arguments =
            ["predict", image.to_str().unwrap(), "--checkpoint", from, "--out", &out, "--write", "colors", "--json"];
        let said = json(&arguments);
        let file = said["predictions"][0]["colors"].as_str().unwrap().to_owned();
        let colors = bicl::data::decode::read_image(Path::new(&file)).unwrap();
        let known = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0], [0, 200, 200]];
        assert!(colors.pixels().chunks(3).all(|color| known.iter().any(|known| known == color)), "{from}");
        fs::remove_file(file).unwrap();
    }
    // Its classes have no label ids.
    let refused = ["predict", image.to_str().unwrap(), "--checkpoint", &run, "--out", &out, "--ids", "label"];
    assert!(error_of(&refused).contains("street has no label id"));
    // Labels of 19 classes are too many for it, which is said before any image is read.
    let text =
        error_of(&["eval", &run, "--dataset", "cityscapes", "--data-root", &fixture.path("data"), "--device", "cpu"]);
    assert!(text.contains("tells 5 classes apart") && text.contains("have 19"), "{text}");
    // Source and target must mean the same.
    fs::write(&file, FIVE).unwrap();
    let text = fixture.train_error("other", &["--source", &file, "--source-root", &data]);
    assert!(text.contains("\"street\" in one and \"road\" in the other"), "{text}");
}

#[test]
fn a_folder_without_labels_is_a_target() {
    let fixture = Fixture::new();
    let images = fixture.path("data/cityscapes/leftImg8bit/train");
    let text = trained(&fixture, "run", &["--target", &format!("folder:{images}")]);
    assert!(text.contains("no scores: folder of images has no labels"), "{text}");
    let run = fixture.path("run");
    assert!(Path::new(&run).join("adapted.safetensors").exists());
    let config = fs::read_to_string(Path::new(&run).join("config.toml")).unwrap();
    assert!(config.contains("target = \"folder\"") && config.contains(&images), "{config}");
    assert_eq!(files_below(&Path::new(&run).join("samples/source-only")), 1);
    // The same as JSON, and of a data set whose val split is gone.
    fs::remove_dir_all(fixture.path("data/cityscapes/gtFine")).unwrap();
    let output = fixture.train("second", &["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["evaluations"], &said["gain_points"]), (&serde_json::json!({}), &Value::Null));
}

fn files_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[test]
fn pairs_that_cannot_be_used_are_left_out_where_that_is_asked_for() {
    let fixture = Fixture::new();
    let label = fixture.source_label();
    fs::write(&label, "no label").unwrap();
    let name = label.file_name().unwrap().to_str().unwrap();
    assert!(fixture.train_error("one", &[]).contains(name));
    let text = fixture.train_error("two", &["--skip-bad"]);
    assert!(text.contains("1 of 2 pairs cannot be used, and 1 % may be left out") && text.contains(name), "{text}");
    let text = trained(&fixture, "three", &["--skip-bad=0.5"]);
    assert!(text.contains("left out: ") && text.contains(name), "{text}");
}

#[test]
fn eval_writes_matrix_and_scores_of_each_image() {
    let fixture = Fixture::new();
    trained(&fixture, "run", &[]);
    let path = |name: &str| fixture.path(name);
    let (csv, png, images) = (path("m.csv"), path("m.png"), path("images.csv"));
    let scores =
        json(&["eval", &path("run"), "--device", "cpu", "--json", "--confusion", &csv, "--per-image", &images]);
    let text = fs::read_to_string(csv).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows.len(), rows[0].len(), rows[0][1], rows[19][0]), (20, 20, "road", "bicycle"));
    let counts = rows[1..].iter().flat_map(|row| &row[1..]).map(|count| count.parse::<u64>().unwrap());
    let hits: u64 = (1..20).map(|i| rows[i][i].parse::<u64>().unwrap()).sum();
    let accuracy = hits as f64 / counts.sum::<u64>() as f64;
    assert!((scores["scores"]["pixel_accuracy"].as_f64().unwrap() - accuracy).abs() < 1e-12);
    let text = fs::read_to_string(images).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("image,miou,pixel_accuracy,road,"), "{text}");
    let miou: f64 = lines[1].split(',').nth(1).unwrap().parse().unwrap();
    assert!((scores["scores"]["miou"].as_f64().unwrap() - miou).abs() < 1e-6, "one image is the whole");
    json(&["eval", &path("run"), "--device", "cpu", "--json", "--confusion", &png]);
    assert_eq!(bicl::data::decode::image_size(Path::new(&png)).unwrap(), (480, 480));
    assert_eq!(trainer(&["eval", &path("run"), "--confusion", "m.txt"]).status.code(), Some(2));
}

#[test]
fn looks_that_say_nothing_new_score_the_same() {
    let fixture = Fixture::new();
    trained(&fixture, "run", &[]);
    let run = fixture.path("run");
    let scores = |more: &[&str]| {
        let arguments = [&["eval", &run, "--device", "cpu", "--json"], more].concat();
        json(&arguments)["scores"]["pixel_accuracy"].as_f64().unwrap()
    };
    let plain = scores(&[]);
    // One window is the image, and the same scale twice is that scale: but for pixels where two classes are alike.
    for more in [["--sliding-window", "48x64"], ["--scales", "1,1"]] {
        assert!((scores(&more) - plain).abs() < 5e-3, "{more:?}");
    }
    // A network of three steps tells few classes: other looks need not change a pixel.
    for more in [&["--scales", "0.5,1.5", "--flip"][..], &["--sliding-window", "32x32"]] {
        assert!((0.0..=1.0).contains(&scores(more)), "{more:?}");
    }
    for wrong in [["--scales", "0"], ["--sliding-window", "64"]] {
        assert_eq!(trainer(&[&["eval", &run][..], &wrong].concat()).status.code(), Some(2));
    }
}

#[test]
fn a_broken_image_stops_no_other_and_label_ids_are_written() {
    let fixture = Fixture::new();
    trained(&fixture, "run", &[]);
    let (run, folder, out) = (fixture.path("run"), fixture.path("photos"), fixture.path("out"));
    fs::create_dir(&folder).unwrap();
    let image = first_file(Path::new(&fixture.path("data/gta5/images")));
    for name in ["a.png", "c.png", "d.webp"] {
        fs::copy(&image, Path::new(&folder).join(name)).unwrap();
    }
    fs::write(Path::new(&folder).join("b.png"), "no image").unwrap();
    let kinds = "labels,confidence";
    let arguments = [
        "predict",
        &folder,
        "--checkpoint",
        &run,
        "--out",
        &out,
        "--device",
        "cpu",
        "--ids",
        "label",
        "--write",
        kinds,
    ];
    let text = error_of(&arguments);
    assert!(text.contains("1 of 4 images failed") && text.contains("b.png: neither a PNG"), "{text}");
    assert_eq!(files_below(Path::new(&out)), 6);
    let labels = image::open(Path::new(&out).join("c_labels.png")).unwrap().into_luma8();
    assert!(labels.pixels().all(|id| bicl::data::classes::LABEL_IDS.contains(&id.0[0])));
    let output = trainer(&[&arguments[..], &["--json"]].concat());
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let images: Vec<&str> =
        said["predictions"].as_array().unwrap().iter().map(|p| p["image"].as_str().unwrap()).collect();
    assert!(
        images.is_sorted() && images.len() == 3 && said["failed"][0]["image"].as_str().unwrap().ends_with("b.png"),
        "{said}"
    );
}

#[test]
fn check_finds_void_labels_one_class_train_ids_and_images_that_lie_in_both_splits() {
    let fixture = Fixture::new();
    let root = fixture.path("data");
    let check = || {
        let output = trainer(&["check", "--data-root", &root, "--json"]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), said)
    };
    let (status, good) = check();
    assert_eq!(status, Some(0), "{good}");
    let source = &good["parts"][0];
    let road = &source["classes"][0];
    assert_eq!((&road["name"], &road["images"]), (&"road".into(), &2.into()), "{good}");
    assert_eq!(source["sizes"], serde_json::json!([{ "size": [64, 48], "images": 2 }]));

    // A validation image that is trained on.
    let train = first_file(Path::new(&fixture.path("data/cityscapes/leftImg8bit/train/miniature")));
    let val = first_file(Path::new(&fixture.path("data/cityscapes/leftImg8bit/val/miniature")));
    fs::copy(&train, &val).unwrap();
    let (status, both) = check();
    assert!(status == Some(0) && both["parts"][2]["notes"].to_string().contains("are in target train too"), "{both}");

    let fill = |id: u8| {
        for entry in fs::read_dir(fixture.path("data/gta5/labels")).unwrap() {
            let map = bicl::data::LabelMap::new(64, 48, vec![id; 64 * 48]).unwrap();
            bicl::data::write::label_png(&entry.unwrap().path(), &map).unwrap();
        }
    };
    for (id, says) in [(4, "no label holds any class"), (23, "every labelled pixel is sky"), (2, "trainIds")] {
        fill(id);
        let (status, said) = check();
        assert!(status == Some(1) && said["parts"][0]["problems"].to_string().contains(says), "{id}: {said}");
    }
    // Training looks at the ids too.
    assert!(fixture.train_error("run", &[]).contains("trainIds"));
}

/// ffmpeg, which `.ci/run` installs. Without it this prints `skipped: no ffmpeg`; with REQUIRE_FFMPEG=1 that is a failure.
fn ffmpeg(arguments: &[&str]) -> bool {
    let run = std::process::Command::new("ffmpeg").args(["-v", "error", "-y"]).args(arguments).status();
    let works = run.is_ok_and(|status| status.success());
    let required = std::env::var_os("REQUIRE_FFMPEG").is_some_and(|value| value == "1");
    assert!(works || !required, "REQUIRE_FFMPEG=1: ffmpeg does not work");
    if !works {
        println!("skipped: no ffmpeg");
    }
    works
}

#[test]
fn a_video_is_predicted_frame_by_frame() {
    let fixture = Fixture::new();
    trained(&fixture, "run", &[]);
    let (run, clip, out) = (fixture.path("run"), fixture.path("clip.mp4"), fixture.path("out"));
    let broken = fixture.path("broken.mp4");
    fs::write(&broken, "no video").unwrap();
    if !ffmpeg(&["-f", "lavfi", "-i", "testsrc=size=66x50:rate=10:duration=0.7", "-pix_fmt", "yuv420p", &clip]) {
        let text = error_of(&["predict", &broken, "--checkpoint", &run, "--out", &out, "--device", "cpu"]);
        assert!(
            text.contains("broken.mp4: a video needs ffprobe") && text.contains("apt-get install ffmpeg"),
            "{text}"
        );
        return;
    }
    let said = json(&["predict", &clip, "--checkpoint", &run, "--out", &out, "--device", "cpu", "--json"]);
    assert_eq!(said["frames"], 7, "{said}");
    let file = said["video"].as_str().unwrap();
    assert!(file.ends_with("clip_overlay.mp4"));
    let still = fixture.path("still.png");
    assert!(ffmpeg(&["-i", file, "-frames:v", "1", &still]));
    assert_eq!(bicl::data::decode::image_size(Path::new(&still)).unwrap(), (66, 50));
    let text = error_of(&["predict", &broken, "--checkpoint", &run, "--out", &out, "--device", "cpu"]);
    assert!(text.contains("broken.mp4: no video that ffmpeg reads"), "{text}");
    assert_eq!(files_below(Path::new(&out)), 1, "nothing half done stays");
}
