//! The three data sets as their downloads unpack, written by the tests themselves, and every broken form of them.

use std::fs;
use std::path::{Path, PathBuf};

use bicl::data::classes::{COLORS, label_id_palette};
use bicl::data::{
    ClassList, Dataset, Description, IGNORE, LabelMap, LabelSource, LabelTable, RgbImage, Split, sets, write,
};
use tempfile::TempDir;

const W: usize = 24;
const H: usize = 10;

fn image() -> RgbImage {
    RgbImage::new(W, H, (0..W * H * 3).map(|i| (i * 7) as u8).collect()).unwrap()
}

/// One column per id, from 0 to 23.
fn ramp() -> LabelMap {
    LabelMap::new(W, H, (0..W * H).map(|i| (i % W) as u8).collect()).unwrap()
}

fn truth(set: Description, root: &Path) -> bicl::Result<Dataset> {
    Dataset::open(&set, root, Split::Train, &LabelSource::Truth)
}

fn gta5(folder: &TempDir) -> PathBuf {
    let root = folder.path().join("gta5");
    write::image_png(&root.join("images/00001.png"), &image()).unwrap();
    write::indexed_png(&root.join("labels/00001.png"), &ramp(), &label_id_palette()).unwrap();
    root
}

fn cityscapes(folder: &TempDir) -> PathBuf {
    let root = folder.path().join("cityscapes");
    for (city, number) in [("ulm", 2), ("aachen", 1), ("aachen", 0)] {
        let stem = format!("{city}_00000{number}_000019");
        write::image_png(&root.join(format!("leftImg8bit/train/{city}/{stem}_leftImg8bit.png")), &image()).unwrap();
        write::label_png(&root.join(format!("gtFine/train/{city}/{stem}_gtFine_labelIds.png")), &ramp()).unwrap();
    }
    root
}

/// The table for Cityscapes and GTA5 in docs/method.md, "Data", by id 0..=23.
fn cityscapes_class(id: u8) -> u8 {
    match id {
        7 => 0,
        8 => 1,
        11 => 2,
        12 => 3,
        13 => 4,
        17 => 5,
        19 => 6,
        20 => 7,
        21 => 8,
        22 => 9,
        23 => 10,
        _ => IGNORE,
    }
}

/// The error's text, after the checks that hold for each: one line that names `file`.
#[track_caller]
fn error_of<T: std::fmt::Debug>(result: bicl::Result<T>, file: &Path) -> String {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(&file.display().to_string()), "{error}\ndoes not name {}", file.display());
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn gta5_paletted_grey_and_coloured() {
    let folder = tempfile::tempdir().unwrap();
    let root = gta5(&folder);
    let label = root.join("labels/00001.png");
    let read = || truth(sets::gta5(), &root).unwrap().read(0).unwrap();
    let example = read();
    assert_eq!((example.name.as_str(), &example.image), ("00001", &image()));
    let want: Vec<u8> = ramp().ids().iter().map(|&id| cityscapes_class(id)).collect();
    assert_eq!(example.labels.as_ref().unwrap().ids(), want);

    write::label_png(&label, &ramp()).unwrap();
    assert_eq!(read(), example);

    let palette = label_id_palette();
    let colored = ramp().ids().iter().flat_map(|&id| palette[usize::from(id)]).collect();
    write::image_png(&label, &RgbImage::new(W, H, colored).unwrap()).unwrap();
    let got = read().labels.unwrap();
    // Pole group (18) shares the colour of pole (17); the rest comes back as it was.
    for (i, (&got, &want)) in got.ids().iter().zip(&want).enumerate() {
        assert_eq!(got, if i % W == 18 { 5 } else { want }, "pixel {i}");
    }
}

#[test]
fn gta5_four_bit_palette() {
    // Editors pack small palettes: two pixels a byte, rows padded to whole bytes.
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let small = RgbImage::new(5, 2, vec![9; 30]).unwrap();
    write::image_png(&root.join("images/a.png"), &small).unwrap();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 5, 2);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Four);
    encoder.set_palette([1; 48].as_slice());
    encoder.write_header().unwrap().write_image_data(&[0x78, 0xb0, 0xc0, 0xd7, 0x77, 0x80]).unwrap();
    write::atomically(&root.join("labels/a.png"), &file).unwrap();
    let labels = truth(sets::gta5(), root).unwrap().read(0).unwrap().labels.unwrap();
    assert_eq!(labels.ids(), [0, 1, 2, 255, 3, 4, 0, 0, 0, 1]);
}

#[test]
fn synthia_sixteen_bit() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("synthia");
    let ids = LabelMap::new(W, H, ramp().ids().iter().map(|&id| id.min(22)).collect()).unwrap();
    write::image_png(&root.join("RGB/0000001.png"), &image()).unwrap();
    let label = root.join("GT/LABELS/0000001.png");
    // The second channel holds instances, which must not be taken for classes.
    let words: Vec<u8> = ids.ids().iter().flat_map(|&id| [0, id, 1, 77, 0, 0]).collect();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, W as u32, H as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.write_header().unwrap().write_image_data(&words).unwrap();
    write::atomically(&label, &file).unwrap();
    let data = truth(sets::synthia(), &root).unwrap();
    // The table in docs/method.md, "Data", by id 0..=22.
    let want = [255, 10, 2, 0, 1, 4, 8, 5, 13, 7, 11, 18, 17, 255, 255, 6, 9, 12, 14, 15, 16, 3, 255, 255];
    let got = data.read(0).unwrap().labels.unwrap();
    assert_eq!(&got.row(0)[..23], &want[..23]);

    write::synthia_label_png(&label, &ids).unwrap();
    assert_eq!(data.read(0).unwrap().labels.unwrap(), got);

    write::synthia_label_png(&label, &ramp()).unwrap();
    let error = error_of(data.read(0), &label);
    assert!(error.contains("id 23") && error.contains("(x 23, y 0)") && error.contains("SYNTHIA"), "{error}");
}

#[test]
fn cityscapes_sorted_with_labels_and_without() {
    let folder = tempfile::tempdir().unwrap();
    let root = cityscapes(&folder);
    // What else lies in such folders: system files, other files of the download.
    fs::write(root.join("leftImg8bit/train/.DS_Store"), "x").unwrap();
    fs::write(root.join("leftImg8bit/train/aachen/._hidden.png"), "x").unwrap();
    fs::write(root.join("leftImg8bit/train/aachen/Thumbs.db"), "x").unwrap();
    let data = truth(sets::cityscapes(), &root).unwrap();
    let names: Vec<_> = data.items().iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "ulm/ulm_000002_000019"]);
    assert_eq!(data.read(2).unwrap().labels.unwrap().row(3)[7..9], [0, 1]);

    fs::remove_dir_all(root.join("gtFine")).unwrap();
    let data = Dataset::open(&sets::cityscapes(), &root, Split::Train, &LabelSource::None).unwrap();
    assert_eq!(data.read(0).unwrap().labels, None);
    let image = root.join("leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png");
    let error = error_of(truth(sets::cityscapes(), &root), &image);
    assert!(
        error.contains("image without label") && error.contains("aachen_000000_000019_gtFine_labelIds.png"),
        "{error}"
    );
    let error = error_of(
        Dataset::open(&sets::cityscapes(), &root, Split::Val, &LabelSource::None),
        &root.join("leftImg8bit/val"),
    );
    assert!(error.contains("no such folder") && error.contains("ROOT/leftImg8bit/val/**/*_leftImg8bit"), "{error}");
}

#[test]
fn pseudo_labels_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = cityscapes(&folder);
    let pseudo = folder.path().join("round1");
    let data = Dataset::open(&sets::cityscapes(), &root, Split::Train, &LabelSource::None).unwrap();
    let labels =
        LabelMap::new(W, H, (0..W * H).map(|i| if i % 3 == 0 { 255 } else { (i % 19) as u8 }).collect()).unwrap();
    for index in 0..data.len() {
        write::label_png(&data.pseudo_label_path(&pseudo, index).unwrap(), &labels).unwrap();
    }
    assert!(pseudo.join("ulm/ulm_000002_000019.png").is_file());
    let source = LabelSource::Folder(pseudo.clone());
    let data = Dataset::open(&sets::cityscapes(), &root, Split::Train, &source).unwrap();
    assert_eq!(data.read(1).unwrap().labels.unwrap(), labels);

    let path = data.pseudo_label_path(&pseudo, 0).unwrap();
    write::label_png(&path, &ramp()).unwrap();
    let error = error_of(data.read(0), &path);
    assert!(error.contains("id 19") && error.contains("trainIds"), "{error}");
    fs::remove_file(&path).unwrap();
    let error = Dataset::open(&sets::cityscapes(), &root, Split::Train, &source).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
}

#[test]
fn jpeg_images_and_grey_and_transparent_png() {
    let folder = tempfile::tempdir().unwrap();
    let root = gta5(&folder);
    let path = root.join("images/00001.png");
    let read = || Dataset::open(&sets::gta5(), &root, Split::Train, &LabelSource::None)?.read(0);
    let rgb = image::RgbImage::from_pixel(W as u32, H as u32, image::Rgb([200, 100, 50]));
    // The extension lies: the content decides.
    rgb.save_with_format(&path, image::ImageFormat::Jpeg).unwrap();
    let got = read().unwrap().image;
    assert!(got.pixels().chunks(3).all(|p| p[0].abs_diff(200) < 4 && p[1].abs_diff(100) < 4 && p[2].abs_diff(50) < 4));
    fs::rename(&path, path.with_extension("JPG")).unwrap();
    assert_eq!(read().unwrap().image, got);
    fs::remove_file(path.with_extension("JPG")).unwrap();

    image::GrayImage::from_pixel(W as u32, H as u32, image::Luma([77])).save(&path).unwrap();
    assert!(read().unwrap().image.pixels().iter().all(|&v| v == 77));
    image::RgbaImage::from_pixel(W as u32, H as u32, image::Rgba([1, 2, 3, 0])).save(&path).unwrap();
    assert!(read().unwrap().image.pixels().chunks(3).all(|p| p == [1, 2, 3]));
}

#[test]
fn broken_images() {
    let folder = tempfile::tempdir().unwrap();
    let root = gta5(&folder);
    let path = root.join("images/00001.png");
    let good = fs::read(&path).unwrap();
    let data = truth(sets::gta5(), &root).unwrap();
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        error_of(data.read(0), &path)
    };
    assert!(error(&[]).contains("0 bytes"));
    assert!(error(b"<html>not found</html>").contains("neither a PNG nor a JPEG"));
    // The chunks that follow the pixels are 12 bytes of IEND; shorter than that, pixels are missing.
    for keep in 1..good.len() - 17 {
        let text = error(&good[..keep]);
        assert!(text.contains("truncated") || keep < 8, "{keep}: {text}");
    }
    for at in (8..good.len() - 12).step_by(3) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        if let Err(error) = data.read(0) {
            assert!(error.to_string().contains("00001.png") && !error.to_string().contains('\n'), "{error}");
        }
    }
    // A header that claims 2^31 x 2^31 pixels.
    let mut bytes = good.clone();
    bytes[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    error(&bytes);
    fs::write(&path, &good).unwrap();
    data.read(0).unwrap();

    fs::remove_file(&path).unwrap();
    error_of(data.read(0), &path);
}

#[test]
fn truncated_jpeg() {
    let folder = tempfile::tempdir().unwrap();
    let root = gta5(&folder);
    fs::remove_file(root.join("images/00001.png")).unwrap();
    let path = root.join("images/00001.jpg");
    let noise = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 37 + y * 91) as u8, (x * y) as u8, y as u8]));
    noise.save(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let data = Dataset::open(&sets::gta5(), &root, Split::Train, &LabelSource::None).unwrap();
    data.read(0).unwrap();
    for keep in (3..good.len() - 2).step_by(11) {
        fs::write(&path, &good[..keep]).unwrap();
        assert!(error_of(data.read(0), &path).contains("truncated"));
    }
}

#[test]
fn broken_labels() {
    let folder = tempfile::tempdir().unwrap();
    let root = gta5(&folder);
    let path = root.join("labels/00001.png");
    let data = truth(sets::gta5(), &root).unwrap();

    let small = LabelMap::new(W - 1, H, vec![7; (W - 1) * H]).unwrap();
    write::label_png(&path, &small).unwrap();
    let error = error_of(data.read(0), &path);
    assert!(error.contains("23 x 10") && error.contains("24 x 10") && error.contains("images/00001.png"), "{error}");

    let mut wrong = ramp();
    wrong.ids_mut()[5 * W + 3] = 77;
    write::label_png(&path, &wrong).unwrap();
    let error = error_of(data.read(0), &path);
    assert!(error.contains("id 77") && error.contains("(x 3, y 5)") && error.contains("GTA5"), "{error}");

    write::image_png(&path, &image()).unwrap();
    let error = error_of(data.read(0), &path);
    assert!(error.contains("colour (0, 7, 14) at pixel (x 0, y 0)"), "{error}");

    image::RgbImage::new(W as u32, H as u32).save_with_format(&path, image::ImageFormat::Jpeg).unwrap();
    assert!(error_of(data.read(0), &path).contains("JPEG"));
    fs::write(&path, "").unwrap();
    assert!(error_of(data.read(0), &path).contains("0 bytes"));
    fs::write(&path, "P5 24 10").unwrap();
    assert!(error_of(data.read(0), &path).contains("not a PNG"));

    write::label_png(&path, &LabelMap::new(W, H, vec![34; W * H]).unwrap()).unwrap();
    assert!(data.read(0).unwrap().labels.unwrap().ids().iter().all(|&id| id == IGNORE), "34 is GTA5's licence plate");
}

#[test]
fn broken_folders() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (set, images) in [(sets::gta5(), "images"), (sets::synthia(), "RGB"), (sets::cityscapes(), "leftImg8bit/train")]
    {
        let error = error_of(truth(set.clone(), &root.join("nowhere")), &root.join("nowhere").join(images));
        assert!(error.contains("no such folder") && error.contains("expected as ROOT/"), "{error}");
        let empty = set.root_in(root);
        fs::create_dir_all(empty.join(images)).unwrap();
        let error = error_of(truth(set, &empty), &empty.join(images));
        assert!(error.contains("no .png or .jpg image") && error.contains("expected as ROOT/"), "{error}");
    }
    let root = gta5(&folder);
    fs::copy(root.join("images/00001.png"), root.join("images/00001.jpg")).unwrap();
    let error = truth(sets::gta5(), &root).unwrap_err().to_string();
    assert!(error.contains("second image with the name"), "{error}");
    fs::remove_file(root.join("images/00001.jpg")).unwrap();
    fs::remove_file(root.join("labels/00001.png")).unwrap();
    let error = error_of(truth(sets::gta5(), &root), &root.join("images/00001.png"));
    assert!(error.contains("image without label"), "{error}");
    let error = "kitty".parse::<Description>().unwrap_err().to_string();
    assert!(error.contains("gta5, synthia, cityscapes, acdc"), "{error}");
    assert_eq!("synthia".parse::<Description>().unwrap().to_string(), "synthia");
}

#[test]
fn colour_maps_keep_the_ids_and_writing_is_atomic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/down/map.png");
    let labels = LabelMap::new(3, 1, vec![13, 255, 0]).unwrap();
    write::color_map_png(&path, &labels, &ClassList::cityscapes()).unwrap();
    assert_eq!(bicl::data::decode::read_labels(&path, &LabelTable::train_ids(19)).unwrap(), labels);
    let colors = bicl::data::decode::read_image(&path).unwrap();
    assert_eq!(colors.pixels(), [0, 0, 142, 0, 0, 0, 128, 64, 128]);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file stays");
    assert_eq!(bicl::data::decode::image_size(&path).unwrap(), (3, 1));

    // The target is a folder: the rename fails, and nothing stays behind.
    fs::create_dir(folder.path().join("taken")).unwrap();
    error_of(write::label_png(&folder.path().join("taken"), &labels), &folder.path().join("taken"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    assert!(write::indexed_png(&path, &labels, &COLORS).is_err(), "255 is outside a palette of 19");
}
