//! Label ids of Cityscapes and GTA5 (docs/method.md, "Data") and their usual display colours.

pub(super) const ROAD: u8 = 7;
pub(super) const SIDEWALK: u8 = 8;
pub(super) const BUILDING: u8 = 11;
pub(super) const WALL: u8 = 12;
pub(super) const FENCE: u8 = 13;
pub(super) const POLE: u8 = 17;
pub(super) const LIGHT: u8 = 19;
pub(super) const SIGN: u8 = 20;
pub(super) const VEGETATION: u8 = 21;
pub(super) const TERRAIN: u8 = 22;
pub(super) const SKY: u8 = 23;
pub(super) const PERSON: u8 = 24;
pub(super) const RIDER: u8 = 25;
pub(super) const CAR: u8 = 26;
pub(super) const TRUCK: u8 = 27;
pub(super) const BUS: u8 = 28;
pub(super) const BICYCLE: u8 = 33;

/// The ids that a scene may contain, ascending: 17 of the 19 classes (no train, no motorcycle).
pub const LABEL_IDS: [u8; 17] = [
    ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR, TRUCK, BUS,
    BICYCLE,
];

/// Display colours by id, 0..=33: the palette of the paletted label files.
pub(super) const COLOURS: [[u8; 3]; 34] = {
    let mut c = [[0; 3]; 34];
    c[ROAD as usize] = [128, 64, 128];
    c[SIDEWALK as usize] = [244, 35, 232];
    c[BUILDING as usize] = [70, 70, 70];
    c[WALL as usize] = [102, 102, 156];
    c[FENCE as usize] = [190, 153, 153];
    c[POLE as usize] = [153, 153, 153];
    c[LIGHT as usize] = [250, 170, 30];
    c[SIGN as usize] = [220, 220, 0];
    c[VEGETATION as usize] = [107, 142, 35];
    c[TERRAIN as usize] = [152, 251, 152];
    c[SKY as usize] = [70, 130, 180];
    c[PERSON as usize] = [220, 20, 60];
    c[RIDER as usize] = [255, 0, 0];
    c[CAR as usize] = [0, 0, 142];
    c[TRUCK as usize] = [0, 0, 70];
    c[BUS as usize] = [0, 60, 100];
    c[31] = [0, 80, 100];
    c[32] = [0, 0, 230];
    c[BICYCLE as usize] = [119, 11, 32];
    c
};
