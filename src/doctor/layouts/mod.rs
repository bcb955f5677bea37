//! Where a Hopper GPU's copies and products put their elements, which the emulator assumes and the kernels rely on. Every expected
//! element is worked out here from the rule.

mod cuda;
pub mod probe;

use half::bf16;

use super::{
    check::{Check, Trouble, need_warpgroups},
    compare::{Bound, Inputs, expect_values, wide},
};
use crate::{DType, Device, Result, Tensor, tensor::Declaration};

const OP: &str = "layouts";

/// Elements of a line of 128 bytes.
const LINE: usize = 64;
/// Lines of the box that [`probe::tma_swizzle`] and [`probe::tma_zero_outside`] load.
pub const BOX_LINES: usize = 16;
/// Pixels that [`probe::tma_im2col`] gathers.
pub const PIXELS: usize = 32;

/// What [`probe::tma_im2col`] gathers. Pairs are (x, y).
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// The bounding box begins so far from the image's first pixel,
    pub lower: [i32; 2],
    /// and ends so far from its last.
    pub upper: [i32; 2],
    /// From one pixel to the next.
    pub step: [u32; 2],
    /// First channel, and x, y and image of the first pixel before the offset.
    pub at: [i32; 4],
    /// Each pixel is read so far to the right and down.
    pub offset: [i32; 2],
}

/// A layout, and how to see it.
pub struct Probe {
    /// Unique among the probes.
    pub name: &'static str,
    cases: Box<Launches>,
}

type Launches = dyn Fn(&Device) -> Result<Vec<Case>>;

/// What a launch left, and what it must have.
pub struct Case {
    /// Which launch.
    pub what: String,
    /// Its result.
    pub got: Tensor,
    want: Vec<f64>,
}

impl Case {
    /// Errors at the first element that is not as it must be.
    pub fn expect(&self) -> Result<(), Trouble> {
        expect_values(&self.what, &wide(&self.got)?, &self.want, Bound::Exact)
    }
}

impl Probe {
    fn new(name: &'static str, cases: impl Fn(&Device) -> Result<Vec<Case>> + 'static) -> Self {
        Self { name, cases: Box::new(cases) }
    }

    /// Launches on a device with warpgroup products; errors where it has none.
    pub fn cases(&self, device: &Device) -> Result<Vec<Case>> {
        (self.cases)(device)
    }
}

const ADVICE: &str = "this card lays elements out otherwise than the kernels for compute capability 9.0 assume, and their results in \
                      bf16 would be wrong: train with --precision tf32, and report this row with the card and its driver";

pub(super) fn checks() -> Vec<Check> {
    let check = |probe: Probe| {
        Check::new("layouts", probe.name, ADVICE, move |device| {
            let cases = probe.cases(&need_warpgroups(device)?)?;
            cases.iter().try_for_each(Case::expect)?;
            Ok(format!("{} launches", cases.len()))
        })
    };
    probes().into_iter().map(check).collect()
}

/// The kernels that ask.
pub(super) fn declarations() -> Vec<Declaration> {
    cuda::declarations()
}

/// Every layout that the kernels for warpgroups rely on.
pub fn probes() -> Vec<Probe> {
    let mut probes = vec![
        Probe::new("TMA: swizzled box", swizzled_box),
        Probe::new("TMA: zeros outside", zeros_outside),
        Probe::new("TMA: im2col", gathers),
        Probe::new("TMA: stores clip", stores),
        Probe::new("cluster: shared copies", shared_copies),
        Probe::new("cluster: arrivals", arrivals),
    ];
    probes.extend(products().into_iter().map(|product| {
        Probe::new(product.name, move |device| {
            let [a, b] = product.factors(device)?;
            let got = (product.run)(&a, &b)?;
            Ok(vec![Case { what: product.name.to_owned(), got, want: product.expected(&a, &b)? }])
        })
    }));
    probes.push(Probe::new("maps in a graph", replays));
    probes
}

/// Element `i` of a tensor in which all differ and none is zero. There are no more than 0x4f00 in bf16.
fn number(i: usize) -> bf16 {
    bf16::from_bits(0x3000 + i as u16)
}

fn numbered(shape: &[usize], device: &Device) -> Result<Tensor> {
    Tensor::from_vec((0..shape.iter().product()).map(number).collect(), shape, device)
}

/// A box of lines of 64 as it must lie in shared memory, of which `element` says where in a numbered tensor each element comes from;
/// `None` is zero. Line `l` has its 16-byte chunk `c` in place `c` XOR `l % 8`.
fn box_of(what: String, got: Tensor, element: impl Fn(usize, usize) -> Option<usize>) -> Case {
    let lies = |i: usize| {
        let (line, place) = (i / 64, i % 64);
        let column = ((place / 8) ^ (line % 8)) * 8 + place % 8;
        element(line, column).map_or(0.0, |i| number(i).to_f64())
    };
    Case { what, want: (0..got.len()).map(lies).collect(), got }
}

fn swizzled_box(device: &Device) -> Result<Vec<Case>> {
    let got = probe::tma_swizzle(&numbered(&[20, 128], device)?)?;
    Ok(vec![box_of("box".into(), got, |line, column| Some(line * 128 + column))])
}

fn zeros_outside(device: &Device) -> Result<Vec<Case>> {
    const LINES: i32 = 10;
    const COLUMNS: i32 = 48;
    let x = numbered(&[LINES as usize, COLUMNS as usize], device)?;
    let case = |at: [i32; 2]| {
        let element = |line: usize, column: usize| {
            let (x, y) = (at[0] + column as i32, at[1] + line as i32);
            let inside = (0..COLUMNS).contains(&x) && (0..LINES).contains(&y);
            inside.then_some((y * COLUMNS + x) as usize)
        };
        Ok(box_of(format!("box at {at:?}"), probe::tma_zero_outside(&x, at)?, element))
    };
    [[-8, -3], [0, 0], [40, 4], [-56, 7], [-64, 2], [8, 10]].into_iter().map(case).collect()
}

/// A 3 x 3 convolution's taps over two images, along the bounding box and into the next image: padding 2 along x and 1 along y,
/// dilation 2.
fn gathers(device: &Device) -> Result<Vec<Case>> {
    const CHANNELS: i32 = 128;
    const IMAGES: i32 = 2;
    let (lower, upper) = ([-2, -1], [2 - 4, 1 - 4]);
    let mut cases = Vec::new();
    for ([width, height], step) in [([9, 7], [2, 2]), ([10, 7], [2, 2]), ([9, 8], [2, 1]), ([8, 8], [1, 2])] {
        let x = numbered(&[IMAGES as usize, height as usize, width as usize, CHANNELS as usize], device)?;
        // Every pixel of every image's bounding box, in the order of the gather.
        let mut pixels = Vec::new();
        for image in 0..IMAGES {
            for y in (lower[1]..height + upper[1]).step_by(step[1]) {
                pixels.extend((lower[0]..width + upper[0]).step_by(step[0]).map(|x| (x, y, image)));
            }
        }
        // From the start, from the middle of a row, from the second image on past the last.
        for first in [0, 3, pixels.len() - 11] {
            for (channel, offset) in [(0, [0, 0]), (64, [2, 4]), (0, [4, 2]), (96, [4, 4]), (64, [0, 2])] {
                let (left, top, image) = pixels[first];
                let at = [channel, left, top, image];
                let gather = Gather { lower, upper, step: step.map(|step| step as u32), at, offset };
                let element = |line: usize, column: usize| {
                    let &(x, y, image) = pixels.get(first + line)?;
                    let (x, y, c) = (x + offset[0], y + offset[1], channel + column as i32);
                    let inside = (0..width).contains(&x) && (0..height).contains(&y) && c < CHANNELS;
                    inside.then_some((((image * height + y) * width + x) * CHANNELS + c) as usize)
                };
                let got = probe::tma_im2col(&x, &gather)?;
                cases.push(box_of(format!("{width} x {height}, {gather:?}"), got, element));
            }
        }
    }
    Ok(cases)
}

/// What lies outside stays untouched.
fn stores(device: &Device) -> Result<Vec<Case>> {
    const LINES: i32 = 100;
    let source = numbered(&[64, 64], device)?;
    let case = |first: i32| {
        let mut got = Tensor::full(&[2, LINES as usize, 64], -1.0, DType::Bf16, device)?;
        probe::tma_store_clips(&source, &mut got, first)?;
        let stored = |i: usize| {
            let (line, column) = ((i / 64) as i32, i % 64);
            let is_stored = line < LINES && (first..first + 64).contains(&line);
            if is_stored { number((line - first) as usize * 64 + column).to_f64() } else { -1.0 }
        };
        Ok(Case { what: format!("from line {first}"), want: (0..got.len()).map(stored).collect(), got })
    };
    [0, 36, 64].into_iter().map(case).collect()
}

/// The swizzle of a line does not depend on the block.
fn shared_copies(device: &Device) -> Result<Vec<Case>> {
    let got = probe::tma_share(&numbered(&[40, 64], device)?)?;
    Ok(vec![box_of("both blocks".into(), got, |line, column| Some(line % 32 * 64 + column))])
}

fn arrivals(device: &Device) -> Result<Vec<Case>> {
    let case = |what: &str, got: Tensor, want: &[f64]| Case { what: what.to_owned(), got, want: want.to_vec() };
    let pair = case("ten times the size and the rank, of a pair", probe::cluster_arrive(device)?, &[20.0, 21.0]);
    let alone = case("the same of a block alone", probe::cluster_of_one(device)?, &[10.0]);
    Ok(vec![pair, alone])
}

/// Which of a factor's elements is (row or column, depth).
#[derive(Clone, Copy)]
enum Lines {
    Kept,
    Turned,
}

impl Lines {
    /// Of values with `length` in a line.
    fn at(self, values: &[f64], length: usize, i: usize, depth: usize) -> f64 {
        match self {
            Self::Kept => values[i * length + depth],
            Self::Turned => values[depth * length + i],
        }
    }
}

/// A product: the kernel, the factors' shapes and sense, A's first row, and how much of the depth counts.
struct Product {
    name: &'static str,
    run: fn(&Tensor, &Tensor) -> Result<Tensor>,
    a: ([usize; 2], Lines),
    b: ([usize; 2], Lines),
    first_row: usize,
    depth: usize,
}

fn products() -> Vec<Product> {
    use Lines::{Kept, Turned};
    let square = ([64, 64], Kept);
    let deep = |name, run, a, b| Product { name, run, a, b, first_row: 0, depth: 64 };
    let sums = |name, rows| Product { depth: 16, ..deep(name, probe::wgmma_sums, square, ([rows, 64], Kept)) };
    vec![
        sums("wgmma: 64 columns", 64),
        sums("wgmma: 128 columns", 128),
        sums("wgmma: 256 columns", 256),
        deep("wgmma: steps along the depth", probe::wgmma_depth_step, square, square),
        deep("wgmma: A transposed", probe::wgmma_a_rows, ([64, 64], Turned), square),
        turned_columns(),
        Product { first_row: 64, ..deep("wgmma: rows 64 to 128", probe::wgmma_tall, ([128, 64], Kept), square) },
    ]
}

fn turned_columns() -> Product {
    let (a, b) = (([64, 64], Lines::Kept), ([64, 128], Lines::Turned));
    Product { name: "wgmma: B transposed", run: probe::wgmma_b_columns, a, b, first_row: 0, depth: 64 }
}

impl Product {
    /// Small integers, whose sums are exact.
    fn factors(&self, device: &Device) -> Result<[Tensor; 2]> {
        let mut draw = Inputs::new(9);
        let [a, b] = [self.a.0, self.b.0].map(|shape| draw.integers(&shape, DType::Bf16)?.to_device(device));
        Ok([a?, b?])
    }

    /// The 64 x N sums.
    fn expected(&self, a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
        let columns = match self.b {
            ([lines, _], Lines::Kept) => lines,
            ([_, length], Lines::Turned) => length,
        };
        let (a_values, b_values) = (wide(a)?, wide(b)?);
        let sum = |i: usize| {
            let (row, column) = (i / columns, i % columns);
            let term = |k| {
                let left = self.a.1.at(&a_values, self.a.0[1], self.first_row + row, k);
                left * self.b.1.at(&b_values, self.b.0[1], column, k)
            };
            (0..self.depth).map(term).sum()
        };
        Ok((0..64 * columns).map(sum).collect())
    }
}

/// Tensor maps are arguments of a launch, which a graph keeps.
fn replays(device: &Device) -> Result<Vec<Case>> {
    let (x, lines) = (numbered(&[20, 128], device)?, numbered(&[40, 64], device)?);
    let product = turned_columns();
    let [a, b] = product.factors(device)?;
    let work = || Ok([probe::tma_swizzle(&x)?, probe::tma_share(&lines)?, (product.run)(&a, &b)?]);
    let want = work()?;
    let (graph, got) = device.capture(work)?;
    let mut cases = Vec::new();
    for replay in 1..=2 {
        graph.replay()?;
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let what = format!("launch {i} in replay {replay}");
            cases.push(Case { what, got: got.duplicate()?, want: wide(want)? });
        }
    }
    Ok(cases)
}
