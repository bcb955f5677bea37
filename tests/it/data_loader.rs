//! Transforms and the loader: what they compute, and that the order hangs on the seed alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bicl::data::resize::{Window, bicubic, nearest};
use bicl::data::rng::Rng;
use bicl::data::{
    Batch, Dataset, EvalLoader, EvalSize, EvalTransform, Example, Jitter, LabelMap, LabelSource, Loader, LoaderOptions,
    Normalize, RgbImage, Split, TrainTransform, write,
};
use proptest::prelude::*;

fn picture(width: usize, height: usize, seed: u64) -> RgbImage {
    let mut rng = Rng::new(seed, 0, 0);
    RgbImage::new(width, height, (0..width * height * 3).map(|_| rng.next_u64() as u8).collect()).unwrap()
}

fn example(width: usize, height: usize, seed: u64) -> Example {
    let ids = (0..width * height).map(|i| if i % 11 == 0 { 255 } else { (i % 19) as u8 }).collect();
    let labels = Some(LabelMap::new(width, height, ids).unwrap());
    Example { name: format!("{seed:03}"), image: picture(width, height, seed), labels }
}

/// Nothing random: the whole image, as it is.
fn plain(crop: (usize, usize)) -> TrainTransform {
    TrainTransform { short_side: None, scale: [1.0, 1.0], crop, mirror: 0.0, jitter: None, normalize: Normalize::Caffe }
}

fn apply(transform: &TrainTransform, example: &Example, seed: u64) -> (Vec<f32>, Vec<u8>) {
    let (width, height) = transform.crop;
    // Poisoned, so that what is not written shows.
    let (mut image, mut labels) = (vec![f32::NAN; width * height * 3], vec![99; width * height]);
    transform.apply(example, &mut Rng::new(seed, 2, 0), &mut image, &mut labels).unwrap();
    (image, labels)
}

#[test]
fn normalisation_of_known_pixels() {
    let image = RgbImage::new(2, 1, vec![10, 20, 30, 255, 0, 128]).unwrap();
    let one = Example { name: "x".into(), image: image.clone(), labels: None };
    let (caffe, labels) = apply(&plain((2, 1)), &one, 0);
    let want = [30.0 - 104.006_99, 20.0 - 116.668_77, 10.0 - 122.678_92, 128.0 - 104.006_99, -116.668_77, 132.321_08];
    for (got, want) in caffe.iter().zip(want) {
        assert!((got - want).abs() <= 1e-4, "{got} {want}");
    }
    assert_eq!(labels, [255, 255], "no labels");
    let (_, _, torch) =
        EvalTransform { size: EvalSize::Original, normalize: Normalize::Imagenet }.apply(&image).unwrap();
    // torchvision: (x / 255 - mean) / std.
    let want = [-1.946_658_f32, -1.685_574_2, -1.281_569_7, 2.248_908_3, -2.035_714_4, 0.426_492_4];
    for (got, want) in torch.iter().zip(want) {
        assert!((got - want).abs() <= 1e-5, "{got} {want}");
    }
}

#[test]
fn crop_larger_than_the_image_is_padded() {
    let small = example(5, 4, 1);
    let plain_values = apply(&plain((5, 4)), &small, 0);
    for mirror in [0.0, 1.0] {
        let (image, labels) = apply(&TrainTransform { mirror, ..plain((8, 6)) }, &small, 0);
        for y in 0..6 {
            for x in 0..8 {
                let (at, inside) = (y * 8 + x, x < 5 && y < 4);
                if inside {
                    let from = y * 5 + if mirror == 1.0 { 4 - x } else { x };
                    assert_eq!(image[at * 3..at * 3 + 3], plain_values.0[from * 3..from * 3 + 3], "({x}, {y})");
                    assert_eq!(labels[at], plain_values.1[from]);
                } else {
                    assert_eq!(image[at * 3..at * 3 + 3], [0.0; 3], "({x}, {y})");
                    assert_eq!(labels[at], 255);
                }
            }
        }
    }
}

#[test]
fn a_crop_is_a_window_of_the_resized_image() {
    let item = example(64, 48, 3);
    let transform =
        TrainTransform { short_side: Some(36), scale: [0.8, 1.2], crop: (20, 16), mirror: 0.5, ..plain((1, 1)) };
    let (mut mirrored, mut scales, mut corners) = (0, Vec::new(), [[false; 2]; 2]);
    for seed in 0..400 {
        let (image, labels) = apply(&transform, &item, seed);
        // The documented draws: scale, left, top, mirror.
        let mut rng = Rng::new(seed, 2, 0);
        let scale = rng.range(0.8, 1.2);
        let (left, top, mirror) = (rng.unit(), rng.unit(), rng.chance(0.5));
        let full = ((64.0 * scale * 0.75).round() as usize, (48.0 * scale * 0.75).round() as usize);
        let place = |unit: f64, spare: usize| (unit * (spare + 1) as f64) as usize;
        let window = Window { x: place(left, full.0 - 20), y: place(top, full.1 - 16), width: 20, height: 16 };
        let whole = bicubic(&item.image, full, Window::all(full)).unwrap();
        let map = nearest(item.labels.as_ref().unwrap(), full, Window::all(full)).unwrap();
        for y in 0..16 {
            for x in 0..20 {
                let (column, row) = (window.x + if mirror { 19 - x } else { x }, window.y + y);
                assert_eq!(labels[y * 20 + x], map.row(row)[column]);
                let pixel = &whole.row(row)[column * 3..column * 3 + 3];
                let want = [2, 1, 0].map(|c| Normalize::Caffe.value(2 - c, f32::from(pixel[c])));
                assert_eq!(image[(y * 20 + x) * 3..][..3], want);
            }
        }
        mirrored += usize::from(mirror);
        scales.push(scale);
        corners[0][0] |= window.x == 0;
        corners[0][1] |= window.x == full.0 - 20;
        corners[1][0] |= window.y == 0;
        corners[1][1] |= window.y == full.1 - 16;
    }
    assert!((160..240).contains(&mirrored), "{mirrored} of 400 mirrored");
    assert!(scales.iter().any(|&s| s < 0.82) && scales.iter().any(|&s| s > 1.18));
    assert_eq!(corners, [[true; 2]; 2], "every border is reached");
}

#[test]
fn jitter_stays_in_its_ranges() {
    let item = example(16, 16, 5);
    let fixed = |log_gamma, contrast, brightness, gain| {
        Some(Jitter {
            log_gamma: [log_gamma; 2],
            contrast: [contrast; 2],
            brightness: [brightness; 2],
            gain: [gain; 2],
        })
    };
    let run = |jitter| apply(&TrainTransform { jitter, normalize: Normalize::Imagenet, ..plain((16, 16)) }, &item, 0).0;
    let level = |value: f32, c: usize| value * [0.229, 0.224, 0.225][c] + [0.485, 0.456, 0.406][c];
    let plain_image = run(None);
    let close = |got: &[f32], want: &dyn Fn(f32) -> f32| {
        for (i, (&got, &from)) in got.iter().zip(&plain_image).enumerate() {
            let (got, want) = (level(got, i % 3), want(level(from, i % 3)).clamp(0.0, 1.0));
            assert!((got - want).abs() < 1e-5, "{i}: {got} {want}");
        }
    };
    close(&run(fixed(0.0, 1.0, 1.0, 1.0)), &|v| v);
    close(&run(fixed(0.7, 1.0, 1.0, 1.0)), &|v| v.max(0.0).powf(0.7_f32.exp()));
    close(&run(fixed(0.0, 1.0, 0.3, 1.0)), &|v| v * 0.3);
    close(&run(fixed(0.0, 1.0, 1.0, 1.3)), &|v| v * 1.3);
    let grey: f32 = item
        .image
        .pixels()
        .chunks(3)
        .map(|p| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]))
        .sum();
    let mean = grey / 256.0 / 255.0;
    close(&run(fixed(0.0, 0.5, 1.0, 1.0)), &|v| (v - mean) * 0.5 + mean);

    let transform = TrainTransform { jitter: Some(Jitter::SCRATCH), ..plain((16, 16)) };
    let (first, labels) = apply(&transform, &item, 1);
    assert_ne!(first, apply(&transform, &item, 2).0);
    assert_eq!(labels, apply(&plain((16, 16)), &item, 1).1, "labels are not touched");
    assert!(first.iter().all(|v| v.is_finite() && (-123.0..=152.0).contains(v)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_transform_fills_its_buffers(
        size in (1_usize..40, 1_usize..40),
        crop in (1_usize..40, 1_usize..40),
        short in proptest::option::of(1_usize..50),
        scale in (0.01_f64..3.0, 0.0_f64..1.0),
        seed in any::<u64>(),
        jitter in any::<bool>(),
    ) {
        let transform = TrainTransform {
            short_side: short,
            scale: [scale.0, scale.0 + scale.1],
            crop,
            mirror: 0.5,
            jitter: jitter.then_some(Jitter::SCRATCH),
            normalize: Normalize::Imagenet,
        };
        transform.validate().unwrap();
        let (image, labels) = apply(&transform, &example(size.0, size.1, 1), seed);
        prop_assert!(image.iter().all(|v| v.is_finite() && v.abs() < 3.0));
        prop_assert!(labels.iter().all(|&id| id < 19 || id == 255));
    }
}

#[test]
fn senseless_settings_are_refused() {
    let good = TrainTransform { jitter: Some(Jitter::SCRATCH), ..TrainTransform::PAPER };
    good.validate().unwrap();
    for bad in [
        TrainTransform { short_side: Some(0), ..good },
        TrainTransform { crop: (0, 5), ..good },
        TrainTransform { scale: [1.2, 0.8], ..good },
        TrainTransform { scale: [0.0, 1.0], ..good },
        TrainTransform { scale: [f64::NAN, 1.0], ..good },
        TrainTransform { scale: [1.0, f64::INFINITY], ..good },
        TrainTransform { mirror: 1.5, ..good },
        TrainTransform { mirror: f64::NAN, ..good },
        TrainTransform { jitter: Some(Jitter { contrast: [-1.0, 1.0], ..Jitter::SCRATCH }), ..good },
    ] {
        assert!(bad.validate().unwrap_err().to_string().starts_with("config: "), "{bad:?}");
    }
    let item = example(4, 4, 0);
    let error = good.apply(&item, &mut Rng::new(0, 0, 0), &mut [0.0; 3], &mut [0]).unwrap_err();
    assert!(error.to_string().contains("730 x 730"), "{error}");
}

fn gta5(root: &Path, items: usize) -> Arc<Dataset> {
    for k in 0..items {
        let item = example(40 + k, 30 + k % 3, k as u64);
        write::image_png(&root.join(format!("images/{k:03}.png")), &item.image).unwrap();
        let ids = item.labels.unwrap();
        let ids = LabelMap::new(ids.width(), ids.height(), ids.ids().iter().map(|&id| id.min(33)).collect()).unwrap();
        write::label_png(&root.join(format!("labels/{k:03}.png")), &ids).unwrap();
    }
    Arc::new(Dataset::open(&bicl::data::sets::gta5(), root, Split::Train, &LabelSource::Truth).unwrap())
}

fn transform() -> TrainTransform {
    TrainTransform {
        short_side: Some(24),
        scale: [0.8, 1.2],
        crop: (18, 14),
        mirror: 0.5,
        jitter: Some(Jitter::SCRATCH),
        normalize: Normalize::Imagenet,
    }
}

fn batches(data: &Arc<Dataset>, options: LoaderOptions, count: usize) -> Vec<Batch> {
    let mut loader = Loader::new(data.clone(), transform(), options).unwrap();
    (0..count).map(|_| loader.next().unwrap()).collect()
}

#[test]
fn order_and_content_hang_on_the_seed_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = gta5(folder.path(), 7);
    let base = LoaderOptions { batch: 3, seed: 42, threads: 0, prefetch: 1, position: 0, cache_bytes: 0 };
    let want = batches(&data, base, 20);
    for (threads, prefetch) in [(0, 0), (1, 1), (1, 5), (4, 2), (4, 9)] {
        for cache_bytes in [0, 9000, 1 << 20] {
            let got = batches(&data, LoaderOptions { threads, prefetch, cache_bytes, ..base }, 20);
            assert!(got == want, "{threads} threads, prefetch {prefetch}, cache {cache_bytes}");
        }
    }
    for position in [1, 7, 19] {
        let got = batches(&data, LoaderOptions { threads: 2, position, ..base }, 20 - position as usize);
        assert!(got[..] == want[position as usize..], "resumed at {position}");
    }
    for (position, batch) in want.iter().enumerate() {
        assert_eq!((batch.count, batch.height, batch.width, batch.position), (3, 14, 18, position as u64));
        assert_eq!((batch.images.len(), batch.labels.len()), (3 * 14 * 18 * 3, 3 * 14 * 18));
    }
    assert!(batches(&data, LoaderOptions { seed: 43, ..base }, 20) != want);

    // Every epoch of 7 holds each item once, and the epochs are ordered differently.
    let names: Vec<&String> = want.iter().flat_map(|batch| &batch.names).collect();
    let epochs: Vec<&[&String]> = names.chunks_exact(7).collect();
    for epoch in &epochs {
        let mut sorted = epoch.to_vec();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 7);
    }
    assert!(epochs.windows(2).any(|pair| pair[0] != pair[1]));
    // The same item looks different each time.
    let mut looks: BTreeMap<&String, Vec<&[f32]>> = BTreeMap::new();
    for batch in &want {
        for (name, image) in batch.names.iter().zip(batch.images.chunks_exact(14 * 18 * 3)) {
            looks.entry(name).or_default().push(image);
        }
    }
    assert!(looks.values().all(|looks| looks[0] != looks[1]));
}

#[test]
fn errors_arrive_in_order_and_can_be_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let data = gta5(folder.path(), 5);
    let base = LoaderOptions { batch: 1, seed: 1, threads: 0, prefetch: 8, position: 0, cache_bytes: 0 };
    let want = batches(&data, base, 5);
    let path = folder.path().join(format!("images/{}.png", want[3].names[0]));
    let good = fs::read(&path).unwrap();
    for threads in [0, 1, 4] {
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        let mut loader = Loader::new(data.clone(), transform(), LoaderOptions { threads, ..base }).unwrap();
        for want in &want[..3] {
            assert!(loader.next().unwrap() == *want);
        }
        for _ in 0..2 {
            let error = loader.next().unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()) && error.contains("truncated"), "{error}");
            assert_eq!(loader.position(), 3);
        }
        fs::write(&path, &good).unwrap();
        // A thread may have met the broken file once more before it was repaired.
        let next = loader.next().or_else(|_| loader.next()).unwrap();
        assert!(next == want[3] && loader.next().unwrap() == want[4], "{threads} threads");
    }
}

#[test]
fn dropping_ends_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    let data = gta5(folder.path(), 3);
    let options = LoaderOptions { batch: 2, threads: 4, prefetch: 1000, ..LoaderOptions::default() };
    let start = Instant::now();
    for _ in 0..20 {
        let mut loader = Loader::new(data.clone(), transform(), options).unwrap();
        loader.next().unwrap();
    }
    // Without an early end, 20 x 1000 batches would be made: the thread's share of the data set would be held, too.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(Arc::strong_count(&data), 1, "a thread still holds the data set");
    assert!(Loader::new(data, transform(), LoaderOptions { batch: 0, ..options }).is_err());
}

#[test]
fn evaluation_reads_each_image_once_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let data = gta5(folder.path(), 5);
    let collect = |size, threads| -> Vec<_> {
        let transform = EvalTransform { size, normalize: Normalize::Imagenet };
        EvalLoader::new(data.clone(), transform, threads).unwrap().map(Result::unwrap).collect()
    };
    let want = collect(EvalSize::Exact(20, 16), 0);
    assert_eq!(want, collect(EvalSize::Exact(20, 16), 3));
    assert_eq!(want.len(), 5);
    for (k, item) in want.iter().enumerate() {
        assert_eq!((item.index, item.name.as_str()), (k, format!("{k:03}").as_str()));
        assert_eq!((item.width, item.height, item.image.len()), (20, 16, 20 * 16 * 3));
        assert_eq!(item.full_size, (30 + k % 3, 40 + k));
        let labels = item.labels.as_ref().unwrap();
        assert_eq!((labels.height(), labels.width()), item.full_size, "labels keep their resolution");
        assert_eq!(labels, &data.read(k).unwrap().labels.unwrap());
    }
    // 41 x 31 with a shorter side of 20: 41 * 20 / 31 = 26.45.
    let short = collect(EvalSize::ShortSide(20), 1);
    assert_eq!((short[1].width, short[1].height), (26, 20));
    let original = collect(EvalSize::Original, 1);
    assert_eq!((original[4].width, original[4].height), (44, 31));
    fs::write(folder.path().join("images/002.png"), "").unwrap();
    let transform = EvalTransform { size: EvalSize::Original, normalize: Normalize::Caffe };
    let mut loader = EvalLoader::new(data.clone(), transform, 2).unwrap();
    assert!(loader.next().unwrap().is_ok() && loader.next().unwrap().is_ok());
    assert!(loader.next().unwrap().unwrap_err().to_string().contains("002.png"));
}
