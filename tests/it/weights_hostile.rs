//! Files of weights that are damaged, or were made to do harm: one line each, nothing executed, no panic.

use std::{fs, path::Path};

use bicl::{
    Device,
    tensor::Rng,
    train::{
        open_network,
        weights::{Convention, Given},
    },
};

use crate::common::trainer::error_of;

fn golden(name: &str) -> Vec<u8> {
    fs::read(format!("tests/golden/weights/{name}")).unwrap()
}

/// Importing and predicting with it give the same one line, which holds `parts`; nothing appears beside it.
#[track_caller]
fn refused(name: &str, bytes: &[u8], parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, bytes).unwrap();
    let (file, out) = (file.to_str().unwrap(), folder.path().join("x.ckpt"));
    let sets = ["--set", "model.backbone=resnet18", "--set", "model.width=2"];
    let import = [&["import-weights", file, "--weights", "caffe", "--out", out.to_str().unwrap()], &sets[..]].concat();
    let text = error_of(&import);
    for part in [&[name], parts].concat() {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the file itself is there");
    assert!(!Path::new("executed-by-a-pickle").exists());
}

#[test]
fn a_pickle_that_runs_a_command_is_refused() {
    for name in ["command-zip.pth", "command-stream.pth"] {
        refused(name, &golden(name), &["calls posix.system", "nothing was run", "torch.save(model.state_dict()"]);
    }
    refused("x.pth", b"cos\nsystem\n(S'touch executed-by-a-pickle'\ntR.", &["calls os.system", "nothing was run"]);
}

#[test]
fn what_is_no_whole_file_is_refused() {
    let zip = golden("published-zip-f32.pth");
    refused("half.pth", &zip[..zip.len() / 2], &["zip archive without an end", "damaged"]);
    refused("start.pth", b"PK\x03\x04resnet101/data.pkl", &["damaged"]);
    let stream = golden("parallel-stream-f16.pth");
    refused("short.pth", &stream[..stream.len() - 100], &["damaged"]);
    refused("tar.pth", &golden("tar.pth"), &["tar archive", "save it again with torch.save"]);
    refused("empty.pth", b"", &["the file is empty"]);
    refused("list.pth", b"\x80\x02]q\x00.", &["not a file of torch.save"]);
    refused("text.pth", b"<html>not found</html>", &["neither a safetensors file nor one of torch.save"]);
    refused("header.safetensors", &[255; 64], &["no header"]);
    // A header that claims more than the file has.
    let header = br#"{"conv1.weight":{"dtype":"F32","shape":[64,3,7,7],"data_offsets":[0,37632]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes(), &header[..]].concat();
    refused("claims.safetensors", &bytes, &["as many bytes as its header says"]);
    refused("none.safetensors", &[&2u64.to_le_bytes()[..], b"{}"].concat(), &["holds no tensor"]);
}

#[test]
fn tensors_of_another_depth_and_nan_are_refused() {
    let file = "tests/golden/weights/published-zip-f32.pth";
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.ckpt").to_str().unwrap().to_owned();
    let text = error_of(&["import-weights", file, "--out", &out]);
    assert!(text.contains("fills") && text.contains("looks like a resnet18 of width 2"), "{text}");
    // NaN in the middle of the first filter.
    let mut bytes = golden("published-zip-f32.pth");
    let network = open(Path::new(file)).unwrap();
    let filter = network.parameters.find("bn1.weight").unwrap();
    let number = network.parameters.get(filter).to_vec::<f32>().unwrap()[1].to_le_bytes();
    assert_eq!(number, 1.0f32.to_le_bytes(), "scales are 1");
    let pair = [1.0f32.to_le_bytes(), 1.0f32.to_le_bytes()].concat();
    let at = bytes.windows(8).position(|part| part == pair).unwrap();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    refused("nan.pth", &bytes, &["holds NaN", "did not diverge"]);
}

fn open(path: &Path) -> bicl::Result<bicl::train::Network> {
    let given = Given { convention: Some(Convention::Caffe), short_side: None };
    open_network(path, given, &Device::cpu()).map(|(network, ..)| network)
}

const OPCODES: &[u8] = b"(.)}]0123NKMJRbcuqhtQe\x80\x81\x93\x94";

/// One change: a few bytes, a piece that is cut out or doubled, or the end lost.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, heads: &[(usize, usize)]) {
    let (start, length) = heads[(rng.next_u64() % heads.len() as u64) as usize];
    let place = |rng: &mut Rng| start + (rng.next_u64() as usize) % length;
    match rng.next_u64() % 8 {
        0 => bytes.truncate(place(rng)),
        1 => {
            let at = place(rng);
            let end = (at + 1 + (rng.next_u64() % 40) as usize).min(bytes.len());
            bytes.drain(at..end);
        }
        2 => {
            let at = place(rng);
            let end = (at + 1 + (rng.next_u64() % 40) as usize).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        kind => {
            for _ in 0..kind - 2 {
                let at = place(rng);
                // Wild numbers, opcodes, single bits.
                bytes[at] = match rng.next_u64() % 4 {
                    0 => 0xff,
                    1 => OPCODES[(rng.next_u64() % OPCODES.len() as u64) as usize],
                    2 => bytes[at] ^ (1 << (rng.next_u64() % 8)),
                    _ => rng.next_u64() as u8,
                };
            }
        }
    }
}

/// Where a file says what it holds: `count` bytes from the beginning and to the end.
fn ends(bytes: &[u8], first: usize, last: usize) -> Vec<(usize, usize)> {
    vec![(0, first.min(bytes.len())), (bytes.len() - last.min(bytes.len()), last.min(bytes.len()))]
}

#[test]
fn ten_thousand_damaged_files_are_errors_or_networks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let exported = folder.path().join("whole.safetensors");
    let arguments = ["export", "tests/golden/weights/published-zip-f32.pth", "--weights", "caffe", "--out"];
    assert!(
        crate::common::trainer::trainer(&[&arguments[..], &[exported.to_str().unwrap()]].concat()).status.success()
    );
    let zip = golden("published-zip-f32.pth");
    let small = golden("command-zip.pth");
    let stream = golden("parallel-stream-f16.pth");
    let safe = fs::read(exported).unwrap();
    // The zip's pickle stands first and its directory last; the stream's pickles stand first, as the header does.
    let files = [
        (ends(&zip, 16_000, 16_000), zip),
        (ends(&small, 2_000, 900), small),
        (ends(&stream, 16_000, 500), stream),
        (ends(&safe, 12_000, 100), safe),
    ];
    let mut rng = Rng::new(7);
    let (mut opened, mut failed) = (0, 0);
    for round in 0..10_000 {
        let (heads, whole) = &files[round % files.len()];
        let mut bytes = whole.clone();
        for _ in 0..1 + rng.next_u64() % 3 {
            if heads.iter().all(|(start, length)| start + length <= bytes.len()) {
                mutate(&mut rng, &mut bytes, heads);
            }
        }
        fs::write(&path, &bytes).unwrap();
        match open(&path) {
            Ok(_) => opened += 1,
            Err(error) => {
                let text = error.to_string();
                assert!(!text.contains("internal error") && text.lines().count() == 1, "round {round}: {text}");
                failed += 1;
            }
        }
    }
    println!("{opened} opened, {failed} refused");
    assert!(failed > 4000 && opened > 100, "{opened} opened, {failed} refused: the changes are too strong or too weak");
}
