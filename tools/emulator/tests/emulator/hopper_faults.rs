//! Broken rules of Hopper's asynchronous work are errors that say where, or show because schedules differ.

use crate::common::hopper::{Map, Memory, call, launch};
use crate::common::{from_bf16, to_bf16};
use bicl::device::Schedule;
use bicl_emulator::{DEFAULT, schedules};

const FILE: &str = "tools/emulator/tests/kernels/hopper_faults.cu";

/// The line of the fixture, as messages name it, that holds this text behind the head of this kernel.
fn at(kernel: &str, text: &str) -> String {
    let source = include_str!("../kernels/hopper_faults.cu");
    let head = source.lines().position(|line| line == format!("FAULT({kernel}) {{")).expect("the fixture has it");
    let line = source.lines().skip(head).position(|line| line.contains(text)).expect("the kernel holds the line");
    format!("{FILE}:{}", head + line + 1)
}

/// Of one launch: a tensor of two pairs of boxes, and a map of pixels that begin at -1. The first 128 outputs as numbers.
fn run(kernel: &str, schedule: Schedule, planes: bool) -> Result<Vec<f32>, String> {
    let values: Vec<u16> = (0..256 * 64).map(|i| to_bf16(if i < 128 * 64 { 1.0 } else { 2.0 })).collect();
    let (mut data, mut out) = (Memory::new(&values), vec![0x7fff; 128]);
    let tiled = if planes { Map::tiled(&mut data, &[64, 256, 1], 64) } else { Map::tiled(&mut data, &[64, 256], 64) };
    let pixels = Map::im2col(&mut data, [64, 16, 16, 1], -1, -1, 1);
    let shape = [[1, 1, 1], [128, 1, 1]];
    call(
        schedule,
        &format!("test_hopper_{kernel}"),
        launch(shape, 36 << 10),
        &mut [tiled, pixels],
        Some(&mut out),
        &[],
    )?;
    Ok(out.into_iter().map(from_bf16).collect())
}

/// Under every schedule the launch must end in an error with all of these parts.
fn reports(kernel: &str, planes: bool, parts: &[&str]) {
    for schedule in schedules() {
        let error = run(kernel, schedule, planes).expect_err(kernel);
        for part in parts {
            assert!(error.contains(part), "{kernel}, {schedule:?}: {error:?} lacks {part:?}");
        }
        assert!(!error.contains('\n') && error.contains("(block 0,0,0)"), "{error}");
    }
}

#[test]
fn sums_read_before_the_wait_differ() {
    for schedule in schedules() {
        let want = if schedule.late_copies == 0 { 64.0 } else { 0.0 };
        assert_eq!(run("sums_read_early", schedule, false).unwrap(), vec![want; 128], "{schedule:?}");
    }
}

#[test]
fn a_stage_that_is_released_before_the_wait_differs() {
    // 64 products of ones, then of twos.
    let right = vec![64.0 + 256.0; 128];
    let sound = Schedule { late_copies: 0, ..DEFAULT };
    assert_eq!(run("stage_released_early", sound, false).unwrap(), right);
    assert_eq!(run("stage_released_early", DEFAULT, false).unwrap(), vec![256.0 + 256.0; 128]);
}

#[test]
fn barriers_in_memory() {
    let k = "no_init_fence";
    reports(k, false, &["tma_load_2d: thread 0", "without mbarrier_init_fence", &at(k, "not known to copies")]);
    let k = "no_init";
    reports(k, false, &["mbarrier_arrive: thread 5", "before its mbarrier_init", &at(k, "never initialised")]);
    let k = "initialised_again";
    reports(k, false, &["initialises an mbarrier again", &at(k, "by two threads")]);
    let k = "never_completed";
    reports(k, false, &["deadlock: 128 of 128 threads", "wait in mbarrier_wait at ", &at(k, "nobody arrives")]);
    let k = "too_many_arrivals";
    reports(k, false, &["all 1 arrivals of this phase have come", &at(k, "still to come")]);
    reports("too_many_bytes", false, &["copies bring 4096 bytes more than mbarrier_expect announced"]);
    // Only a schedule that holds copies back can tell.
    for schedule in schedules() {
        let result = run("copy_not_awaited", schedule, false);
        match schedule.late_copies {
            0 => assert!(result.is_ok()),
            _ => assert!(result.unwrap_err().contains("tma_load_2d: the block ends before the copy of ")),
        }
    }
}

#[test]
fn boxes() {
    let refused = |kernel: &str, why: &str, text: &str| reports(kernel, false, &[": thread 0", why, &at(kernel, text)]);
    refused("box_misaligned", "not aligned to 1024 bytes", "not to an atom");
    refused("box_outside", "the box ends outside shared memory", "4 KiB are left");
    refused("column_misaligned", "the first column is not a multiple of 16 bytes", "four elements on");
    refused("wrong_rank", "the map's rank is another", "the map has two");
    refused("tiled_as_im2col", "the map is tiled, not im2col", "of a tiled map");
    refused("im2col_as_tiled", "the map is im2col, not tiled", "of an im2col map");
    refused("offset_too_large", "an offset is not in 0..=255", "to the right");
    refused("pixel_outside", "the first pixel lies outside", "the corner is -1");
}

#[test]
fn products() {
    let refused = |kernel: &str, why: &str, text: &str| reports(kernel, false, &[why, &at(kernel, text)]);
    refused("no_product_fence", "without wgmma_fence since its last wgmma_wait", "the fence was before the wait");
    refused("not_committed", "waits with products that no wgmma_commit closed", "for a product in no group");
    refused("operand_outside", "of an operand lies outside shared memory", "4 KiB are left");
    refused("operands_differ", "threads 0 and 96 of one warpgroup pass different operands", "in the last warp");
    refused("part_of_a_warpgroup", "early exit: thread ", "three warps");
    refused("divergent_warpgroup", "divergent warpgroup: thread ", "the lower half");
    refused("divergent_warpgroup", "in registers_release at ", "the upper half");
    refused("no_proxy_fence_product", "reads what thread 77 wrote to shared memory", "what thread 77 wrote");
    reports("product_not_awaited", false, &["returns with products that it did not wait for"]);
}

#[test]
fn stores() {
    let refused = |kernel: &str, why: &str, text: &str| reports(kernel, true, &["tma_store", why, &at(kernel, text)]);
    refused(
        "no_proxy_fence_store",
        "reads what thread 77 wrote to shared memory (byte 17616)",
        "what was written here",
    );
    refused("store_not_committed", "returns without tma_store_commit", "in no group");
    refused("store_not_awaited", "returns without tma_store_wait_read<0>", "of the younger group");
    refused("store_before", "a store begins before the tensor", "from the line before the first");
    refused("store_from_im2col", "the map is im2col, not tiled", "through an im2col map");
}

#[test]
fn barriers_with_numbers() {
    let refused = |kernel: &str, why: &str, text: &str| reports(kernel, false, &[why, &at(kernel, text)]);
    refused("barrier_zero", "passes barrier 0, not one of 1 to 15", "belongs to __syncthreads");
    refused("half_a_warp", "asks for 48 of 128 threads", "not whole warps");
    refused("divergent_number", "divergent barrier: thread ", "the lower half");
    refused("divergent_number", "waits in barrier 1 at ", "the upper half");
    refused("too_few", "deadlock: 96 of 128 threads", "three warps of four");
}
