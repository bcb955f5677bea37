//! Captured graphs: a replay does what the work did, with the memory of the capture, and nothing else may disturb it.

use crate::common::{self, Rng, all_devices, assert_same_bits, kernel_devices, wide};
use bicl::{
    DType, Device, Error, Result, Tensor,
    autograd::Tape,
    device::{Graph, Uploader},
    ops::{self, AverageItem, Conv2dSpec, SgdItem, SgdSpec},
};

fn of(data: &[f32], device: &Device) -> Tensor {
    Tensor::from_slice(data, &[data.len()], device).unwrap()
}

fn text<T>(result: Result<T>) -> String {
    let error = result.err().expect("refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// One device of each kind that captures and computes. What the captures launch has run there once, as they ask for.
fn graph_devices() -> Vec<Device> {
    let devices: Vec<Device> = all_devices().into_iter().filter(|device| !device.is_cpu()).collect();
    for device in &devices {
        let x = of(&[1.0], device);
        x.duplicate().and_then(|mut y| y.accumulate(&x)).unwrap();
    }
    devices
}

fn captured<T>(device: &Device, work: impl FnOnce() -> Result<T>) -> (Graph, T) {
    device.capture(work).unwrap()
}

/// A little network with the method's losses, and its optimiser.
struct Trainer {
    images: Tensor,
    labels: Tensor,
    filter: Tensor,
    momentum: Tensor,
    average: Tensor,
}

impl Trainer {
    fn new(device: &Device) -> Self {
        let mut rng = Rng(5);
        let filter = rng.reals(&[8, 3, 3, 3], DType::F32, device);
        Self {
            images: rng.reals(&[2, 6, 6, 3], DType::F32, device),
            labels: rng.labels(&[2, 6, 6], 3, 9, device),
            momentum: Tensor::zeros(filter.shape(), DType::F32, device).unwrap(),
            average: Tensor::zeros(&[], DType::F32, device).unwrap(),
            filter,
        }
    }

    /// Convolution, ReLU, prototypes, contrastive loss, update in place; the loss.
    fn step(&mut self) -> Result<Tensor> {
        let tape = Tape::new(self.images.device());
        let filter = tape.variable(self.filter.clone());
        let images = tape.constant(self.images.clone());
        let spec = Conv2dSpec { padding: [1, 1], ..Conv2dSpec::default() };
        let features = ops::relu(&ops::conv2d(&images, &filter, None, &spec)?)?;
        let prototypes = ops::masked_average_pool(&features, &self.labels, 3)?;
        let overlap = ops::class_overlap(&prototypes.counts, &prototypes.counts)?;
        let contrast = ops::contrastive_loss(&features, &self.labels, &prototypes, &overlap, 0.1)?;
        let size = ops::mean(&features)?;
        let loss = ops::weighted_sum(&[(&contrast, 1.0), (&size, 0.1)])?;
        let mut gradients = tape.backward(&loss)?;
        let gradient = gradients.take(&filter).expect("the loss depends on the filter");
        let value = loss.value().clone();
        drop((filter, images, features, prototypes, contrast, size, loss, gradients, tape));
        let (value_, momentum, gradient) = (&mut self.filter, &mut self.momentum, &gradient);
        let item = SgdItem { value: value_, momentum, gradient, copy: None, multiplier: 1.0, weight_decay: 1e-4 };
        let rate = &Tensor::full(&[1], 0.05, DType::F64, value.device())?;
        ops::sgd_step(&mut [item], &SgdSpec { momentum: 0.9, rate, found_inf: Some(&value) })?;
        let item = AverageItem { average: &mut self.average, x: &value, row: 0 };
        ops::move_running_averages(&mut [item], 0.1, Some(&value))?;
        Ok(value)
    }
}

#[test]
fn replays_equal_direct_steps_bit_for_bit() {
    for device in kernel_devices() {
        let (mut direct, mut replayed) = (Trainer::new(&device), Trainer::new(&device));
        let inputs: Vec<Vec<f32>> = (0..3)
            .map(|seed| Rng(seed).reals(&[216], DType::F32, &Device::cpu()))
            .map(|x| x.to_vec().unwrap())
            .collect();
        Trainer::new(&device).step().unwrap(); // loads the kernels
        let (graph, loss) = captured(&device, || replayed.step());
        for kept in [&replayed.images, &replayed.labels, &replayed.filter, &replayed.momentum, &replayed.average, &loss]
        {
            assert!(kept.is_used_by(&graph));
        }
        assert_same_bits(&replayed.filter, &direct.filter, "a capture runs nothing");
        let mut losses = Vec::new();
        for images in &inputs {
            direct.images.write_from(images).unwrap();
            replayed.images.write_from(images).unwrap();
            let want = direct.step().unwrap();
            graph.replay().unwrap();
            assert_same_bits(&loss, &want, "loss");
            assert_same_bits(&replayed.filter, &direct.filter, "filter");
            assert_same_bits(&replayed.momentum, &direct.momentum, "momentum");
            assert_same_bits(&replayed.average, &direct.average, "running average");
            losses.push(wide(&want)[0]);
        }
        assert!(losses.iter().all(|loss| loss.is_finite()) && losses[0] != losses[1] && losses[1] != losses[2]);
        // What the graph wrote is ordinary memory once it is gone.
        drop(graph);
        assert_eq!(wide(&loss)[0], losses[2]);
        replayed.step().unwrap();
        direct.step().unwrap();
        assert_same_bits(&replayed.filter, &direct.filter, "a direct step after the graph");
    }
}

#[test]
fn fills_copies_and_carried_state_are_replayed() {
    for device in graph_devices() {
        let mut x = of(&[1.0, 2.0], &device);
        let (graph, (sum, zeros)) = captured(&device, || {
            let mut sum = x.duplicate()?;
            sum.accumulate(&Tensor::full(&[2], 0.5, DType::F32, &device)?)?;
            x.copy_from(&sum)?;
            Ok((sum, Tensor::zeros(&[2], DType::F32, &device)?))
        });
        for round in 1..=3 {
            graph.replay().unwrap();
            let more = 0.5 * f64::from(round);
            assert_eq!((wide(&sum), wide(&x), wide(&zeros)), (vec![1.0 + more, 2.0 + more], wide(&sum), vec![0.0; 2]));
        }
        for (dtype, value) in [(DType::F64, -1.25), (DType::F32, 3.5), (DType::Bf16, 0.75)] {
            assert_eq!(wide(&Tensor::full(&[5], value, dtype, &device).unwrap()), [value; 5], "{dtype}");
        }
    }
}

/// What is allocated between replays is never scratch of the graph, though both are of one size.
#[test]
fn scratch_is_not_shared_with_the_outside() {
    for device in graph_devices() {
        let x = of(&[1.0; 300], &device);
        let double = |x: &Tensor| {
            let mut y = x.duplicate()?;
            y.accumulate(x)?;
            Ok(y)
        };
        // Dropped scratch in between, and idle memory of the same size outside.
        drop(double(&x).unwrap());
        let (graph, y) = captured(&device, || double(&double(&double(&x)?)?));
        for _ in 0..3 {
            let outside: Vec<Tensor> = (0..8).map(|i| of(&[i as f32; 300], &device)).collect();
            assert!(outside.iter().all(|tensor| !tensor.is_used_by(&graph)));
            graph.replay().unwrap();
            assert_eq!(wide(&y), [8.0; 300]);
            for (i, tensor) in outside.iter().enumerate() {
                assert_eq!(wide(tensor), [i as f64; 300], "a replay wrote outside");
            }
        }
    }
}

/// A tensor that is dropped after the capture, even inside it, keeps its memory for the graph.
#[test]
fn inputs_outlive_their_tensors() {
    for device in graph_devices() {
        let (x, mut y) = (of(&[3.0; 200], &device), of(&[0.0; 200], &device));
        let mut x = Some(x);
        let (graph, ()) = captured(&device, || {
            y.accumulate(x.as_ref().expect("not yet dropped"))?;
            drop(x.take());
            // Would take the memory of `x`, were it free.
            let scratch = Tensor::zeros(&[200], DType::F32, &device)?;
            y.accumulate(&scratch)
        });
        let outside: Vec<Tensor> = (0..4).map(|_| of(&[100.0; 200], &device)).collect();
        graph.replay().unwrap();
        graph.replay().unwrap();
        assert_eq!(wide(&y), [6.0; 200]);
        assert!(outside.iter().all(|tensor| wide(tensor) == [100.0; 200]));
        // A parameter that is replaced is noticed.
        y = of(&[0.0; 200], &device);
        assert!(!y.is_used_by(&graph));
    }
}

#[test]
fn what_cannot_be_captured_is_refused() {
    for device in graph_devices().into_iter().chain([Device::plan()]) {
        let mut x = of(&[1.0, 2.0], &device);
        let one = of(&[1.0, 1.0], &device);
        let mut uploader = Uploader::new(&device).unwrap();
        let (done, ()) = captured(&device, || x.accumulate(&one));
        let mut refused = |what: &str, work: &mut dyn FnMut(&mut Tensor) -> Result<()>, says: &[&str]| {
            let error = text(device.capture(|| work(&mut x)));
            assert!(error.starts_with("graph: ") && says.iter().all(|part| error.contains(part)), "{what}: {error}");
        };
        let after = "read it after a replay";
        refused("download", &mut |x| x.to_vec::<f32>().map(drop), &["to_vec inside a capture", after]);
        refused("later", &mut |x| x.read_later::<f32>().map(drop), &["read_later inside a capture", after]);
        refused("move", &mut |x| x.to_device(&Device::cpu()).map(drop), &["to_device inside", after]);
        let upload = "make the tensor before the capture";
        refused(
            "upload",
            &mut |_| Tensor::from_vec(vec![1.0f32], &[1], &device).map(drop),
            &["inside a capture", upload],
        );
        refused("write", &mut |x| x.write_from(&[0.0f32; 2]), &["write_from inside a capture", upload]);
        refused("through", &mut |x| x.write_through(&mut uploader, &[0.0f32; 2]), &["write_through inside a capture"]);
        refused("wait", &mut |_| device.synchronize(), &["synchronize inside a capture", "after the replay"]);
        refused("replay", &mut |_| done.replay(), &["replay inside a capture", "do not nest"]);
        refused("nested", &mut |_| device.capture(|| Ok(())).map(drop), &["a capture is under way"]);
        let copy_on_write = |x: &mut Tensor| {
            let _shared = x.clone();
            x.accumulate(&one)
        };
        refused("copy on write", &mut { copy_on_write }, &["whose memory is shared", "drop what shares it"]);
        // Copies of what the capture made are its own affair.
        captured(&device, || {
            let mut y = x.duplicate()?;
            let kept = y.clone();
            y.accumulate(&one)?;
            Ok(kept)
        });
        // None of that left the device capturing.
        x.accumulate(&one).unwrap();
        if device.as_plan().is_none() {
            assert_eq!(wide(&x), [2.0, 3.0]);
        }
    }
    let error = text(Device::cpu().capture(|| Ok(())));
    assert!(error.contains("needs a GPU"), "{error}");
}

#[test]
fn a_failure_ends_the_capture() {
    for device in graph_devices() {
        let x = of(&[1.0, 2.0], &device);
        let failing = device.capture(|| {
            x.duplicate()?.accumulate(&x)?;
            Err::<(), _>(Error::Config("on purpose".into()))
        });
        assert_eq!(text(failing), "config: on purpose");
        let panicking =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| device.capture::<()>(|| panic!("on purpose"))));
        assert!(panicking.is_err());
        // A refused inner capture leaves the outer one intact.
        let (graph, y) = captured(&device, || {
            assert!(device.capture(|| Ok(())).is_err());
            x.duplicate()
        });
        graph.replay().unwrap();
        assert_eq!((wide(&y), wide(&x)), (vec![1.0, 2.0], vec![1.0, 2.0]));
    }
}

#[test]
fn another_thread_may_not_launch_meanwhile() {
    for device in graph_devices() {
        let x = of(&[1.0, 2.0], &device);
        let (graph, y) = captured(&device, || {
            let other = std::thread::scope(|scope| scope.spawn(|| x.duplicate()).join().expect("no panic"));
            assert!(text(other).contains("another thread captures"));
            x.duplicate()
        });
        graph.replay().unwrap();
        assert_eq!(wide(&y), [1.0, 2.0]);
    }
}

#[test]
fn a_plan_counts_replays_and_memory() {
    if common::gpu_alone() {
        return;
    }
    let device = Device::plan();
    let plan = device.as_plan().unwrap();
    let mega = || Tensor::zeros(&[1 << 20], DType::F32, &device);
    let x = mega().unwrap();
    plan.start();
    let work = || {
        let mut y = x.duplicate()?;
        y.accumulate(&mega()?)?;
        y.accumulate(&mega()?)?; // the same scratch again
        Ok(y)
    };
    let direct = work().map(|_| plan.counts()).unwrap();
    let peak = plan.peak_bytes();
    plan.start();
    let (graph, y) = captured(&device, work);
    assert_eq!(plan.counts(), Default::default(), "nothing is counted during a capture");
    assert_eq!(plan.peak_bytes(), peak, "idle memory serves the graph, and its scratch serves it twice");
    for round in 1..=2 {
        graph.replay().unwrap();
        let counts = plan.counts();
        assert_eq!((counts.graph_launches, counts.fills.launches), (round, round * direct.fills.launches));
        assert_eq!(counts.kernels["accumulate_f32"].launches, round * direct.kernels["accumulate_f32"].launches);
    }
    y.read_later::<f32>().unwrap().wait().unwrap();
    assert_eq!((plan.counts().later_downloads.launches, plan.counts().downloads.launches), (1, 0));
    // While the graph lives, its scratch is in use; afterwards it is not.
    let before: Vec<_> = (0..3).map(|_| mega().unwrap()).collect();
    assert_eq!(plan.peak_bytes(), 6 * (4 << 20));
    drop((before, graph, y));
    let after: Vec<_> = (0..5).map(|_| mega().unwrap()).collect();
    assert_eq!(plan.peak_bytes(), 6 * (4 << 20), "{} tensors and x fit where graph and outside were", after.len());
}

/// Host memory of the emulator is lent as a slice only where no replay writes.
#[test]
fn slices_of_memory_in_a_graph_are_refused() {
    let device = bicl_emulator::device();
    let (x, mut y) = (of(&[1.0], &device), of(&[1.0], &device));
    let (graph, z) = captured(&device, || {
        y.accumulate(&x)?;
        x.duplicate()
    });
    for tensor in [&x, &y, &z] {
        assert!(text(tensor.as_slice::<f32>()).contains("a captured graph writes"));
    }
    assert!(y.as_mut_slice::<f32>().is_err());
    drop(graph);
    assert!([&x, &y, &z].iter().all(|tensor| tensor.as_slice::<f32>().is_ok()));
    assert!(y.as_mut_slice::<f32>().is_ok());
}

#[test]
fn tensors_are_overwritten_in_place() {
    for device in all_devices() {
        let mut x = of(&[1.0, 2.0], &device);
        x.write_from(&[3.0f32, 4.0]).unwrap();
        assert_eq!(wide(&x), [3.0, 4.0]);
        assert!(text(x.write_from(&[1.0f32])).contains("1 elements do not fill the shape [2]"));
        assert!(text(x.write_from(&[1.0f64; 2])).contains("write_from"));
        let shared = x.clone();
        assert!(text(x.write_from(&[1.0f32; 2])).contains("another tensor shares this memory"));
        assert!(text(x.copy_from(&of(&[1.0; 2], &device))).contains("copy_from: another tensor shares"));
        drop(shared);
        assert!(text(x.copy_from(&of(&[1.0; 3], &device))).contains("[2]"));
        x.copy_from(&of(&[5.0, 6.0], &device)).unwrap();
        assert_eq!(wide(&x), [5.0, 6.0]);
    }
}

/// Batches of different sizes, uploaded one ahead, reach the step they are for.
#[test]
fn uploads_run_ahead() {
    for device in graph_devices() {
        let mut uploader = Uploader::new(&device).unwrap();
        let (mut large, mut small) = (of(&[0.0; 1000], &device), of(&[0.0; 3], &device));
        let (mut total, mut sums) = (of(&[0.0; 1000], &device), of(&[0.0; 3], &device));
        let (graph, ()) = captured(&device, || {
            total.accumulate(&large)?;
            sums.accumulate(&small)
        });
        let mut losses = Vec::new();
        for step in 1..=7u8 {
            large.write_through(&mut uploader, &[f32::from(step); 1000]).unwrap();
            small.write_through(&mut uploader, &[f32::from(step), 1.0, 0.0]).unwrap();
            graph.replay().unwrap();
            losses.push(sums.read_later::<f32>().unwrap());
        }
        assert_eq!((wide(&total), wide(&sums)), (vec![28.0; 1000], vec![28.0, 7.0, 0.0]));
        for (step, loss) in (1u8..).zip(losses) {
            let sum: u8 = (1..=step).sum();
            assert_eq!(loss.wait().unwrap(), [f32::from(sum), f32::from(step), 0.0], "as it was then");
        }
        // Nobody waits for this one.
        drop(total.read_later::<f32>().unwrap());
    }
    let mut elsewhere = Uploader::new(&Device::plan()).unwrap();
    assert!(
        text(of(&[1.0], &Device::cpu()).write_through(&mut elsewhere, &[1.0f32]))
            .contains("operands are on cpu and plan")
    );
}
