//! The 19 classes, their colours, and the id tables of the data sets (docs/method.md, "Data").

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

/// Train id to Cityscapes label id (also GTA5's id): the inverse of [`Ids::Cityscapes`].
pub const LABEL_IDS: [u8; CLASSES] = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33];

/// Train id to SYNTHIA id.
const SYNTHIA_IDS: [u8; CLASSES] = [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11];

/// Colours of the label ids that are no train class: static, dynamic, ground, parking, rail track, guard rail, bridge,
/// tunnel, caravan, trailer. Unlabeled and the like are black; pole group and licence plate share a class's colour.
const VOID_COLORS: [(u8, [u8; 3]); 10] = [
    (4, [20, 20, 20]),
    (5, [111, 74, 0]),
    (6, [81, 0, 81]),
    (9, [250, 170, 160]),
    (10, [230, 150, 140]),
    (14, [180, 165, 180]),
    (15, [150, 100, 100]),
    (16, [150, 120, 90]),
    (29, [0, 0, 90]),
    (30, [0, 0, 110]),
];

/// How a label file counts its classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ids {
    /// `labelIds`: 0..=33, and 255 for -1 (licence plate).
    Cityscapes,
    /// As Cityscapes, and 34 (licence plate).
    Gta5,
    /// 0..=22, and 255.
    Synthia,
    /// Train ids: 0..=18, and 255.
    Train,
}

impl Ids {
    /// The largest id below 255 that the data set knows.
    pub fn last(self) -> u8 {
        match self {
            Self::Cityscapes => 33,
            Self::Gta5 => 34,
            Self::Synthia => 22,
            Self::Train => 18,
        }
    }

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cityscapes => "Cityscapes labelIds",
            Self::Gta5 => "GTA5",
            Self::Synthia => "SYNTHIA",
            Self::Train => "trainIds",
        }
    }

    /// The 256-entry table id -> train id; [`IGNORE`] for known ids outside the 19 classes, `None` for unknown ids.
    pub fn table(self) -> [Option<u8>; 256] {
        let mut table = [None; 256];
        table[..=usize::from(self.last())].fill(Some(IGNORE));
        table[255] = Some(IGNORE);
        for class in 0..CLASSES as u8 {
            let id = match self {
                Self::Cityscapes | Self::Gta5 => LABEL_IDS[usize::from(class)],
                Self::Synthia => SYNTHIA_IDS[usize::from(class)],
                Self::Train => class,
            };
            table[usize::from(id)] = Some(class);
        }
        table
    }
}

/// The train id of a colour in a label image that is coloured with GTA5's and Cityscapes' palette; [`IGNORE`] for the
/// colours of the other label ids, `None` for an unknown colour.
///
/// ```
/// assert_eq!(bicl::data::classes::of_color([128, 64, 128]), Some(0));
/// assert_eq!(bicl::data::classes::of_color([1, 2, 3]), None);
/// ```
pub fn of_color(color: [u8; 3]) -> Option<u8> {
    if let Some(class) = COLORS.iter().position(|&known| known == color) {
        return Some(class as u8);
    }
    (color == [0; 3] || VOID_COLORS.iter().any(|&(_, known)| known == color)).then_some(IGNORE)
}

/// The palette of label ids 0..=34, as GTA5's label files carry it.
pub fn label_id_palette() -> Vec<[u8; 3]> {
    let mut palette = vec![[0; 3]; 35];
    for &(id, color) in &VOID_COLORS {
        palette[usize::from(id)] = color;
    }
    for (class, &id) in LABEL_IDS.iter().enumerate() {
        palette[usize::from(id)] = COLORS[class];
    }
    palette[18] = COLORS[5];
    palette[34] = COLORS[13];
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
