//! The bank model counts what a GPU would: checked on accesses whose conflicts can be told by hand.

use crate::common::call;
use bicl_emulator::bank_use;

/// Wavefronts of an access by words and of one by four words, `pitch` words from thread to thread.
fn wavefronts(pitch: i32) -> (u64, u64) {
    let used = bank_use(|schedule| {
        let (mut out, mut pitch) = (vec![f32::NAN; 32], pitch);
        call(schedule, "test_banks", [1, 1, 1], [32, 1, 1], 4096 + 128, &mut [&mut &mut out, &mut pitch]).unwrap();
        assert_eq!(out, [2.0; 32]);
    });
    let mut loads: Vec<_> = used.iter().filter(|used| used.kind == "load_shared").collect();
    loads.sort_by_key(|used| used.line);
    let [words, quads] = loads[..] else { panic!("{used:?}") };
    assert_eq!((words.accesses, words.least, quads.accesses, quads.least), (1, 1, 1, 4));
    let stores = used.iter().find(|used| used.kind == "store_shared").expect("the stores are counted");
    assert_eq!((stores.accesses, stores.wavefronts), (33, 33), "neighbouring words never conflict");
    (words.wavefronts, quads.wavefronts)
}

#[test]
fn conflicts_are_those_of_32_banks() {
    assert_eq!(wavefronts(0), (1, 4), "one word for all is a broadcast");
    assert_eq!(wavefronts(1).0, 1);
    assert_eq!(wavefronts(2).0, 2);
    assert_eq!(wavefronts(4), (4, 4), "neighbouring quads fill four wavefronts");
    assert_eq!(wavefronts(8), (8, 8), "every second quad: two rows of each bank in each part");
    assert_eq!(wavefronts(31).0, 1, "an odd pitch meets every bank once");
    assert_eq!(wavefronts(32), (32, 32), "one bank, or four, for all");
}
