//! The data pipeline in images per second of one core: PNG decode, resize, crop, mirror, normalise, at the paper's sizes.
//!
//!     cargo bench --bench data                                        # writes target/bench-data/gta5, then measures
//!     OMP_NUM_THREADS=1 python tools/bench_data.py target/bench-data/gta5    # the same with PyTorch and PIL
//!
//! The parts are timed on one item; the whole through `Loader` without threads of its own.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bicl::data::resize::{Window, bicubic, nearest};
use bicl::data::rng::Rng;
use bicl::data::{
    Dataset, LabelMap, LabelSource, Loader, LoaderOptions, RgbImage, Split, TrainTransform, classes, sets, write,
};

const ITEMS: u64 = 8;
const WIDTH: usize = 1914;
const HEIGHT: usize = 1052;

fn main() -> bicl::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-data/gta5");
    for k in 0..ITEMS {
        let path = root.join(format!("images/{k:05}.png"));
        if !path.exists() {
            let (image, labels) = scene(k)?;
            write::indexed_png(&root.join(format!("labels/{k:05}.png")), &labels, &classes::label_id_palette())?;
            write::image_png(&path, &image)?;
        }
    }
    let data = Arc::new(Dataset::open(&sets::gta5(), &root, Split::Train, &LabelSource::Truth)?);

    let item = data.read(0)?;
    let full = (1547, 850);
    let window = Window { x: 400, y: 60, width: 730, height: 730 };
    let Some(labels) = &item.labels else { return Ok(()) };
    // Verified before it is timed: the window is a part of the whole.
    let (whole, part) = (bicubic(&item.image, full, Window::all(full))?, bicubic(&item.image, full, window)?);
    assert_eq!(&whole.row(60)[1200..1200 + 730 * 3], part.row(0));
    report("read image and label (PNG)", || data.read(0).map(drop))?;
    report("bicubic, whole 1547 x 850", || bicubic(&item.image, full, Window::all(full)).map(drop))?;
    report("bicubic, window 730 x 730", || bicubic(&item.image, full, window).map(drop))?;
    report("nearest, window 730 x 730", || nearest(labels, full, window).map(drop))?;
    let (mut image, mut map) = (vec![0.0; 730 * 730 * 3], vec![0; 730 * 730]);
    let mut rng = Rng::new(0, 0, 0);
    report("transform (resize to normalise)", || TrainTransform::PAPER.apply(&item, &mut rng, &mut image, &mut map))?;

    let options = LoaderOptions { batch: 2, threads: 0, ..LoaderOptions::default() };
    let mut loader = Loader::new(data, TrainTransform::PAPER, options)?;
    let seconds = report("loader, a batch of 2", || loader.next().map(drop))?;
    println!("images/s per core: {:.1}", 2.0 / seconds);
    Ok(())
}

/// Prints and returns the median time of `work`, after one call to warm up.
fn report(what: &str, mut work: impl FnMut() -> bicl::Result<()>) -> bicl::Result<f64> {
    work()?;
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 7 || start.elapsed().as_secs_f64() < 2.0 {
        let start = Instant::now();
        black_box(work()?);
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!("{what:<34} {:8.2} ms", median * 1e3);
    Ok(median)
}

/// Smooth shading, blocks with edges, and sensor noise: compresses about like a game's frames.
fn scene(seed: u64) -> bicl::Result<(RgbImage, LabelMap)> {
    let mut rng = Rng::new(seed, 0, 0);
    let tones: Vec<[f64; 3]> = (0..400).map(|_| [0.0; 3].map(|_: f64| rng.range(20.0, 220.0))).collect();
    let (mut pixels, mut ids) = (Vec::new(), Vec::new());
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let block = (x / 97) + 20 * (y / 61);
            let shade = ((x % 97) as f64 * 0.2 + (y % 61) as f64 * 0.3).sin() * 12.0;
            let noise = rng.next_u64();
            pixels.extend((0..3).map(|c| (tones[block % 400][c] + shade + (noise >> (8 * c) & 3) as f64) as u8));
            ids.push(classes::LABEL_IDS[block % 19]);
        }
    }
    Ok((RgbImage::new(WIDTH, HEIGHT, pixels)?, LabelMap::new(WIDTH, HEIGHT, ids)?))
}
