//! Cityscapes' 19 classes, their colours and ids (docs/method.md, "Data").

/// Number of classes.
pub const CLASSES: usize = 19;

/// The label of a pixel that counts nowhere.
pub const IGNORE: u8 = 255;

/// Class names by train id.
pub const NAMES: [&str; CLASSES] = [
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
];

/// Colours by train id, the ones that Cityscapes uses (red, green, blue).
pub const COLORS: [[u8; 3]; CLASSES] = [
    [128, 64, 128],
    [244, 35, 232],
    [70, 70, 70],
    [102, 102, 156],
    [190, 153, 153],
    [153, 153, 153],
    [250, 170, 30],
    [220, 220, 0],
    [107, 142, 35],
    [152, 251, 152],
    [70, 130, 180],
    [220, 20, 60],
    [255, 0, 0],
    [0, 0, 142],
    [0, 0, 70],
    [0, 60, 100],
    [0, 80, 100],
    [0, 0, 230],
    [119, 11, 32],
];

/// Train id to Cityscapes' label id, which is GTA5's too.
pub const LABEL_IDS: [u8; CLASSES] = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33];

/// Colours that a palette of label ids has at ids that are no train class: static, dynamic, ground, parking, rail track,
/// guard rail, bridge, tunnel, pole group, caravan, trailer, licence plate. Unlabeled and the like are black.
const VOID_COLORS: [(u8, [u8; 3]); 12] = [
    (4, [20, 20, 20]),
    (5, [111, 74, 0]),
    (6, [81, 0, 81]),
    (9, [250, 170, 160]),
    (10, [230, 150, 140]),
    (14, [180, 165, 180]),
    (15, [150, 100, 100]),
    (16, [150, 120, 90]),
    (18, COLORS[5]),
    (29, [0, 0, 90]),
    (30, [0, 0, 110]),
    (34, COLORS[13]),
];

/// The palette of label ids 0..=34, as GTA5's label files carry it.
pub fn label_id_palette() -> Vec<[u8; 3]> {
    let mut palette = vec![[0; 3]; 35];
    for &(id, color) in &VOID_COLORS {
        palette[usize::from(id)] = color;
    }
    for (class, &id) in LABEL_IDS.iter().enumerate() {
        palette[usize::from(id)] = COLORS[class];
    }
    palette
}

/// The class sets over which a mean IoU is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subset {
    /// All 19 classes.
    All19,
    /// SYNTHIA's 16: without terrain, truck, train.
    Synthia16,
    /// SYNTHIA's 13: also without wall, fence, pole.
    Synthia13,
}

impl Subset {
    /// The three, largest first.
    pub const ALL: [Self; 3] = [Self::All19, Self::Synthia16, Self::Synthia13];

    /// Whether train id `class` belongs to the set.
    pub fn contains(self, class: usize) -> bool {
        class < CLASSES
            && match self {
                Self::All19 => true,
                Self::Synthia16 => !matches!(class, 9 | 14 | 16),
                Self::Synthia13 => !matches!(class, 3 | 4 | 5 | 9 | 14 | 16),
            }
    }

    /// The train ids of the set, ascending.
    pub fn classes(self) -> Vec<usize> {
        (0..CLASSES).filter(|&class| self.contains(class)).collect()
    }
}
