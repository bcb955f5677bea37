//! Resizing against Pillow, to the bit (golden file by tools/goldens_pillow.py), and windows against resize-then-crop.

use bicl::data::resize::{Window, bicubic, nearest};
use bicl::data::{LabelMap, RgbImage};
use proptest::prelude::*;
use serde_json::Value;

/// `source` of tools/goldens_pillow.py.
fn source(width: usize, height: usize) -> RgbImage {
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                let value = if (x + y) % 7 == 0 {
                    (x / 5 + y / 3 + c) % 2 * 255
                } else if c == 1 {
                    (x * 3 + y * 5) % 256
                } else {
                    (x * 7919 + y * 104_729 + c * 1_299_709) % 251
                };
                pixels.push(value as u8);
            }
        }
    }
    RgbImage::new(width, height, pixels).unwrap()
}

fn fnv(data: impl IntoIterator<Item = u8>) -> String {
    let hash = data
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

fn golden(key: &str) -> Vec<Value> {
    let golden: Value = serde_json::from_str(include_str!("../golden/pillow.json")).unwrap();
    golden[key].as_array().unwrap().clone()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

#[test]
fn bicubic_equals_pillow() {
    let cases = golden("bicubic");
    assert!(cases.len() >= 14);
    for case in cases {
        let size = (number(&case["size"][0]), number(&case["size"][1]));
        let out = (number(&case["out"][0]), number(&case["out"][1]));
        let got = bicubic(&source(size.0, size.1), out, Window::all(out)).unwrap();
        if let Some(want) = case["pixels"].as_array() {
            let want: Vec<u8> = want.iter().map(|v| number(v) as u8).collect();
            assert_eq!(got.pixels(), want, "{size:?} -> {out:?}");
        }
        assert_eq!(fnv(got.pixels().iter().copied()), case["hash"], "{size:?} -> {out:?}");
    }
}

#[test]
fn nearest_equals_pillow() {
    let cases = golden("nearest");
    assert!(cases.len() >= 100);
    for case in cases {
        let (size, out) = (number(&case["size"]), number(&case["out"]));
        // Indices go beyond a byte: two maps carry the low and the high part. Both axes obey one rule.
        let index = |axis_is_x: bool| -> Vec<u32> {
            let part = |shift: u32| {
                let ids = (0..size).map(|i| (i >> shift) as u8).collect();
                let (map, full) = if axis_is_x {
                    (LabelMap::new(size, 1, ids).unwrap(), (out, 1))
                } else {
                    (LabelMap::new(1, size, ids).unwrap(), (1, out))
                };
                nearest(&map, full, Window::all(full)).unwrap().ids().to_vec()
            };
            part(0).iter().zip(part(8)).map(|(&low, high)| u32::from(low) | u32::from(high) << 8).collect()
        };
        for got in [index(true), index(false)] {
            if let Some(want) = case["indices"].as_array() {
                assert_eq!(got, want.iter().map(|v| number(v) as u32).collect::<Vec<_>>(), "{size} -> {out}");
            }
            assert_eq!(fnv(got.iter().flat_map(|i| i.to_le_bytes())), case["hash"], "{size} -> {out}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn window_equals_resize_then_crop(
        size in (1_usize..60, 1_usize..60),
        full in (1_usize..80, 1_usize..80),
        at in (0.0..1.0, 0.0..1.0, 0.0..1.0, 0.0..1.0),
    ) {
        let part = |start: f64, len: f64, end: usize| {
            let start = (start * end as f64) as usize;
            (start, 1 + (len * (end - start) as f64) as usize)
        };
        let ((x, width), (y, height)) = (part(at.0, at.1, full.0), part(at.2, at.3, full.1));
        let window = Window { x, y, width: width.min(full.0 - x), height: height.min(full.1 - y) };

        let image = source(size.0, size.1);
        let whole = bicubic(&image, full, Window::all(full)).unwrap();
        let got = bicubic(&image, full, window).unwrap();
        for row in 0..window.height {
            prop_assert_eq!(got.row(row), &whole.row(y + row)[x * 3..(x + window.width) * 3]);
        }

        let ids = image.pixels().iter().step_by(3).copied().collect();
        let labels = LabelMap::new(size.0, size.1, ids).unwrap();
        let whole = nearest(&labels, full, Window::all(full)).unwrap();
        let got = nearest(&labels, full, window).unwrap();
        for row in 0..window.height {
            prop_assert_eq!(got.row(row), &whole.row(y + row)[x..x + window.width]);
        }
    }
}

#[test]
fn window_outside_is_an_error() {
    let image = source(4, 4);
    for window in [
        Window { x: 0, y: 0, width: 9, height: 1 },
        Window { x: 8, y: 0, width: 1, height: 1 },
        Window { x: 0, y: 0, width: 0, height: 1 },
        Window { x: usize::MAX, y: 0, width: 2, height: 1 },
    ] {
        let error = bicubic(&image, (8, 8), window).unwrap_err().to_string();
        assert!(error.contains("resize::bicubic") && error.contains("8 x 8"), "{error}");
    }
}
