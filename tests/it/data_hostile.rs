//! Ten thousand damaged images, labels and descriptions: an error of one line or data, never a panic, and bounded memory.

use std::{fs, io::Cursor, path::Path, process::Command};

use bicl::data::{Description, LabelMap, sets, write};

use crate::common::Rng;

const W: u32 = 17;
const H: u32 = 11;

/// One to four damages: bytes changed, cut off, repeated, or set to the largest number.
fn damage(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + rng.next() % 4 {
        if bytes.is_empty() {
            break;
        }
        let at = (rng.next() as usize) % bytes.len();
        let length = (1 + rng.next() as usize % 8).min(bytes.len() - at);
        match rng.next() % 6 {
            0 => bytes.truncate(at),
            1 => bytes[at..at + length].fill(0xff),
            2 => bytes[at..at + length].fill(0),
            3 => {
                let copy = bytes[at..at + length].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => bytes[at] ^= 1 << (rng.next() % 8),
        }
    }
    bytes
}

/// An image in each format, and a label file of each kind.
fn samples(folder: &Path) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let picture = image::RgbImage::from_fn(W, H, |x, y| image::Rgb([(x * 15) as u8, (y * 23) as u8, (x * y) as u8]));
    let formats = [
        image::ImageFormat::Png,
        image::ImageFormat::Jpeg,
        image::ImageFormat::WebP,
        image::ImageFormat::Bmp,
        image::ImageFormat::Tiff,
    ];
    let encoded = formats.map(|format| {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    });
    let ids = LabelMap::new(W as usize, H as usize, (0..W * H).map(|i| (i % 23) as u8).collect()).unwrap();
    let file = folder.join("sample.png");
    let palette = bicl::data::classes::label_id_palette();
    let mut labels = Vec::new();
    for kind in 0..3 {
        match kind {
            0 => write::label_png(&file, &ids).unwrap(),
            1 => write::indexed_png(&file, &ids, &palette).unwrap(),
            _ => write::synthia_label_png(&file, &ids).unwrap(),
        }
        labels.push(fs::read(&file).unwrap());
    }
    (encoded.into(), labels)
}

#[test]
fn ten_thousand_damaged_files_through_check() {
    let folder = tempfile::tempdir().unwrap();
    let (images, labels) = samples(folder.path());
    let mut rng = Rng(71);
    let source = folder.path().join("gta5");
    for part in ["images", "labels"] {
        fs::create_dir_all(source.join(part)).unwrap();
    }
    // One of the two is damaged, so that the other does not hide it.
    for i in 0..8000 {
        let (mut image, mut label) = (images[i % images.len()].clone(), labels[i % labels.len()].clone());
        match i % 2 {
            0 => image = damage(&image, &mut rng),
            _ => label = damage(&label, &mut rng),
        }
        fs::write(source.join(format!("images/{i}.png")), image).unwrap();
        fs::write(source.join(format!("labels/{i}.png")), label).unwrap();
    }
    let target = folder.path().join("target");
    write::image_png(&target.join("a.png"), &bicl::data::RgbImage::new(2, 2, vec![7; 12]).unwrap()).unwrap();
    // Four gigabytes of addresses hold the program, its threads and a file a core, and no image that a header makes up.
    let command = format!(
        "ulimit -v 4000000; exec {} check --source-root {} --target folder:{} --json",
        env!("CARGO_BIN_EXE_trainer"),
        source.display(),
        target.display()
    );
    let output = Command::new("bash").args(["-c", &command]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && error.lines().count() == 1 && error.contains(" problems in "),
        "{error}"
    );
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = said["parts"][0]["problems"].as_array().unwrap();
    assert!((2000..8000).contains(&problems.len()), "{} problems", problems.len());
    for problem in problems {
        let text = problem.as_str().unwrap();
        assert!(!text.contains('\n') && !text.contains("panic") && text.contains(".png"), "{text}");
    }
}

#[test]
fn two_thousand_damaged_descriptions_are_errors_or_descriptions() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    let mut rng = Rng(72);
    let mut refused = 0;
    for i in 0..2000 {
        let text = sets::all()[i % sets::all().len()].text();
        fs::write(&file, damage(text.as_bytes(), &mut rng)).unwrap();
        if let Err(error) = file.to_str().unwrap().parse::<Description>() {
            let text = error.to_string();
            assert!(text.contains("mine.toml") && !text.contains('\n'), "{text}");
            refused += 1;
        }
    }
    assert!(refused > 500, "{refused} of 2000");
}
