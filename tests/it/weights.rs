//! Weights of other programs: files of `torch.save` (tests/golden/weights, made by tools/weights_goldens.py) predict what
//! PyTorch predicts with them; names with every prefix are found; what does not fit is said.

use std::{collections::HashMap, fs, path::Path};

use bicl::{
    Device,
    models::{Backbone, Layout},
    train::{
        Config, Network, Preset, open_network,
        weights::{Convention, Given, Import, WeightsFile},
    },
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::common::{
    golden::Golden,
    trainer::{Fixture, error_of, trainer},
};

const HEIGHT: usize = 45;
const WIDTH: usize = 59;

/// The image of tools/weights_goldens.py.
fn write_image(path: &str) {
    let level = |y: u32, x: u32, c: u32| ((y * 7 + x * 13 + c * 50 + (y / 8) * (x / 8) * 31) % 256) as u8;
    let pixel = |x, y| image::Rgb([0, 1, 2].map(|c| level(y, x, c)));
    image::RgbImage::from_fn(WIDTH as u32, HEIGHT as u32, pixel).save(path).unwrap();
}

fn golden_file(name: &str) -> String {
    format!("tests/golden/weights/{name}")
}

/// The train ids that `predict` writes; its file is a paletted PNG.
fn predicted(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let (image, out) = (folder.join("image.png"), folder.join("pictures"));
    write_image(image.to_str().unwrap());
    let mut all = vec!["predict", image.to_str().unwrap(), "--out", out.to_str().unwrap(), "--device", "cpu"];
    all.extend(arguments);
    let output = trainer(&all);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let file = fs::File::open(out.join("image_labels.png")).unwrap();
    let mut decoder = png::Decoder::new(std::io::BufReader::new(file));
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().unwrap();
    let mut labels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut labels).unwrap();
    labels
}

/// Fails unless the labels are PyTorch's wherever its two best classes are no tie.
#[track_caller]
fn expect_pytorchs(case: &str, got: &[u8]) {
    let golden = Golden::open("weights/labels");
    let [want, tie] = ["labels", "tie"].map(|name| golden.case(case).bytes(name).to_vec::<u8>().unwrap());
    assert_eq!(got.len(), want.len());
    let differ = (0..want.len()).filter(|&i| tie[i] == 0 && got[i] != want[i]).count();
    assert_eq!(differ, 0, "{case}: pixels that differ");
    let ties = tie.iter().filter(|&&tie| tie == 1).count();
    assert!(ties < want.len() / 50, "{ties} ties");
}

const FILES: [(&str, &str); 3] =
    [("lightning-zip-bf16", "torchvision"), ("parallel-stream-f16", "caffe"), ("published-zip-f32", "caffe")];

#[test]
fn files_of_pytorch_predict_what_pytorch_predicts() {
    for (name, convention) in FILES {
        let folder = tempfile::tempdir().unwrap();
        let file = golden_file(&format!("{name}.pth"));
        expect_pytorchs(name, &predicted(folder.path(), &["--checkpoint", &file, "--weights", convention]));
        // By way of a checkpoint, whose network keeps statistics per domain.
        let checkpoint = folder.path().join("x.ckpt").to_str().unwrap().to_owned();
        let sets = ["backbone=resnet18", "width=2", "domain_statistics=true"].map(|set| format!("model.{set}"));
        let mut arguments = vec!["import-weights", &file, "--out", &checkpoint, "--weights", convention];
        sets.iter().for_each(|set| arguments.extend(["--set", set]));
        let stem = format!("model.domain_stem={}", name.starts_with("published"));
        arguments.extend(["--set", &stem, "--set", "data.eval_short_side=0"]);
        let output = trainer(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("of the target's own start from the source's"), "{said}");
        assert!(!said.contains("keep their initial values") && !said.contains("note:"), "{said}");
        expect_pytorchs(name, &predicted(folder.path(), &["--checkpoint", &checkpoint]));
        // And back out.
        let exported = folder.path().join("y.safetensors").to_str().unwrap().to_owned();
        assert!(trainer(&["export", &checkpoint, "--out", &exported]).status.success());
        expect_pytorchs(name, &predicted(folder.path(), &["--checkpoint", &exported]));
    }
}

/// The tensors of a golden .pth as a state dict: names, extents and f32 numbers, without prefixes.
fn state(name: &str, prefix: &str) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut file = WeightsFile::open(Path::new(&golden_file(name))).unwrap();
    let names: Vec<String> = file.names().filter(|name| !name.ends_with("tracked")).map(str::to_owned).collect();
    let tensor = |name: String| {
        let shape = file.shape(&name).unwrap().to_vec();
        let values = file.values(&name).unwrap();
        (name.strip_prefix(prefix).unwrap().to_owned(), shape, values)
    };
    names.into_iter().map(tensor).collect()
}

/// Writes them as safetensors under other names.
fn write_state(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)], text: &[(&str, &str)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let text: HashMap<String, String> = text.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    fs::write(path, safetensors::serialize(views, Some(text)).unwrap()).unwrap();
}

const LIGHTNING: &str = "state_dict.model.backbone.";

#[test]
fn every_prefix_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let given = Given { convention: Some(Convention::Torchvision), short_side: None };
    let state = state("lightning-zip-bf16.pth", LIGHTNING);
    let open = |path: &Path| open_network(path, given, &Device::cpu()).unwrap();
    let (want, _, _) = open(Path::new(&golden_file("lightning-zip-bf16.pth")));
    for prefix in ["", "module.", "model.", "backbone.", "encoder.", "state_dict.", "module.backbone.", "Scale."] {
        for head in ["classifier.convs.", "layer5.conv2d_list."] {
            let renamed: Vec<_> = state
                .iter()
                .map(|(name, shape, values)| {
                    (format!("{prefix}{}", name.replace("classifier.convs.", head)), shape.clone(), values.clone())
                })
                .collect();
            write_state(&path, &renamed, &[]);
            let (network, config, report) = open(&path);
            let report = report.unwrap();
            assert_eq!(config.model.backbone, Backbone::ResNet18);
            assert!(report.missing.is_empty() && report.unused.is_empty(), "{prefix}{head}: {report:?}");
            for ((name, got), (_, want)) in network.parameters.iter().zip(want.parameters.iter()) {
                assert_eq!(got.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap(), "{prefix}{head} {name}");
            }
        }
    }
}

/// The first byte of a header's length can be that of a pickle or an archive.
#[test]
fn a_header_of_any_length_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    for padding in 0..96 {
        let text = "x".repeat(8 * padding);
        write_state(&path, &[("bn1.bias".into(), vec![2], vec![1.0, 2.0])], &[("note", &text)]);
        assert_eq!(WeightsFile::open(&path).unwrap().values("bn1.bias").unwrap(), [1.0, 2.0], "{padding}");
    }
}

fn config(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|set| format!("model.{set}")).collect();
    let mut config = Config::resolve(Preset::Paper, None, &sets).unwrap();
    config.data.normalize = bicl::data::Normalize::Imagenet;
    config
}

fn fill(path: &Path, config: &Config, partial: bool) -> Result<(Network, bicl::train::weights::Report), String> {
    let import = Import::open(path).map_err(|error| error.to_string())?;
    let mut network = import.network(config, &Device::cpu()).unwrap();
    let report = import.fill(&mut network, config, partial).map_err(|error| error.to_string())?;
    Ok((network, report))
}

#[test]
fn a_file_that_fills_less_says_what_it_looks_like() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut state = state("lightning-zip-bf16.pth", LIGHTNING);
    write_state(&path, &state, &[]);
    let deeper = config(&["backbone=resnet34", "width=2"]);
    let error = fill(&path, &deeper, false).err().unwrap();
    assert!(error.contains("the first that it lacks is layer1.2.conv1.weight"), "{error}");
    assert!(error.contains("looks like a resnet18 of width 2: use --set model.backbone=resnet18"), "{error}");
    let wider = config(&["backbone=resnet18", "width=4"]);
    let error = fill(&path, &wider, false).err().unwrap();
    assert!(error.contains("conv1.weight has extents [2, 7, 7, 3], the network wants [4, 7, 7, 3]"), "{error}");
    // With what fits: the rest keeps the initial values of the seed.
    let (network, report) = fill(&path, &deeper, true).unwrap();
    assert!(report.missing.contains(&"layer1.2.conv1.weight".to_owned()), "{report:?}");
    let fresh = Network::new(&deeper.model, deeper.precision, deeper.seed, &Device::cpu()).unwrap();
    for name in &report.missing {
        let value =
            |network: &Network| network.parameters.get(network.parameters.find(name).unwrap()).to_vec::<f32>().unwrap();
        assert_eq!(value(&network), value(&fresh), "{name}");
    }
    // A head of other classes is left, with a line.
    let other = config(&["backbone=resnet18", "width=2", "classes=5"]);
    let (_, report) = fill(&path, &other, false).unwrap();
    assert!(report.notes[0].contains("the head is for 19 classes, the network has 5"), "{report:?}");
    // Tensors that have no place are listed.
    state.push(("aux.weight".into(), vec![1], vec![0.0]));
    write_state(&path, &state, &[]);
    let (_, report) = fill(&path, &config(&["backbone=resnet18", "width=2"]), false).unwrap();
    assert_eq!(report.unused, ["aux.weight"]);
    assert!(report.lines().iter().any(|line| line.contains("have no place in the network")), "{report:?}");
}

#[test]
fn the_input_goes_with_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let net = config(&["backbone=resnet18", "width=2"]);
    // A file of ours of the other layout.
    let state = state("lightning-zip-bf16.pth", LIGHTNING);
    write_state(&path, &state, &[("layout", "torchvision"), ("normalize", "imagenet")]);
    let error = fill(&path, &net, false).err().unwrap();
    assert!(error.contains("is of layout torchvision for input imagenet, the network is of caffe"), "{error}");
    let given = Given { convention: Some(Convention::Caffe), short_side: None };
    let error = open_network(&path, given, &Device::cpu()).err().unwrap().to_string();
    assert!(error.contains("says that it is of layout torchvision"), "{error}");
    // A file that says nothing, with a first filter for levels 0..255 where the variance is to be 1.
    let mut levels = state.clone();
    let filter = levels.iter_mut().find(|(name, ..)| name == "conv1.weight").unwrap();
    filter.2.iter_mut().for_each(|value| *value /= 60.0);
    write_state(&path, &levels, &[]);
    let (_, report) = fill(&path, &net, false).unwrap();
    assert!(
        report.notes[0].contains("of inputs on 0..255") && report.notes[0].contains("--weights caffe"),
        "{report:?}"
    );
    // Ours say it without a flag; others must be told.
    let error = open_network(&path, Given::default(), &Device::cpu()).err().unwrap().to_string();
    assert!(error.contains("add --weights caffe or --weights torchvision"), "{error}");
    write_state(&path, &state, &[("layout", "torchvision"), ("normalize", "imagenet"), ("short_side", "40")]);
    let (_, config, _) = open_network(&path, Given::default(), &Device::cpu()).unwrap();
    assert_eq!((config.model.layout, config.data.eval_short_side), (Layout::Torchvision, 40));
}

#[test]
fn a_run_says_what_it_took() {
    let fixture = Fixture::new();
    let weights = golden_file("lightning-zip-bf16.pth");
    let sets = ["--set", "model.width=2", "--max-steps", "1", "--init-weights", &weights, "--weights", "torchvision"];
    let output = fixture.train("run", &sets);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("108 tensors taken") && said.contains("start from the source's"), "{said}");
    let log = fs::read_to_string(fixture.path("run/metrics.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(line["init_weights"]["loaded"].as_array().unwrap().len(), 108, "{line}");
    assert!(line["init_weights"]["missing"].as_array().unwrap().is_empty(), "{line}");
}

#[test]
fn an_export_says_all_that_another_program_needs() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let weights = golden_file("published-zip-f32.pth");
    let export = |out: &str, more: &[&str]| {
        let mut arguments = vec!["export", &weights, "--weights", "caffe", "--out", out];
        arguments.extend(more);
        trainer(&arguments)
    };
    let out = path("x.safetensors");
    assert!(export(&out, &[]).status.success());
    let bytes = fs::read(&out).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let text = metadata.metadata().clone().unwrap();
    let is = |key: &str, value: &str| assert_eq!(text[key], value, "{key}");
    for (key, value) in [
        ("format", "pt"),
        ("backbone", "resnet18"),
        ("layout", "caffe"),
        ("ceil_mode", "true"),
        ("rates", "6,12,18,24"),
        ("align_corners", "true"),
        ("normalize", "caffe"),
        ("channels", "BGR"),
        ("classes", "19"),
        ("statistics", "shared"),
        ("stem", "target"),
    ] {
        is(key, value);
    }
    assert!(metadata.tensors().keys().all(|name| !name.starts_with("target")), "one network, whole");
    // Equal exports are equal files.
    assert!(export(&path("y.safetensors"), &[]).status.success());
    assert_eq!(bytes, fs::read(path("y.safetensors")).unwrap());
    // The suffix decides.
    for name in ["x.bin", "x", "x.pth"] {
        let text = error_of(&["export", &weights, "--weights", "caffe", "--out", &path(name)]);
        assert!(text.contains("use .safetensors or .onnx"), "{text}");
    }
    let text = error_of(&["export", &weights, "--weights", "caffe", "--out", &out, "--argmax"]);
    assert!(text.contains("are for .onnx"), "{text}");
    assert!(export(&path("x.ONNX"), &["--argmax", "--normalize-inside"]).status.success());
    assert!(fs::metadata(path("x.ONNX")).unwrap().len() > 40_000);
}
