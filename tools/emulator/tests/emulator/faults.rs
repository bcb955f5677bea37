//! Undefined behaviour is an error with a line that says where, and leaves the emulator usable.

use crate::common::{Argument, call, from_bf16};
use bicl_emulator::{DEFAULT, schedules};

const FILE: &str = "tools/emulator/tests/kernels/faults.cu";

/// The line of the fixture that holds this text, as the message names it.
fn at(text: &str) -> String {
    let source = include_str!("../kernels/faults.cu");
    let line = source.lines().position(|line| line.contains(text)).expect("the fixture holds the line") + 1;
    format!("{FILE}:{line}")
}

/// Runs the kernel under every schedule: each must report all of `parts`.
fn reports(kernel: &str, threads: u32, count: Option<i32>, parts: &[&str]) {
    for schedule in schedules() {
        let mut out = vec![0f32; 1024];
        let mut count = count.unwrap_or(0);
        let error = call(schedule, kernel, [2, 1, 1], [threads, 1, 1], 1024, &mut [&mut &mut out, &mut count])
            .expect_err("the kernel breaks a rule");
        for part in parts {
            assert!(error.contains(part), "{kernel}, {schedule:?}: {error:?} lacks {part:?}");
        }
        assert!(!error.contains('\n') && error.contains("(block "), "{error}");
    }
    // The emulator must be usable after it.
    let mut index = vec![0i32; 64];
    call(DEFAULT, "test_indices", [1, 1, 1], [64, 1, 1], 0, &mut [&mut &mut index]).unwrap();
    assert_eq!(index, (1..65).collect::<Vec<i32>>());
}

#[test]
fn deadlock() {
    let barrier = at("if (threadIdx.x < 16) __syncthreads()");
    let shuffle = at("= __shfl_sync(0xffffffffu, 1, 0)");
    let parts = ["deadlock: ", "__syncthreads at ", &barrier, "__shfl_sync (mask ffffffff) at ", &shuffle];
    reports("test_deadlock", 32, None, &parts);
}

#[test]
fn divergent_barrier() {
    let source = include_str!("../kernels/faults.cu");
    let first = source.lines().position(|line| line == "    __syncthreads();").expect("the fixture holds it") + 1;
    let (first, second) = (format!("{FILE}:{first}"), format!("{FILE}:{}", first + 2));
    reports("test_divergent_barrier", 64, None, &["divergent barrier: ", &first, &second]);
}

#[test]
fn divergent_warp() {
    let parts =
        ["divergent warp: ", "__ballot_sync at ", &at("__ballot_sync(0xff"), &at("__shfl_sync(0xffffffffu, 1u")];
    reports("test_divergent_warp", 64, None, &parts);
}

#[test]
fn masks() {
    let parts = ["lane 15 reads lane 16, which is not in the mask 0000ffff", &at("__shfl_sync(0x0000ffffu")];
    reports("test_shuffle_outside", 64, None, &parts);
    reports("test_not_in_mask", 64, None, &["is not in its own mask 00000001", &at("__shfl_sync(1u, 1, 0)")]);
    reports("test_partial_warp", 40, None, &["names lanes that the block of 40 threads does not have"]);
}

#[test]
fn early_exit() {
    reports("test_early_exit", 64, Some(50), &["early exit: ", &at("__syncthreads();  // not by all")]);
    reports("test_early_exit_warp", 64, Some(50), &["early exit: ", "__shfl_xor_sync", "kernels/include/dev.cuh:"]);
    // Nobody leaves early: no error.
    let mut out = vec![0i32; 64];
    call(DEFAULT, "test_early_exit", [1, 1, 1], [64, 1, 1], 0, &mut [&mut &mut out, &mut 64]).unwrap();
    assert_eq!(out, vec![1; 64]);
}

#[test]
fn addresses() {
    let parts = ["cp.async: thread ", "outside shared memory", &at("cp_async4(out, out + 64)")];
    reports("test_copy_outside", 64, None, &parts);
    reports("test_copy_misaligned", 64, None, &["not aligned to 16 bytes", &at("cp_async16(buffer + 1, x)")]);
    reports("test_ldmatrix_outside", 64, None, &["ldmatrix: ", "outside shared memory", &at("ldmatrix_x4(r, out)")]);
    reports("test_too_much_shared", 64, None, &["tile (240000 bytes) does not fit"]);
}

#[test]
fn trap() {
    reports("test_trap", 64, None, &[&at("__trap()")]);
}

#[test]
fn bad_launches() {
    let refused = |grid, block, shared| {
        call(DEFAULT, "test_trap", grid, block, shared, &mut [&mut &mut vec![0i32; 1024]]).expect_err("it is refused")
    };
    assert!(refused([0, 1, 1], [64, 1, 1], 0).contains("an extent is zero"));
    assert!(refused([1, 1, 1], [1, 1, 65], 0).contains("the block exceeds"));
    assert!(refused([1, 1, 1], [64, 32, 1], 0).contains("more than 1024 threads"));
    assert!(refused([1, 65536, 1], [64, 1, 1], 0).contains("the grid exceeds"));
    assert!(refused([1, 1, 1], [64, 1, 1], 228 << 10).contains("227 KiB"));
}

#[test]
fn uninitialised_shared_memory_is_nan() {
    for schedule in schedules() {
        let (mut fixed, mut scalar, mut dynamic) = (vec![0f32; 128], vec![0f64; 128], vec![0u16; 128]);
        let args: &mut [&mut dyn Argument] = &mut [&mut &mut fixed, &mut &mut scalar, &mut &mut dynamic];
        call(schedule, "test_uninitialised", [2, 1, 1], [64, 1, 1], 128, args).unwrap();
        assert!(fixed.iter().all(|x| x.is_nan()), "{schedule:?}");
        assert!(scalar.iter().all(|x| x.is_nan()), "{schedule:?}");
        assert!(dynamic.iter().all(|&x| from_bf16(x).is_nan()), "{schedule:?}");
    }
}
