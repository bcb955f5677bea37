//! Hopper kernels in the emulator: exact under every schedule, and no synchronisation of theirs is superfluous.

use crate::common::hopper::{Map, Memory, NO_OUT, call, launch};
use crate::common::{from_bf16, to_bf16};
use bicl::device::Schedule;
use bicl_emulator::{barriers_seen, check_barriers_with, schedules};

const FILE: &str = "tools/emulator/tests/kernels/hopper.cu";

/// Reproducible numbers -1, 0 and 1.
fn signs(count: usize, mut seed: u32) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
        (seed >> 24) as f32 % 3.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn memory(values: impl Iterator<Item = f32>) -> Memory {
    Memory::new(&values.map(to_bf16).collect::<Vec<u16>>())
}

#[derive(Clone, Copy)]
struct Gemm {
    chunks: usize,
    consumers: usize,
    mn: bool,
}
const GEMMS: [Gemm; 6] = [
    Gemm { chunks: 1, consumers: 1, mn: false },
    Gemm { chunks: 2, consumers: 2, mn: false },
    Gemm { chunks: 4, consumers: 1, mn: false },
    Gemm { chunks: 1, consumers: 2, mn: true },
    Gemm { chunks: 2, consumers: 1, mn: true },
    Gemm { chunks: 4, consumers: 2, mn: true },
];
const BATCHES: usize = 2;
/// Five steps of depth go round the ring of three stages; the last one is partly outside.
const DEPTH: usize = 296;

impl Gemm {
    fn name(self) -> String {
        format!("test_hopper_gemm_{}{}", self.chunks * 64, if self.mn { "_mn" } else { "" })
    }
    /// More rows than one block has, and two turns of columns; the last are partly outside.
    fn extents(self) -> [usize; 2] {
        [self.consumers * 64 + 24, self.chunks * 128 - 24]
    }
    fn factors(self) -> [Vec<f32>; 2] {
        let [m, n] = self.extents();
        [signs(m * DEPTH, 1), signs(BATCHES * n * DEPTH, 2)]
    }
    fn want(self) -> Vec<f32> {
        let ([m, n], [a, b]) = (self.extents(), self.factors());
        let row = |x: &[f32], i: usize| x[i * DEPTH..][..DEPTH].to_vec();
        let mut want = Vec::new();
        for z in 0..BATCHES {
            for i in 0..m {
                let a = row(&a, i);
                want.extend((0..n).map(|j| a.iter().zip(row(&b, z * n + j)).map(|(a, b)| a * b).sum::<f32>()));
            }
        }
        assert!(want.iter().all(|sum| sum.abs() <= 256.0), "exact in bf16");
        want
    }
    fn run(self, schedule: Schedule) -> Result<Vec<u16>, String> {
        let ([m, n], [a, b]) = (self.extents(), self.factors());
        let turned = |x: &[f32], rows: usize| -> Memory {
            memory(x.chunks(rows * DEPTH).flat_map(|x| (0..x.len()).map(|i| x[i % rows * DEPTH + i / rows])))
        };
        let [mut a, mut b] =
            if self.mn { [turned(&a, m), turned(&b, n)] } else { [memory(a.into_iter()), memory(b.into_iter())] };
        let pair = |rows| if self.mn { [rows, DEPTH] } else { [DEPTH, rows] };
        let ([a0, a1], [b0, b1]) = (pair(m), pair(n));
        let mut c = memory((0..BATCHES * m * n).map(|_| f32::NAN));
        let mut maps = [
            Map::tiled(&mut a, &[a0, a1], 64),
            Map::tiled(&mut b, &[b0, b1, BATCHES], 64),
            Map::tiled(&mut c, &[n, m, BATCHES], 64),
        ];
        let shape = [[1, m.div_ceil(self.consumers * 64) as u32, 2], [(1 + self.consumers as u32) * 128, 1, 1]];
        let shared = 3 * 8192 * (self.consumers + self.chunks) + self.consumers * self.chunks * 8192 + 6 * 8;
        call(schedule, &self.name(), launch(shape, shared), &mut maps, NO_OUT, &[2, DEPTH.div_ceil(64) as i32])?;
        Ok(c.to_vec())
    }
}

#[test]
fn products_are_exact_under_every_schedule() {
    for gemm in GEMMS {
        let want = gemm.want();
        for schedule in schedules() {
            let got: Vec<f32> = gemm.run(schedule).unwrap().into_iter().map(from_bf16).collect();
            assert!(got == want, "{}, {schedule:?}", gemm.name());
        }
    }
}

#[derive(Clone, Copy)]
struct Gather {
    /// W, H and images.
    input: [usize; 3],
    taps: usize,
    dilation: usize,
    stride: usize,
    pad: usize,
}
/// Fewer than a line of 64: the rest reads as zero.
const CHANNELS: usize = 40;

impl Gather {
    /// Q and P.
    fn output(self) -> [usize; 2] {
        let reach = self.dilation * (self.taps - 1) + 1;
        [0, 1].map(|d| (self.input[d] + 2 * self.pad - reach) / self.stride + 1)
    }
    fn pixels(self) -> usize {
        let [q, p] = self.output();
        (q * p * self.input[2]).next_multiple_of(64)
    }
    fn x(self) -> Vec<u16> {
        (0..self.input.iter().product::<usize>() * CHANNELS).map(|i| (i % 65521) as u16 + 1).collect()
    }
    fn want(self) -> Vec<u16> {
        let ([w, h, n], [q, p], x) = (self.input, self.output(), self.x());
        let mut want = Vec::new();
        for tap in 0..self.taps * self.taps {
            for pixel in 0..self.pixels() {
                let at = |out: usize, tap: usize| (out * self.stride + tap * self.dilation).wrapping_sub(self.pad);
                let (column, row) = (at(pixel % q, tap % self.taps), at(pixel / q % p, tap / self.taps));
                let image = pixel / (q * p);
                let inside = column < w && row < h && image < n;
                want.extend((0..64).map(|c| {
                    if inside && c < CHANNELS { x[((image * h + row) * w + column) * CHANNELS + c] } else { 0 }
                }));
            }
        }
        want
    }
    fn run(self, schedule: Schedule) -> Result<Vec<u16>, String> {
        let ([w, h, n], [q, p]) = (self.input, self.output());
        let mut x = Memory::new(&self.x());
        let upper = self.pad as i16 - (self.dilation * (self.taps - 1)) as i16;
        let mut maps = [Map::im2col(&mut x, [CHANNELS, w, h, n], -(self.pad as i16), upper, self.stride as u8)];
        let mut out = vec![0x7fff; self.taps * self.taps * self.pixels() * 64];
        let shape = [[self.pixels() as u32 / 64, 1, 1], [64, 1, 1]];
        let numbers = [p, q, self.taps, self.dilation, self.stride, self.pad].map(|number| number as i32);
        call(schedule, "test_hopper_gather", launch(shape, 8192 + 8), &mut maps, Some(&mut out), &numbers)?;
        Ok(out)
    }
}

#[test]
fn pixels_are_gathered_as_a_plain_loop_reads_them() {
    let plain = Gather { input: [9, 7, 3], taps: 3, dilation: 1, stride: 1, pad: 1 };
    let cases = [
        plain,
        Gather { taps: 1, pad: 0, ..plain },
        Gather { dilation: 2, pad: 2, ..plain },
        Gather { input: [17, 12, 3], stride: 2, ..plain },
        Gather { input: [16, 11, 2], stride: 2, dilation: 3, pad: 4, ..plain },
        Gather { pad: 0, ..plain },
    ];
    for case in cases {
        let want = case.want();
        for schedule in schedules() {
            assert!(case.run(schedule).unwrap() == want, "{:?}, taps {}, {schedule:?}", case.input, case.taps);
        }
    }
}

#[test]
fn every_synchronisation_is_needed() {
    let run = |schedule| {
        let mut all = Vec::new();
        let gather = Gather { input: [9, 7, 2], taps: 2, dilation: 1, stride: 1, pad: 1 };
        for values in [GEMMS[0].run(schedule)?, GEMMS[3].run(schedule)?, gather.run(schedule)?] {
            all.extend(values.into_iter().flat_map(u16::to_ne_bytes));
        }
        Ok(all)
    };
    check_barriers_with(FILE, run).unwrap();
    let mut kinds: Vec<String> = barriers_seen().into_iter().filter(|b| b.file == FILE).map(|b| b.kind).collect();
    kinds.sort();
    let want = [
        ["__syncthreads"; 3].as_slice(),
        &["mbarrier_arrive"; 2],
        &["mbarrier_expect"; 2],
        &["mbarrier_init_fence"; 2],
        &["mbarrier_wait"; 3],
        &["proxy_fence", "tma_store_commit"],
        &["tma_store_wait_read"; 2],
        &["warpgroup_sync"; 2],
        &["wgmma_commit", "wgmma_fence"],
        &["wgmma_operand"; 2],
        &["wgmma_wait"; 2],
    ];
    assert_eq!(kinds, want.concat());
}
