//! The CUDA language that kernels rely on means the same under g++.

use crate::common::{Argument, call, from_bf16, numbers, to_bf16};
use bicl::device::Schedule;
use bicl_emulator::{DEFAULT, schedules};

#[test]
fn every_thread_runs_once() {
    for schedule in schedules() {
        for workers in [1, 3, 0] {
            let mut index = vec![0i32; 3 * 2 * 5 * 4 * 3 * 7];
            let schedule = Schedule { workers, ..schedule };
            call(schedule, "test_indices", [3, 2, 5], [4, 3, 7], 0, &mut [&mut &mut index]).unwrap();
            assert_eq!(index, (1..=index.len() as i32).collect::<Vec<_>>(), "{schedule:?}");
        }
    }
}

#[test]
fn collectives() {
    for schedule in schedules() {
        let mut out = vec![0i32; 64 * 8];
        call(schedule, "test_collectives", [1, 1, 1], [64, 1, 1], 0, &mut [&mut &mut out]).unwrap();
        for (t, got) in out.chunks(8).enumerate() {
            let (lane, base) = (t % 32, t / 32 * 32);
            let up = if lane % 16 >= 3 { t - 3 } else { t };
            let down = if lane % 16 + 3 < 16 { t + 3 } else { t };
            let half = base + if lane < 16 { 3 } else { 29 };
            let odd = 0xaaaaaaaau32 as i32;
            let want = [22, 3, 0, odd, up as i32, down as i32, (base + (lane ^ 5)) as i32, half as i32];
            assert_eq!(got, want, "thread {t}, {schedule:?}");
        }
    }
}

#[test]
fn atomics_lose_nothing() {
    for schedule in schedules() {
        let mut total = vec![0u32; 5];
        let schedule = Schedule { workers: 4, ..schedule };
        call(schedule, "test_atomics", [100, 1, 1], [64, 1, 1], 0, &mut [&mut &mut total]).unwrap();
        assert_eq!(total, [1600, 1600, 1600, 1600, 100]);
    }
}

#[test]
fn intrinsics() {
    let mut out = vec![-1f32; 14];
    call(DEFAULT, "test_intrinsics", [1, 1, 1], [1, 1, 1], 0, &mut [&mut &mut out]).unwrap();
    // The last place is not written: it shows that the table above has as many rows as the kernel.
    assert_eq!(out, [[1.0; 13].as_slice(), &[-1.0]].concat());
}

#[test]
fn bf16_rounds_to_nearest_even() {
    // Every bf16 number, the point half way to the next, and one step to either side of it.
    let mut x: Vec<f32> = (0..=u16::MAX)
        .flat_map(|high| [0u32, 0x7fff, 0x8000, 0x8001].map(|low| f32::from_bits(u32::from(high) << 16 | low)))
        .collect();
    let mut y = vec![0u16; x.len()];
    let blocks = x.len() as u32 / 256;
    call(DEFAULT, "test_round", [blocks, 1, 1], [256, 1, 1], 0, &mut [&mut &mut x, &mut &mut y]).unwrap();
    for (x, y) in x.into_iter().zip(y) {
        assert_eq!(y, to_bf16(x), "{x:e} = {:08x}", x.to_bits());
    }
}

#[test]
fn tensor_core_fragments() {
    for schedule in schedules() {
        let (mut a, mut b, mut c) = (numbers(128, 1), numbers(64, 2), vec![f32::NAN; 128]);
        let mut x: Vec<u16> = (0..256).collect();
        let mut transposed = vec![0u16; 256];
        let args: &mut [&mut dyn Argument] =
            &mut [&mut &mut a, &mut &mut b, &mut &mut c, &mut &mut x, &mut &mut transposed];
        call(schedule, "test_fragments", [1, 1, 1], [32, 1, 1], 0, args).unwrap();
        for (i, &got) in c.iter().enumerate() {
            assert_eq!(got, (0..8).map(|k| a[i / 8 * 8 + k] * b[k * 8 + i % 8]).sum::<f32>());
        }
        for (i, &got) in transposed.iter().enumerate() {
            assert_eq!(usize::from(got), i / 64 * 64 + i % 8 * 8 + i / 8 % 8);
        }
    }
}

#[test]
fn reductions_pass_nan_on() {
    for kernel in ["test_reduce_f32", "test_reduce_f64", "test_reduce_bf16"] {
        assert!(bicl_emulator::kernels().iter().any(|name| name == kernel));
    }
    let mut x = numbers(64, 3).into_iter().map(f64::from).collect::<Vec<_>>();
    x[17] = f64::NAN;
    let [mut sum, mut squares, mut most, mut least] = [(); 4].map(|()| vec![0f64; 64]);
    let args: &mut [&mut dyn Argument] =
        &mut [&mut &mut x, &mut &mut sum, &mut &mut squares, &mut &mut most, &mut &mut least];
    call(DEFAULT, "test_reduce_f64", [1, 1, 1], [64, 1, 1], 0, args).unwrap();
    assert!([sum, squares, most, least].concat().iter().all(|x| x.is_nan()));
    assert!(from_bf16(to_bf16(f32::NAN)).is_nan());
}
