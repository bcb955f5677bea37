//! Scores against cityscapesScripts: tests/golden/scores.json by tools/check_scores.py.

use bicl::{data::ClassList, train::Confusion};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

/// Train ids of some pixels, and what cityscapesScripts makes of them.
#[derive(Deserialize)]
struct Case {
    truth: Vec<u8>,
    predicted: Vec<u8>,
    iou: Vec<Option<f64>>,
    miou: f64,
}

#[test]
fn scores_are_those_of_cityscapes_scripts() {
    let golden: Golden = serde_json::from_str(include_str!("../golden/scores.json")).unwrap();
    assert!(golden.cases.iter().any(|case| case.iou.contains(&None)), "absent classes");
    assert!(golden.cases.iter().any(|case| case.iou.contains(&Some(0.0))), "classes that are predicted and never true");
    for (number, case) in golden.cases.iter().enumerate() {
        let mut confusion = Confusion::new(19);
        confusion.add(&case.truth, &case.predicted).unwrap();
        let scores = confusion.scores(&ClassList::cityscapes());
        for (class, (got, want)) in scores.iou.iter().zip(&case.iou).enumerate() {
            let equal = match (got, want) {
                (Some(got), Some(want)) => (got - want).abs() < 1e-9,
                (got, want) => got == want,
            };
            assert!(equal, "case {number}, class {class}: {got:?}, not {want:?}");
        }
        assert!((scores.miou.unwrap() - case.miou).abs() < 1e-9, "case {number}");
    }
}
