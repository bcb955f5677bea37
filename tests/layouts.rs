//! Where a Hopper GPU's copies and products put their elements, which the emulator assumes and the kernels rely on: every
//! answer is written out here from the rule, and holds on the card and on the emulator.

mod common;

use bicl::{
    DType, Device, Tensor,
    ops::layouts::{self, Gather},
};
use common::{Rng, bytes_of, kernel_devices, wide};
use half::bf16;

/// The devices that have warpgroup products, the emulator's told so.
fn devices() -> Vec<Device> {
    let mut devices = kernel_devices();
    devices.retain(|device| device.as_cuda().is_none_or(|cuda| cuda.compute_capability().unwrap() == (9, 0)));
    devices.iter().for_each(|device| device.set_warpgroup_products(true));
    devices
}

/// Element `i` of a tensor in which all differ and none is zero.
fn number(i: usize) -> bf16 {
    assert!(i < 0x4f00, "bf16 has no more");
    bf16::from_bits(0x3000 + i as u16)
}

fn numbered(shape: &[usize], device: &Device) -> Tensor {
    Tensor::from_vec((0..shape.iter().product()).map(number).collect(), shape, device).unwrap()
}

/// Holds shared memory `got` against a box of lines of 64, of which `element` says where in a numbered tensor each element
/// comes from; `None` is zero. Line `l` has its 16-byte chunk `c` in place `c` XOR `l % 8`.
#[track_caller]
fn check_box(got: &Tensor, element: impl Fn(usize, usize) -> Option<usize>, what: &str) {
    let memory = got.to_vec::<bf16>().unwrap();
    for (i, got) in memory.iter().enumerate() {
        let (line, place) = (i / 64, i % 64);
        let column = ((place / 8) ^ (line % 8)) * 8 + place % 8;
        let want = element(line, column).map_or(bf16::ZERO, number);
        assert_eq!(got.to_bits(), want.to_bits(), "{what}: line {line}, column {column}");
    }
}

#[test]
fn boxes_lie_in_swizzled_lines() {
    for device in devices() {
        let got = layouts::tma_swizzle(&numbered(&[20, 128], &device)).unwrap();
        assert_eq!(got.shape(), [layouts::BOX_LINES, 64]);
        check_box(&got, |line, column| Some(line * 128 + column), &format!("{device}"));
    }
}

#[test]
fn outside_a_tensor_lies_zero() {
    const LINES: i32 = 10;
    const COLUMNS: i32 = 48;
    for device in devices() {
        let x = numbered(&[LINES as usize, COLUMNS as usize], &device);
        for at in [[-8, -3], [0, 0], [40, 4], [-56, 7], [-64, 2], [8, 10]] {
            let got = layouts::tma_zero_outside(&x, at).unwrap();
            let element = |line: usize, column: usize| {
                let (x, y) = (at[0] + column as i32, at[1] + line as i32);
                let inside = (0..COLUMNS).contains(&x) && (0..LINES).contains(&y);
                inside.then_some((y * COLUMNS + x) as usize)
            };
            check_box(&got, element, &format!("{device}, box at {at:?}"));
        }
    }
}

/// A 3 x 3 convolution's taps over two images: padding 2 along x and 1 along y, dilation 2.
#[test]
fn gathers_run_along_the_bounding_box_and_into_the_next_image() {
    const CHANNELS: i32 = 128;
    const IMAGES: i32 = 2;
    let (lower, upper) = ([-2, -1], [2 - 4, 1 - 4]);
    for device in devices() {
        for ([width, height], step) in [([9, 7], [2, 2]), ([10, 7], [2, 2]), ([9, 8], [2, 1]), ([8, 8], [1, 2])] {
            let x = numbered(&[IMAGES as usize, height as usize, width as usize, CHANNELS as usize], &device);
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
                    let got = layouts::tma_im2col(&x, &gather).unwrap();
                    assert_eq!(got.shape(), [layouts::PIXELS, 64]);
                    let element = |line: usize, column: usize| {
                        let &(x, y, image) = pixels.get(first + line)?;
                        let (x, y, c) = (x + offset[0], y + offset[1], channel + column as i32);
                        let inside = (0..width).contains(&x) && (0..height).contains(&y) && c < CHANNELS;
                        inside.then_some((((image * height + y) * width + x) * CHANNELS + c) as usize)
                    };
                    check_box(&got, element, &format!("{device}, {width} x {height}, {gather:?}"));
                }
            }
        }
    }
}

#[test]
fn stores_leave_what_lies_outside_untouched() {
    const LINES: i32 = 100;
    for device in devices() {
        for first in [0, 36, 64] {
            let source = numbered(&[64, 64], &device);
            let before = Tensor::full(&[2, LINES as usize, 64], -1.0, DType::Bf16, &device).unwrap();
            let mut y = before.clone();
            layouts::tma_store_clips(&source, &mut y, first).unwrap();
            for (i, got) in y.to_vec::<bf16>().unwrap().into_iter().enumerate() {
                let (line, column) = ((i / 64) as i32, i % 64);
                let is_stored = line < LINES && (first..first + 64).contains(&line);
                let want = if is_stored { number((line - first) as usize * 64 + column) } else { bf16::NEG_ONE };
                assert_eq!(got.to_bits(), want.to_bits(), "{device} from line {first}: line {line}, column {column}");
            }
            assert!(wide(&before).iter().all(|&value| value == -1.0), "{device}: a clone changed with the tensor");
        }
    }
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

/// A product under test: the kernel, the factors' shapes and sense, A's first row, and how much of the depth counts.
struct Product {
    name: &'static str,
    run: fn(&Tensor, &Tensor) -> bicl::Result<Tensor>,
    a: ([usize; 2], Lines),
    b: ([usize; 2], Lines),
    first_row: usize,
    depth: usize,
}

fn products() -> Vec<Product> {
    use Lines::{Kept, Turned};
    let sums = |rows| {
        let (a, b) = (([64, 64], Kept), ([rows, 64], Kept));
        Product { name: "sums", run: layouts::wgmma_sums, a, b, first_row: 0, depth: 16 }
    };
    let square = ([64, 64], Kept);
    let deep = |name, run, a, b| Product { name, run, a, b, first_row: 0, depth: 64 };
    vec![
        sums(64),
        sums(128),
        sums(256),
        deep("depth_step", layouts::wgmma_depth_step, square, square),
        deep("a_rows", layouts::wgmma_a_rows, ([64, 64], Turned), square),
        deep("b_columns", layouts::wgmma_b_columns, square, ([64, 128], Turned)),
        Product { first_row: 64, ..deep("tall", layouts::wgmma_tall, ([128, 64], Kept), square) },
    ]
}

/// Small integers, whose sums are exact.
fn factors(product: &Product, device: &Device) -> [Tensor; 2] {
    let mut rng = Rng(9);
    [product.a.0, product.b.0].map(|shape| rng.integers(&shape, DType::Bf16, device))
}

#[test]
fn products_of_a_warpgroup_are_exact() {
    for device in devices() {
        for product in products() {
            let [a, b] = factors(&product, &device);
            let got = (product.run)(&a, &b).unwrap();
            let columns = match product.b {
                ([lines, _], Lines::Kept) => lines,
                ([_, length], Lines::Turned) => length,
            };
            assert_eq!(got.shape(), [64, columns]);
            let (a_values, b_values) = (wide(&a), wide(&b));
            for (i, got) in wide(&got).into_iter().enumerate() {
                let (row, column) = (i / columns, i % columns);
                let term = |k| {
                    let left = product.a.1.at(&a_values, product.a.0[1], product.first_row + row, k);
                    left * product.b.1.at(&b_values, product.b.0[1], column, k)
                };
                let want: f64 = (0..product.depth).map(term).sum();
                assert_eq!(got, want, "{} of {columns} columns on {device}: row {row}, column {column}", product.name);
            }
        }
    }
}

#[test]
fn a_block_copies_into_the_memory_of_its_whole_cluster() {
    for device in devices() {
        let got = layouts::tma_share(&numbered(&[40, 64], &device)).unwrap();
        assert_eq!(got.shape(), [2, 32, 64]);
        // The swizzle of a line does not depend on the block.
        check_box(&got, |line, column| Some(line % 32 * 64 + column), &format!("{device}"));
    }
}

#[test]
fn a_block_arrives_at_the_barriers_of_its_cluster() {
    for device in devices() {
        assert_eq!(wide(&layouts::cluster_arrive(&device).unwrap()), [20.0, 21.0], "{device}");
        assert_eq!(wide(&layouts::cluster_of_one(&device).unwrap()), [10.0], "{device}");
    }
}

#[test]
fn graphs_replay_maps() {
    for device in devices() {
        let x = numbered(&[20, 128], &device);
        let product = products().swap_remove(5);
        let [a, b] = factors(&product, &device);
        let lines = numbered(&[40, 64], &device);
        let work = || Ok([layouts::tma_swizzle(&x)?, layouts::tma_share(&lines)?, (product.run)(&a, &b)?]);
        let want = work().unwrap();
        let (graph, got) = device.capture(work).unwrap();
        for _ in 0..2 {
            graph.replay().unwrap();
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(wide(got), wide(want), "{device}");
            }
        }
    }
}

#[test]
fn devices_without_warpgroup_products_refuse() {
    if common::gpu_alone() {
        return;
    }
    for device in [Device::plan(), bicl_emulator::device(), Device::cpu()] {
        let x = Tensor::zeros(&[20, 128], DType::Bf16, &device).unwrap();
        let error = layouts::tma_swizzle(&x).unwrap_err().to_string();
        assert_eq!(error, format!("layouts: {device} has no warpgroup products"));
    }
    let plan = Device::plan();
    plan.set_warpgroup_products(true);
    let x = Tensor::zeros(&[20, 128], DType::Bf16, &plan).unwrap();
    layouts::tma_swizzle(&x).unwrap();
    let counts = plan.as_plan().unwrap().counts();
    assert_eq!(counts.kernels["layout_tma_swizzle"].bytes, (20 * 128 + 16 * 64) * 2);
}

#[test]
fn every_barrier_counts() {
    if common::gpu_alone() {
        return;
    }
    let run = |device: &Device| {
        device.set_warpgroup_products(true);
        let gather = Gather { lower: [-1; 2], upper: [-1; 2], step: [1, 1], at: [0, -1, -1, 0], offset: [1, 1] };
        let source = numbered(&[64, 64], device);
        let mut stored = Tensor::full(&[2, 70, 64], -1.0, DType::Bf16, device)?;
        layouts::tma_store_clips(&source, &mut stored, 20)?;
        let mut outputs = vec![
            layouts::tma_swizzle(&numbered(&[20, 128], device))?,
            layouts::tma_share(&numbered(&[40, 64], device))?,
            layouts::cluster_arrive(device)?,
            layouts::tma_im2col(&numbered(&[2, 5, 5, 64], device), &gather)?,
            stored,
        ];
        for product in products() {
            let [a, b] = factors(&product, device);
            outputs.push((product.run)(&a, &b)?);
        }
        Ok(bytes_of(&outputs))
    };
    bicl_emulator::check_barriers("kernels/layouts_sm90.cu", run).unwrap();
}
