//! Blocks in clusters: each reaches the others' shared memory, under every schedule, and no synchronisation is superfluous.

use crate::common::hopper::{Map, Memory, NO_OUT, call};
use crate::common::{from_bf16, to_bf16};
use bicl::device::{Launch, Schedule};
use bicl_emulator::{barriers_seen, check_barriers_with, schedules};

const FILE: &str = "tools/emulator/tests/kernels/cluster.cu";
/// More than twice round the ring of two stages.
const TURNS: usize = 5;
const READERS: usize = 96;
const SHARED_BYTES: u32 = 2 * 4 * 8192 + 4 * 8;

fn launch(blocks: usize, cluster: usize) -> Launch {
    let grid = [blocks as u32, 1, 1];
    Launch { grid, block: [128, 1, 1], shared_bytes: SHARED_BYTES, cluster: cluster as u32 }
}

/// Small integers, different in each box.
fn values(boxes: usize) -> Vec<u16> {
    (0..boxes * 4096).map(|i| to_bf16(((i * 7 + i / 4096 * 3) % 17) as f32)).collect()
}

fn run(kernel: &str, launch: Launch, schedule: Schedule) -> Result<Vec<f32>, String> {
    let boxes = launch.grid[0] as usize * TURNS;
    let mut data = Memory::new(&values(boxes));
    let mut out = vec![f32::NAN; boxes * READERS];
    let map = Map { swizzle: 0, ..Map::tiled(&mut data, &[64, boxes * 64], 64) };
    call(schedule, kernel, launch, &mut [map], Some(&mut out), &[TURNS as i32])?;
    Ok(out)
}

#[test]
fn every_block_gets_what_each_of_its_cluster_copies() {
    for (blocks, cluster) in [(3, 1), (6, 2), (2, 2), (8, 4)] {
        let values: Vec<f32> = values(blocks * TURNS).into_iter().map(from_bf16).collect();
        let mut want = Vec::new();
        for block in 0..blocks {
            for turn in 0..TURNS {
                let first = (turn * blocks + block / cluster * cluster) * 4096;
                let stage = &values[first..][..cluster * 4096];
                want.extend((0..READERS).map(|reader| stage[reader..].iter().step_by(READERS).sum::<f32>()));
            }
        }
        for schedule in schedules() {
            let got = run("test_cluster_share", launch(blocks, cluster), schedule).unwrap();
            assert!(got == want, "{blocks} blocks in clusters of {cluster}, {schedule:?}");
        }
    }
}

#[test]
fn every_synchronisation_is_needed() {
    let run = |schedule| {
        let sums = run("test_cluster_share", launch(4, 2), schedule)?;
        Ok(sums.into_iter().flat_map(f32::to_ne_bytes).collect())
    };
    check_barriers_with(FILE, run).unwrap();
    let mut kinds: Vec<String> = barriers_seen().into_iter().filter(|b| b.file == FILE).map(|b| b.kind).collect();
    kinds.sort();
    let want = [
        ["__syncwarp"].as_slice(),
        &["cluster_sync"; 2],
        &["mbarrier_arrive_at", "mbarrier_expect", "mbarrier_init_fence"],
        &["mbarrier_wait"; 2],
    ];
    assert_eq!(kinds, want.concat());
}

/// What a broken rule ends in; `None` if it goes unnoticed.
fn report(kernel: &str, schedule: Schedule) -> Option<String> {
    let mut data = Memory::new(&values(1));
    let mut maps = [Map::tiled(&mut data, &[64, 64], 64)];
    let launch = Launch { grid: [2, 1, 1], block: [128, 1, 1], shared_bytes: 9 << 10, cluster: 2 };
    let error = call(schedule, &format!("test_cluster_{kernel}"), launch, &mut maps, NO_OUT, &[]).err()?;
    assert!(!error.contains('\n') && error.contains("(block "), "{error}");
    Some(error)
}

/// `FILE:LINE` of the fixture's line that holds this text.
fn at(text: &str) -> String {
    let line = include_str!("../kernels/cluster_faults.cu").lines().position(|line| line.contains(text));
    format!("tools/emulator/tests/kernels/cluster_faults.cu:{}", line.expect("the fixture holds the line") + 1)
}

#[test]
fn broken_rules_are_reported() {
    let always: [(&str, &[&str]); 5] = [
        ("arrives_outside", &["mbarrier_arrive_at: thread 0 names block 2 of a cluster of 2", &at("has no third")]),
        ("shares_outside", &["tma_share_2d: thread 0 passes the mask 5 to a cluster of 2", &at("nor does a mask")]),
        ("returns_early", &["early exit: ", "cluster", &at("without the other block")]),
        ("diverges", &["divergent barrier: ", &at("// block 0"), &at("// block 1")]),
        ("never_comes", &["deadlock: 128 of 128 threads", "mbarrier_wait at ", &at("nothing is on its way")]),
    ];
    for (kernel, parts) in always {
        for schedule in schedules() {
            let error = report(kernel, schedule).unwrap_or_else(|| panic!("{kernel}, {schedule:?}: unnoticed"));
            for part in parts {
                assert!(error.contains(part), "{kernel}, {schedule:?}: {error:?} lacks {part:?}");
            }
        }
    }
    // Which block goes first decides.
    for (kernel, parts) in [
        ("arrives_late", ["block 0 of its cluster, which has ended", &at("nobody keeps block 0")]),
        ("shares_late", ["block 0 of its cluster, which has ended", &at("nor here")]),
        ("not_initialised_yet", ["before its mbarrier_init", &at("perhaps too early")]),
    ] {
        let errors: Vec<String> = schedules().into_iter().filter_map(|schedule| report(kernel, schedule)).collect();
        let noticed = errors.iter().any(|error| parts.iter().all(|part| error.contains(part)));
        assert!(noticed, "{kernel}: {errors:?}");
    }
}

#[test]
fn a_grid_is_made_of_whole_clusters() {
    for (blocks, cluster, why) in [
        (3, 2, "the grid is not made of whole clusters (grid 3,1,1; block 128,1,1; 65568 bytes; clusters of 2)"),
        (9, 9, "a cluster has 1 to 8 blocks"),
        (2, 0, "a cluster has 1 to 8 blocks"),
    ] {
        let error = run("test_cluster_share", launch(blocks, cluster), schedules()[0]).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}
