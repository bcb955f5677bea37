//! A missing synchronisation must show, whichever it is; and sound kernels give the same bits under every schedule.

use crate::common::{Argument, call, from_bf16, numbers, to_bf16};
use bicl::device::{Order, Schedule};
use bicl_emulator::{DEFAULT, barriers_seen, check_barriers_with, schedules};

const FILE: &str = "tools/emulator/tests/kernels/gemm.cu";

fn bytes<T: Copy>(values: &[T], to: impl Fn(T) -> Vec<u8>) -> Vec<u8> {
    values.iter().flat_map(|&value| to(value)).collect()
}

/// C = A B of M x K and K x N.
fn product(a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) -> Vec<f32> {
    let element = |i: usize| (0..k).map(|l| a[i / n * k + l] as f64 * b[l * n + i % n] as f64).sum::<f64>() as f32;
    (0..m * n).map(element).collect()
}

const ODD: [usize; 3] = [40, 37, 50];

fn gemm_f32(schedule: Schedule) -> Result<Vec<f32>, String> {
    let [m, n, k] = ODD;
    let (mut a, mut b, mut c) = (numbers(m * k, 1), numbers(k * n, 2), vec![f32::NAN; m * n]);
    let grid = [n.div_ceil(16) as u32, m.div_ceil(16) as u32, 1];
    let (mut m, mut n, mut k) = (m as i32, n as i32, k as i32);
    let args: &mut [&mut dyn Argument] = &mut [&mut &mut a, &mut &mut b, &mut &mut c, &mut m, &mut n, &mut k];
    call(schedule, "test_gemm_f32", grid, [16, 16, 1], 0, args)?;
    Ok(c)
}

const EVEN: [usize; 3] = [64, 32, 128];

fn gemm_mma(schedule: Schedule) -> Result<Vec<f32>, String> {
    let [m, n, k] = EVEN;
    let b = numbers(k * n, 4);
    let mut a: Vec<u16> = numbers(m * k, 3).into_iter().map(to_bf16).collect();
    let mut w: Vec<u16> = (0..n * k).map(|i| to_bf16(b[i % k * n + i / k])).collect();
    let mut c = vec![f32::NAN; m * n];
    let grid = [n as u32 / 32, m as u32 / 32, 1];
    let (mut m, mut n, mut k) = (m as i32, n as i32, k as i32);
    let args: &mut [&mut dyn Argument] = &mut [&mut &mut a, &mut &mut w, &mut &mut c, &mut m, &mut n, &mut k];
    call(schedule, "test_gemm_mma", grid, [128, 1, 1], 4 * 32 * 40 * 2, args)?;
    Ok(c)
}

#[test]
fn products_are_exact_under_every_schedule() {
    for schedule in schedules() {
        let want = product(&numbers(ODD[0] * ODD[2], 1), &numbers(ODD[2] * ODD[1], 2), ODD);
        assert_eq!(gemm_f32(schedule).unwrap(), want, "{schedule:?}");
        let want = product(&numbers(EVEN[0] * EVEN[2], 3), &numbers(EVEN[2] * EVEN[1], 4), EVEN);
        assert_eq!(gemm_mma(schedule).unwrap(), want, "{schedule:?}");
    }
}

#[test]
fn every_barrier_of_the_products_is_needed() {
    let run = |schedule| {
        let mut all = bytes(&gemm_f32(schedule)?, |x| x.to_bits().to_ne_bytes().to_vec());
        all.extend(bytes(&gemm_mma(schedule)?, |x| x.to_bits().to_ne_bytes().to_vec()));
        Ok(all)
    };
    check_barriers_with(FILE, run).unwrap();
    let of_file = barriers_seen().into_iter().filter(|barrier| barrier.file == FILE);
    let mut kinds: Vec<String> = of_file.map(|barrier| barrier.kind).collect();
    kinds.sort();
    let want = ["__syncthreads"; 4].into_iter().chain(["cp_async_wait"; 2]).chain(["ldmatrix"; 2]).collect::<Vec<_>>();
    let mut want: Vec<String> = want.into_iter().map(String::from).collect();
    want.sort();
    assert_eq!(kinds, want);
}

#[test]
fn a_run_that_needs_no_barrier_is_refused() {
    // One tile deep: the barrier that closes an iteration guards nothing.
    let run = |schedule| {
        let (mut a, mut b, mut c) = (numbers(256, 1), numbers(256, 2), vec![f32::NAN; 256]);
        let args: &mut [&mut dyn Argument] = &mut [&mut &mut a, &mut &mut b, &mut &mut c, &mut 16, &mut 16, &mut 16];
        call(schedule, "test_gemm_f32", [1, 1, 1], [16, 16, 1], 0, args)?;
        Ok(bytes(&c, |x| x.to_bits().to_ne_bytes().to_vec()))
    };
    let error = check_barriers_with(FILE, run).expect_err("the second barrier is superfluous here");
    assert!(error.starts_with("nothing changes without __syncthreads at ") && !error.contains(", or"), "{error}");
    let error = check_barriers_with("kernels/none.cu", |_| Ok(Vec::new())).expect_err("no such file");
    assert!(error.contains("holds no barrier"), "{error}");
}

#[test]
fn a_missing_wait_shows_with_late_copies_only() {
    let want = gemm_mma(DEFAULT).unwrap();
    let waits = barriers_seen().into_iter().filter(|b| b.file == FILE && b.kind == "cp_async_wait");
    let mut count = 0;
    for wait in waits {
        let skipping = |late_copies| {
            let device = bicl_emulator::device_skipping(&wait, DEFAULT);
            assert!(device.is_emulated());
            gemm_mma(Schedule { late_copies, ..bicl_emulator::schedule_skipping(&wait, DEFAULT) }).unwrap()
        };
        assert_eq!(skipping(0), want, "copies at once hide the missing wait");
        assert!(skipping(1).iter().zip(&want).any(|(got, want)| got.is_nan() || got != want), "{wait}");
        count += 1;
    }
    assert_eq!(count, 2);
}

#[test]
fn reductions_agree_bit_for_bit() {
    let x: Vec<f32> = (0..512).map(|i| 1.0 / (i as f32 + 0.37)).collect();
    let run = |schedule: Schedule| {
        let mut x = x.clone();
        let mut out = [(); 4].map(|()| vec![f32::NAN; 512]);
        let [sum, squares, most, least] = &mut out;
        let args: &mut [&mut dyn Argument] =
            &mut [&mut &mut x, &mut &mut *sum, &mut &mut *squares, &mut &mut *most, &mut &mut *least];
        call(schedule, "test_reduce_f32", [2, 1, 1], [64, 4, 1], 0, args)?;
        Ok(out)
    };
    let [sum, squares, most, least] = run(DEFAULT).unwrap();
    for block in 0..2 {
        let part = &x[block * 256..][..256];
        let want = part.iter().map(|&x| x as f64).sum::<f64>();
        let want_squares = part.iter().map(|&x| (x as f64).powi(2)).sum::<f64>();
        for i in block * 256..(block + 1) * 256 {
            assert!((sum[i] as f64 - want).abs() < 1e-6 * want);
            assert!((squares[i] as f64 - want_squares).abs() < 1e-6 * want_squares);
            assert_eq!(sum[i].to_bits(), sum[block * 256].to_bits(), "all threads hold the same bits");
            assert_eq!((most[i], least[i]), (part[0], part[255]));
        }
    }
    check_barriers_with("kernels/include/dev.cuh", |s| {
        run(s).map(|out| out.iter().flat_map(|v| bytes(v, |x| x.to_bits().to_ne_bytes().to_vec())).collect())
    })
    .unwrap();
}

#[test]
fn launches_may_run_at_the_same_time() {
    let want = (gemm_f32(DEFAULT).unwrap(), gemm_mma(DEFAULT).unwrap());
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let want = &want;
            scope.spawn(move || {
                for round in 0..10 {
                    let order = [Order::Forward, Order::Reverse, Order::Random, Order::Ahead][(seed + round) % 4];
                    let late_copies = (seed % 2) as u32;
                    let schedule =
                        Schedule { order, late_copies, seed: seed as u64, workers: 1 + seed as u32 % 3, ..DEFAULT };
                    assert_eq!(&(gemm_f32(schedule).unwrap(), gemm_mma(schedule).unwrap()), want);
                    let mut out = vec![0i32; 64];
                    let fault = call(schedule, "test_trap", [4, 1, 1], [64, 1, 1], 0, &mut [&mut &mut out]);
                    assert!(fault.expect_err("the kernel traps").contains("trap at"));
                }
            });
        }
    });
}

#[test]
fn bf16_numbers_of_the_tests_are_exact() {
    assert!(numbers(1000, 5).into_iter().all(|x| from_bf16(to_bf16(x)) == x));
}
