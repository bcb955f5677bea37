//! The built-in descriptions, each on a small tree in its set's own layout; what is wrong in a description; and the forms in
//! which people have their data.

use std::{fs, path::Path};

use bicl::data::{
    ClassList, Dataset, Description, IGNORE, LabelMap, LabelSource, RgbImage, Split, decode, sets, write,
};

const W: usize = 48;
const H: usize = 4;

fn image() -> RgbImage {
    RgbImage::new(W, H, (0..W * H * 3).map(|i| (i * 5) as u8).collect()).unwrap()
}

fn open(set: &Description, root: &Path) -> bicl::Result<Dataset> {
    Dataset::open(set, root, Split::Train, &LabelSource::Truth)
}

fn named(name: &str) -> Description {
    name.parse().unwrap()
}

/// Where one image and its label lie in each set's download, by split; the id (or colour) of road, of bicycle or the last class
/// that the set has, and of something that is no class.
type Example = (&'static str, [&'static str; 2], [&'static str; 2], [(u16, u8); 3]);

const BY_IDS: [Example; 11] = [
    (
        "gta5",
        ["images/00001.png", "labels/00001.png"],
        ["images/00001.png", "labels/00001.png"],
        [(7, 0), (33, 18), (34, 255)],
    ),
    (
        "synthia",
        ["RGB/0000000.png", "GT/LABELS/0000000.png"],
        ["RGB/0000000.png", "GT/LABELS/0000000.png"],
        [(3, 0), (11, 18), (13, 255)],
    ),
    (
        "cityscapes",
        [
            "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png",
            "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png",
        ],
        [
            "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png",
            "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png",
        ],
        [(7, 0), (33, 18), (3, 255)],
    ),
    (
        "cityscapes-trainids",
        ["leftImg8bit/train/ulm/ulm_1_leftImg8bit.png", "gtFine/train/ulm/ulm_1_gtFine_labelTrainIds.png"],
        ["leftImg8bit/val/ulm/ulm_1_leftImg8bit.png", "gtFine/val/ulm/ulm_1_gtFine_labelTrainIds.png"],
        [(0, 0), (18, 18), (255, 255)],
    ),
    (
        "acdc",
        [
            "rgb_anon/fog/train/GOPR0475/GOPR0475_frame_000041_rgb_anon.png",
            "gt/fog/train/GOPR0475/GOPR0475_frame_000041_gt_labelIds.png",
        ],
        [
            "rgb_anon/night/val/GOPR0356/GOPR0356_frame_000321_rgb_anon.png",
            "gt/night/val/GOPR0356/GOPR0356_frame_000321_gt_labelIds.png",
        ],
        [(7, 0), (33, 18), (3, 255)],
    ),
    (
        "bdd100k",
        ["images/10k/train/0004a4c0-d4dff0ad.jpg", "labels/sem_seg/masks/train/0004a4c0-d4dff0ad.png"],
        ["images/10k/val/7d06fefd-f7be05a6.jpg", "labels/sem_seg/masks/val/7d06fefd-f7be05a6.png"],
        [(0, 0), (18, 18), (255, 255)],
    ),
    (
        "idd",
        ["leftImg8bit/train/119/638495_leftImg8bit.png", "gtFine/train/119/638495_gtFine_labelcsTrainIds.png"],
        ["leftImg8bit/val/119/638495_leftImg8bit.jpg", "gtFine/val/119/638495_gtFine_labelcsTrainIds.png"],
        [(0, 0), (18, 18), (255, 255)],
    ),
    (
        "kitti",
        ["training/image_2/000000_10.png", "training/semantic/000000_10.png"],
        ["training/image_2/000000_10.png", "training/semantic/000000_10.png"],
        [(7, 0), (33, 18), (3, 255)],
    ),
    (
        "mapillary",
        ["training/images/_0GZsLP0JY2dkPQ.jpg", "training/v1.2/labels/_0GZsLP0JY2dkPQ.png"],
        ["validation/images/_0GZsLP0JY2dkPQ.jpg", "validation/v1.2/labels/_0GZsLP0JY2dkPQ.png"],
        [(13, 0), (52, 18), (65, 255)],
    ),
    (
        "synscapes",
        ["img/rgb/1.png", "img/class/1.png"],
        ["img/rgb/1.png", "img/class/1.png"],
        [(7, 0), (33, 18), (3, 255)],
    ),
    (
        "urbansyn",
        ["rgb/rgb_0001.png", "ss/ss_0001.png"],
        ["rgb/rgb_0001.png", "ss/ss_0001.png"],
        [(0, 0), (18, 18), (19, 255)],
    ),
];

#[test]
fn every_set_of_ids_reads_a_tree_of_its_own_layout() {
    for (name, train, val, ids) in BY_IDS {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let column = |i: usize| ids[i * 3 / W];
        let labels = LabelMap::new(W, H, (0..W * H).map(|i| column(i % W).0 as u8).collect()).unwrap();
        let want: Vec<u8> = (0..W * H).map(|i| column(i % W).1).collect();
        for [image_file, label_file] in [train, val] {
            write::image_png(&root.join(image_file), &image()).unwrap();
            match name {
                "synthia" => write::synthia_label_png(&root.join(label_file), &labels).unwrap(),
                _ => write::label_png(&root.join(label_file), &labels).unwrap(),
            }
        }
        let set = named(name);
        for split in [Split::Train, Split::Val] {
            let data =
                Dataset::open(&set, root, split, &LabelSource::Truth).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(data.len(), 1, "{name}");
            assert_eq!(data.read(0).unwrap().labels.unwrap().ids(), want, "{name} {split}");
        }
    }
}

#[test]
fn camvid_reads_its_colours_dark_zurich_has_labels_for_validation_and_a_folder_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let colors = [[128, 64, 128], [0, 128, 192], [64, 192, 128]].map(|color: [u8; 3]| color);
    let pixels = (0..W * H).flat_map(|i| colors[(i % W) * 3 / W]).collect();
    write::image_png(&root.join("701_StillsRaw_full/0001TP_006690.png"), &image()).unwrap();
    write::image_png(&root.join("LabeledApproved_full/0001TP_006690_L.png"), &RgbImage::new(W, H, pixels).unwrap())
        .unwrap();
    let labels = open(&named("camvid"), root).unwrap().read(0).unwrap().labels.unwrap();
    assert_eq!([0, 16, 32].map(|x| labels.row(1)[x]), [0, 12, IGNORE]);

    let zurich = named("dark-zurich");
    write::image_png(&root.join("rgb_anon/train/night/GOPR0351/GOPR0351_frame_000001_rgb_anon.png"), &image()).unwrap();
    write::image_png(&root.join("rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png"), &image()).unwrap();
    let label = root.join("gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelIds.png");
    write::label_png(&label, &LabelMap::new(W, H, vec![26; W * H]).unwrap()).unwrap();
    assert!(Dataset::open(&zurich, root, Split::Train, &LabelSource::None).is_ok());
    let error = open(&zurich, root).unwrap_err().to_string();
    assert!(error.contains("no labels in its split train"), "{error}");
    let val = Dataset::open(&zurich, root, Split::Val, &LabelSource::Truth).unwrap();
    assert!(val.read(0).unwrap().labels.unwrap().ids().iter().all(|&id| id == 13));

    let any = Dataset::open(&named("folder"), &root.join("rgb_anon"), Split::Train, &LabelSource::None).unwrap();
    let names: Vec<_> = any.items().iter().map(|item| item.name.as_str()).collect();
    assert_eq!(
        names,
        ["train/night/GOPR0351/GOPR0351_frame_000001_rgb_anon", "val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon"]
    );
    let none = Dataset::open_labelled(&named("folder"), root, Split::Val).unwrap().unwrap_err();
    assert!(none.contains("no labels"), "{none}");
}

#[test]
fn every_known_id_has_one_meaning_and_synthia_lacks_three_classes() {
    for set in sets::all().iter().filter(|set| set.labels().is_some()) {
        assert_eq!(set.classes(), &ClassList::cityscapes(), "{set}");
        // Read back, a description is the same.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("copy.toml");
        fs::write(&file, set.text()).unwrap();
        assert_eq!(&named(file.to_str().unwrap()), set);
        let absent = match set.name() {
            "synthia" => vec![9, 14, 16],
            // Buses share a colour with trucks, bicycles with their riders.
            "camvid" => vec![14, 15, 18],
            _ => vec![],
        };
        assert_eq!(set.absent_classes(), absent, "{set}");
    }
}

/// A description of one's own, five classes.
const MINE: &str = r#"name = "mine"
title = "My streets"
source = "me"
size = [48, 4]

[splits.train]
images = "a/*"
labels = "b/*"

[splits.val]
images = "c/*"
labels = "d/*"

[labels]
void_ids = [9]
absent = ["sky"]
void_colors = [[0, 0, 0]]

[labels.ids]
road = [0, 5]
sky = [1]

[labels.colors]
car = [[1, 2, 3]]

[labels.palette]
9 = [7, 7, 7]

[[class]]
name = "road"
color = [128, 64, 128]
label_id = 7

[[class]]
name = "sky"
color = [70, 130, 180]

[[class]]
name = "car"
color = [0, 0, 142]

[[class]]
name = "tree"
color = [107, 142, 35]

[[class]]
name = "wall"
color = [102, 102, 156]

[[subset]]
name = "ground"
classes = ["road", "wall"]
"#;

#[test]
fn a_description_with_an_error_in_any_field_says_file_line_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    let read = |text: &str| {
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().parse::<Description>()
    };
    let own = read(MINE).unwrap();
    assert_eq!((own.classes().len(), own.classes().subsets()[0].classes.as_slice()), (5, [0, 4].as_slice()));
    assert_eq!(own.absent_classes(), [1, 3, 4]);
    for (right, wrong, field) in [
        ("name = \"mine\"\n", "name = \"my streets\"\n", "name"),
        ("title = \"My streets\"", "title = 3", "title"),
        ("source = \"me\"", "source = [1]", "source"),
        ("size = [48, 4]", "size = [48, 0]", "size"),
        ("size = [48, 4]", "size = [48]", "size"),
        ("images = \"a/*\"", "images = \"/a/*\"", "splits.train.images"),
        ("images = \"a/*\"", "images = \"a/x\"", "splits.train.images"),
        ("labels = \"b/*\"", "labels = \"b/**/*\"", "splits.train.labels"),
        ("images = \"c/*\"", "imags = \"c/*\"", "splits.val.imags"),
        ("[splits.val]", "[splits.all]", "splits.all"),
        ("void_ids = [9]", "void_ids = [9, 300]", "labels.void_ids"),
        ("absent = [\"sky\"]", "absent = [\"ski\"]", "labels.absent"),
        ("void_colors = [[0, 0, 0]]", "void_colors = [[0, 0]]", "labels.void_colors"),
        ("road = [0, 5]", "rod = [0, 5]", "labels.ids.rod"),
        ("sky = [1]", "sky = [1, 9]", "labels.ids.sky"),
        ("car = [[1, 2, 3]]", "cat = [[1, 2, 3]]", "labels.colors.cat"),
        ("9 = [7, 7, 7]", "nine = [7, 7, 7]", "labels.palette.nine"),
        ("[labels]\n", "[labels]\nchannel = 3\n", "labels.channel"),
        ("label_id = 7", "label_id = 700", "class.label_id"),
        ("color = [70, 130, 180]", "color = \"blue\"", "class.color"),
        ("name = \"ground\"", "nam = \"ground\"", "subset.nam"),
        ("classes = [\"road\", \"wall\"]", "classes = [\"road\", \"moon\"]", "subset"),
    ] {
        assert!(MINE.contains(right), "{right}");
        let text = MINE.replacen(right, wrong, 1);
        let error = read(&text).unwrap_err().to_string();
        let at = text.find(wrong).unwrap();
        let line = 1 + text[..at].matches('\n').count() + wrong.trim_end().matches('\n').count();
        let place = format!("line {line}, {field}: ");
        let of_table = format!(", {field}: ");
        assert!(error.contains("mine.toml") && !error.contains('\n'), "{error}");
        assert!(error.contains(&place) || (field == "subset" && error.contains(&of_table)), "{error}\nlacks {place}");
    }
    let error = read(&MINE.replace("classes = [\"road\", \"wall\"]", "")).unwrap_err().to_string();
    assert!(error.contains("missing field `classes`") && error.contains("mine.toml"), "{error}");
    let error = "nowhere/mine.toml".parse::<Description>().unwrap_err().to_string();
    assert!(error.contains("nowhere/mine.toml"), "{error}");
}

#[test]
fn names_may_repeat_in_other_folders_and_images_may_lie_beside_folders() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for city in ["a/", "b/", ""] {
        write::image_png(&root.join(format!("leftImg8bit/train/{city}000000_leftImg8bit.png")), &image()).unwrap();
    }
    for junk in ["__MACOSX/000000_leftImg8bit.png", "._x.png", ".hidden/000001_leftImg8bit.png"] {
        write::atomically(&root.join("leftImg8bit/train").join(junk), b"x").unwrap();
    }
    let data = Dataset::open(&sets::cityscapes(), root, Split::Train, &LabelSource::None).unwrap();
    let names: Vec<_> = data.items().iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["000000", "a/000000", "b/000000"]);
    let paths: Vec<_> = (0..3).map(|i| data.pseudo_label_path(Path::new("p"), i).unwrap()).collect();
    assert_eq!(paths, ["p/000000.png", "p/a/000000.png", "p/b/000000.png"].map(Path::new));
}

#[test]
fn palettes_that_were_compacted_are_read_by_their_colours() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let label = root.join("labels/a.png");
    write::image_png(&root.join("images/a.png"), &image()).unwrap();
    let palette = bicl::data::classes::label_id_palette();
    let read = || open(&sets::gta5(), root).unwrap().read(0).unwrap().labels.unwrap().row(0)[..3].to_vec();
    let indices = |ids: [u8; 3]| LabelMap::new(W, H, (0..W * H).map(|i| ids[(i % W).min(2)]).collect()).unwrap();
    // As it was: road, car, void.
    write::indexed_png(&label, &indices([7, 26, 4]), &palette).unwrap();
    assert_eq!(read(), [0, 13, IGNORE]);
    // The same picture with its three colours alone.
    write::indexed_png(&label, &indices([1, 2, 0]), &[4, 7, 26].map(|id| palette[id])).unwrap();
    assert_eq!(read(), [0, 13, IGNORE]);
    // A palette that says nothing leaves the index.
    write::indexed_png(&label, &indices([7, 26, 4]), &[[9, 9, 9]; 40]).unwrap();
    assert_eq!(read(), [0, 13, IGNORE]);
    // Pole group and licence plate share colours with classes, as in the download, and stay void.
    write::indexed_png(&label, &indices([18, 34, 7]), &palette).unwrap();
    assert_eq!(read(), [IGNORE, IGNORE, 0]);
}

#[test]
fn ids_in_three_equal_channels_and_suffixes_in_capitals_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write::image_png(&root.join("images/a.PNG"), &image()).unwrap();
    let ids = (0..W * H).flat_map(|i| [if i % 2 == 0 { 7 } else { 26 }; 3]).collect();
    write::image_png(&root.join("labels/a.PNG"), &RgbImage::new(W, H, ids).unwrap()).unwrap();
    let labels = open(&sets::gta5(), root).unwrap().read(0).unwrap().labels.unwrap();
    assert_eq!(labels.row(0)[..2], [0, 13]);
}

#[test]
fn images_of_other_formats_are_read_and_turned_as_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let picture = image::RgbImage::from_fn(6, 4, |x, y| image::Rgb([(40 * x) as u8, (60 * y) as u8, 9]));
    for name in ["a.webp", "b.bmp", "c.TIF", "d.tiff"] {
        let format = image::ImageFormat::from_path(name.to_lowercase()).unwrap();
        picture.save_with_format(root.join(name), format).unwrap();
        let read = decode::read_image(&root.join(name)).unwrap();
        assert_eq!((read.width(), read.height(), read.pixels()), (6, 4, picture.as_raw().as_slice()), "{name}");
    }
    assert_eq!(Dataset::open(&named("folder"), root, Split::Train, &LabelSource::None).unwrap().len(), 4);
    // A JPEG with the EXIF entry Orientation = 6: to be turned by a quarter to the right.
    let mut jpeg = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    let jpeg = jpeg.into_inner();
    let exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut turned = jpeg[..2].to_vec();
    turned.extend([0xff, 0xe1]);
    turned.extend(((exif.len() + 2) as u16).to_be_bytes());
    turned.extend(exif);
    turned.extend(&jpeg[2..]);
    fs::write(root.join("e.jpg"), &turned).unwrap();
    let read = decode::read_image(&root.join("e.jpg")).unwrap();
    assert_eq!((read.width(), read.height()), (4, 6));
    // Its first row is the image's first column from below: red is 0 throughout, green falls.
    let first = read.row(0);
    assert!(first[0] < 40 && first[9] < 40 && first[1] > first[10], "{first:?}");
}

#[test]
fn train_ids_in_files_of_label_ids_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let put = |ids: &[u8]| {
        for name in ["a", "b"] {
            write::image_png(&root.join(format!("images/{name}.png")), &image()).unwrap();
            let map = LabelMap::new(W, H, (0..W * H).map(|i| ids[i % ids.len()]).collect()).unwrap();
            write::label_png(&root.join(format!("labels/{name}.png")), &map).unwrap();
        }
        open(&sets::gta5(), root).unwrap().expect_ids()
    };
    assert!(put(&[7, 8, 11, 26, 23, 21, 0, 4]).is_ok());
    // Few classes, but label ids.
    assert!(put(&[7, 7, 7, 8, 11, 3]).is_ok());
    let error = put(&[0, 0, 1, 2, 8, 10, 13, 255]).unwrap_err().to_string();
    assert!(error.contains("trainIds") && error.contains("cityscapes-trainids") && error.contains("a.png"), "{error}");
}
