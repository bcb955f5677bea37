//! The tape: what flows where, what is refused, what is freed.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use crate::common::{all_devices, of_dtype, wide};
use bicl::{
    DType, Device, Result, Tensor,
    autograd::{Contribution, Fused, GradientEpilogue, GradientRequest, Tape, Var},
    ops,
};

fn scalar(value: f64, device: &Device) -> Tensor {
    of_dtype(&[value], &[], DType::F64, device)
}

/// y = a b, to count the calls and see what is asked for.
fn product(a: &Var, b: &Var, calls: &Arc<AtomicUsize>) -> Result<Var> {
    let (x, y) = (a.value().item()?, b.value().item()?);
    let (calls, device) = (calls.clone(), a.value().device().clone());
    Var::record("product", scalar(x * y, &device), [a, b], move |dy, wanted| {
        calls.fetch_add(1, Ordering::Relaxed);
        let dy = dy.item()?;
        Ok([wanted[0].then(|| scalar(dy * y, &device)), wanted[1].then(|| scalar(dy * x, &device))])
    })
}

fn text<T>(result: Result<T>) -> String {
    result.err().expect("refused").to_string()
}

/// Several paths from a variable to the loss add up, and each operation runs once.
#[test]
fn paths_accumulate() {
    for device in all_devices() {
        let (tape, calls) = (Tape::new(&device), Arc::new(AtomicUsize::new(0)));
        let x = tape.variable(scalar(3.0, &device));
        // s = x x; t = s s = x^4; y = t + s + x
        let s = product(&x, &x, &calls).unwrap();
        let t = product(&s, &s, &calls).unwrap();
        let y = ops::add(&ops::add(&t, &s).unwrap(), &x).unwrap();
        let gradients = tape.backward(&y).unwrap();
        assert_eq!(wide(gradients.get(&x).unwrap()), [4.0 * 27.0 + 6.0 + 1.0]);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        assert!(gradients.get(&s).is_none(), "only variables keep a gradient");
    }
}

/// A gradient that two operands share is not changed when one of them adds to it.
#[test]
fn shared_gradients_stay_apart() {
    for device in all_devices() {
        let tape = Tape::new(&device);
        let (a, b) = (tape.variable(scalar(1.0, &device)), tape.variable(scalar(2.0, &device)));
        // d/da = 1 + 1, d/db = 1: `add` hands the same tensor to both operands.
        let y = ops::add(&a, &ops::add(&a, &b).unwrap()).unwrap();
        let gradients = tape.backward(&y).unwrap();
        assert_eq!((wide(gradients.get(&a).unwrap()), wide(gradients.get(&b).unwrap())), (vec![2.0], vec![1.0]));
    }
}

#[test]
fn constants_are_skipped() {
    let device = Device::cpu();
    let (tape, calls) = (Tape::new(&device), Arc::new(AtomicUsize::new(0)));
    let (x, c) = (tape.variable(scalar(3.0, &device)), tape.constant(scalar(5.0, &device)));
    let untracked = product(&c, &c, &calls).unwrap();
    assert!(!untracked.is_tracked(), "nothing is recorded for constants");
    assert!(text(tape.backward(&untracked)).contains("depends on no variable"));
    let y = product(&x, &untracked, &calls).unwrap();
    let detached = product(&y.detach(), &x, &calls).unwrap();
    let gradients = tape.backward(&ops::add(&y, &detached).unwrap()).unwrap();
    // y = 25 x, and x times the number 75.
    assert_eq!(wide(gradients.get(&x).unwrap()), [25.0 + 75.0]);
    assert!(gradients.get(&c).is_none());
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn a_variable_the_loss_does_not_reach_has_no_gradient() {
    let device = Device::cpu();
    let tape = Tape::new(&device);
    let (x, other) = (tape.variable(scalar(1.0, &device)), tape.variable(scalar(1.0, &device)));
    let mut gradients = tape.backward(&ops::scale(&x, 2.0).unwrap()).unwrap();
    assert!(gradients.get(&other).is_none());
    assert_eq!(wide(&gradients.take(&x).unwrap()), [2.0]);
    assert!(gradients.take(&x).is_none(), "taken");
    // A variable is its own gradient's source.
    assert_eq!(wide(tape.backward(&x).unwrap().get(&x).unwrap()), [1.0]);
}

#[test]
fn a_second_pass_is_refused() {
    let device = Device::cpu();
    let tape = Tape::new(&device);
    let x = tape.variable(scalar(1.0, &device));
    let y = ops::scale(&x, 2.0).unwrap();
    tape.backward(&y).unwrap();
    assert_eq!(text(tape.backward(&y)), "autograd: scale: its backward pass has run");
}

#[test]
fn misuse_is_refused() {
    let device = Device::cpu();
    let (tape, other) = (Tape::new(&device), Tape::new(&device));
    let x = tape.variable(of_dtype(&[1.0, 2.0], &[2], DType::F32, &device));
    let foreign = other.variable(of_dtype(&[1.0, 2.0], &[2], DType::F32, &device));
    assert!(text(ops::add(&x, &foreign)).contains("different tapes"));
    assert!(text(tape.backward_with(&foreign, foreign.value().clone())).contains("another tape"));
    assert!(text(tape.backward(&x)).contains("needs a scalar, got shape [2]"));
    assert!(text(tape.backward_with(&x, scalar(1.0, &device))).contains("does not match"));
    let wrong_type = of_dtype(&[1.0, 2.0], &[2], DType::F64, &device);
    assert!(text(tape.backward_with(&x, wrong_type)).contains("does not match"));
    let gradients = tape.backward_with(&x, x.value().clone()).unwrap();
    assert!(gradients.get(&foreign).is_none(), "node numbers of another tape mean nothing here");
}

/// An operation that breaks its promise is an error, never a panic.
#[test]
fn broken_operations_are_errors() {
    let device = Device::cpu();
    let tape = Tape::new(&device);
    let x = tape.variable(scalar(1.0, &device));
    let missing = Var::record("hollow", scalar(1.0, &device), [&x], |_, _| Ok([None])).unwrap();
    assert_eq!(text(tape.backward(&missing)), "autograd: hollow: a parent's gradient is missing");
    let short = Var::record_many("short", scalar(1.0, &device), &[&x, &x], |dy, _| Ok(vec![Some(dy)])).unwrap();
    assert_eq!(text(tape.backward(&short)), "autograd: short: its backward pass gave 1 gradients for 2 parents");
    assert!(text(Var::record("alone", scalar(1.0, &device), [], |_, []| Ok([]))).contains("needs a parent"));
    let fails = |_: Tensor, _: [bool; 1]| Err(bicl::Error::Autograd("no".into()));
    let failing = Var::record("failing", scalar(1.0, &device), [&x], fails).unwrap();
    assert_eq!(text(tape.backward(&failing)), "autograd: no");
}

/// What an operation stores is freed in the backward pass, or at once where nothing is tracked.
#[test]
fn memory_is_freed() {
    let device = Device::cpu();
    let tape = Tape::new(&device);
    let x = tape.variable(scalar(1.0, &device));
    let stored = Arc::new(());
    let keep = |parent: &Var| {
        let held = stored.clone();
        let backward = move |dy: Tensor, _: [bool; 1]| {
            drop(held);
            Ok([Some(dy)])
        };
        Var::record("keep", scalar(1.0, &device), [parent], backward).unwrap()
    };
    let constant = keep(&tape.constant(scalar(1.0, &device)));
    assert_eq!(Arc::strong_count(&stored), 1, "a constant stores nothing");
    let first = keep(&x);
    let second = keep(&first);
    let unused = keep(&x);
    assert_eq!(Arc::strong_count(&stored), 4);
    tape.backward(&second).unwrap();
    assert_eq!(Arc::strong_count(&stored), 2, "two of three ran");
    drop((tape, x, first, second, constant));
    assert_eq!(Arc::strong_count(&stored), 2, "a variable keeps its tape");
    drop(unused);
    assert_eq!(Arc::strong_count(&stored), 1);
}

/// What a producer would do first; what it says does not matter to the tape.
fn epilogue(device: &Device) -> GradientEpilogue {
    let [mean, variance, scale, shift] = [0.0, 1.0, 1.0, 0.0].map(|value| scalar(value, device));
    let (groups, epsilon) = (1, 0.0);
    GradientEpilogue { x: None, y: None, relu: true, mean, variance, scale, shift, groups, epsilon, scaled: false }
}

/// Who was asked, and what was shown or fused.
type Asked = (&'static str, Option<&'static str>);

/// A tape with an operation that has an epilogue, and consumers of it.
struct Fusion {
    x: Var,
    y: Var,
    /// Who was asked for a contribution, and whether an epilogue was shown; at last what reached the producer.
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Fusion {
    fn new(device: &Device) -> Self {
        let (tape, log) = (Tape::new(device), Arc::new(Mutex::new(Vec::new())));
        let x = tape.variable(scalar(1.0, device));
        let notes = log.clone();
        let y =
            Var::record_fusing("producer", scalar(1.0, device), &[&x], Some(epilogue(device)), move |dy, fused, _| {
                let what = fused.map(|fused| match fused {
                    Fused::Masked => "masked",
                    Fused::Sums(sums) if wide(&sums) == [7.0] => "sums of 7",
                    Fused::Sums(_) => "sums",
                });
                notes.lock().unwrap().push(("producer", what));
                Ok(vec![Some(dy.into())])
            })
            .unwrap();
        Self { x, y, log }
    }

    /// Reads y so many times. It takes what there is to accumulate where `adds`, and fuses what it may.
    fn consumer(&self, name: &'static str, times: usize, adds: bool) -> Var {
        let (log, device) = (self.log.clone(), self.y.tape().device().clone());
        Var::record_fusing(name, scalar(0.0, &device), &vec![&self.y; times], None, move |dy, _, requests| {
            let mut shown = None;
            let mut contribution = |request: &mut GradientRequest| {
                let sum = if adds { request.take_accumulate(&[]) } else { None };
                let mut gradient = dy.clone();
                sum.map_or(Ok(()), |sum| gradient.accumulate(&sum))?;
                shown = shown.or(request.epilogue().map(|_| "shown"));
                let fused = request.epilogue().map(|_| Fused::Sums(scalar(7.0, dy.device())));
                Ok(Some(Contribution { gradient, fused }))
            };
            let contributions = requests.iter_mut().map(&mut contribution).collect();
            log.lock().unwrap().push((name, shown));
            contributions
        })
        .unwrap()
    }

    /// The pass from the sum of the consumers: what happened, and the gradient of x.
    fn run(&self, consumers: &[Var]) -> (Vec<(&'static str, Option<&'static str>)>, f64) {
        let sum = consumers[1..].iter().fold(consumers[0].clone(), |sum, other| ops::add(&sum, other).unwrap());
        let gradients = sum.tape().backward(&sum).unwrap();
        (self.log.lock().unwrap().clone(), gradients.get(&self.x).unwrap().item().unwrap())
    }
}

#[test]
fn what_a_consumer_fused_reaches_the_producer() {
    let fusion = Fusion::new(&Device::cpu());
    let only = fusion.consumer("only", 1, false);
    assert_eq!(fusion.run(&[only]), (vec![("only", Some("shown")), ("producer", Some("sums of 7"))], 1.0));
}

/// The tape runs in reverse: the consumer recorded first contributes last, and one that leads nowhere never does.
#[test]
fn an_epilogue_is_shown_to_who_completes_the_gradient() {
    let fusion = Fusion::new(&Device::cpu());
    let consumers = [fusion.consumer("first", 1, true), fusion.consumer("last", 1, true)];
    let _unused = fusion.consumer("unused", 1, true);
    let log = vec![("last", None), ("first", Some("shown")), ("producer", Some("sums of 7"))];
    assert_eq!(fusion.run(&consumers), (log, 2.0));
}

/// Two consumers none of which adds up: neither writes the whole gradient, so nobody fuses.
#[test]
fn no_part_of_a_gradient_is_fused() {
    let fusion = Fusion::new(&Device::cpu());
    let consumers = [fusion.consumer("first", 1, false), fusion.consumer("last", 1, false)];
    assert_eq!(fusion.run(&consumers), (vec![("last", None), ("first", None), ("producer", None)], 2.0));
    // Nor does an operation that has the same parent twice, and so two contributions.
    for adds in [false, true] {
        let fusion = Fusion::new(&Device::cpu());
        let twice = fusion.consumer("twice", 2, adds);
        assert_eq!(fusion.run(&[twice]), (vec![("twice", None), ("producer", None)], 2.0));
    }
}

#[test]
fn fusing_what_was_not_shown_is_refused() {
    let device = Device::cpu();
    let masks = |parent: &Var| {
        Var::record_fusing("masks", scalar(0.0, &device), &[parent], None, |dy, _, _| {
            Ok(vec![Some(Contribution { gradient: dy, fused: Some(Fused::Masked) })])
        })
        .unwrap()
    };
    let fusion = Fusion::new(&device);
    let (tape, y) = (fusion.y.tape(), &fusion.y);
    // A variable has no epilogue.
    assert_eq!(text(tape.backward(&masks(&fusion.x))), "autograd: masks: it fused an epilogue that it was not shown");
    // The first of two contributions.
    let early = ops::add(&ops::scale(y, 2.0).unwrap(), &masks(y)).unwrap();
    assert_eq!(text(tape.backward(&early)), "autograd: masks: it fused an epilogue that it was not shown");
    // The last, which left the other one out.
    let fusion = Fusion::new(&device);
    let last = masks(&fusion.y);
    let late = ops::add(&last, &ops::scale(&fusion.y, 2.0).unwrap()).unwrap();
    let tape = fusion.y.tape();
    assert_eq!(text(tape.backward(&late)), "autograd: masks: it fused an epilogue into a part of a gradient");
}
