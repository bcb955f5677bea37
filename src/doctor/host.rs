//! What must be there before anything runs on a card: one check for each thing that may be missing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use super::check::{Check, Outcome, Trouble};
use crate::{
    Device, Error,
    device::{Card, IMAGES, Image, NVCC_RELEASE, cache_folder, driver_version, glibc_version},
};

/// The group's name.
pub(super) const GROUP: &str = "host";
/// Without these nothing runs on a card.
pub(super) const NEEDED: [&str; 3] = ["driver", "card", "kernels"];

const NO_DRIVER: &str =
    "install NVIDIA's driver (for CUDA 13: 580 or newer); a container needs its host's (docker run --gpus all)";
const NO_CARD: &str = "name another with --device cuda:N, or see what nvidia-smi lists; CUDA_VISIBLE_DEVICES hides cards, and a container \
                       must be given them (docker run --gpus all)";
const OLD_CARD: &str = "use a GPU of compute capability 8.0 or newer (A100, RTX 30 and later), or --device cpu";
const NO_KERNELS: &str = "run tools/setup-cuda.sh, which installs nvcc into .cuda/, then cargo build --release";
const NO_CACHE: &str = "set BICL_CACHE to a folder that can be written; until then every run times its kernels anew";
const NO_START: &str = "restart after a driver update, see what nvidia-smi says, and end what holds the card";

/// The checks for GPU number `index`.
pub(super) fn checks(index: usize) -> Vec<Check> {
    vec![
        Check::new(GROUP, "driver", NO_START, |_| driver()),
        Check::new(GROUP, "card", NO_START, move |_| card(index)),
        Check::new(GROUP, "kernels", NO_KERNELS, |_| kernels()),
        Check::new(GROUP, "cache folder", NO_CACHE, |_| cache(cache_folder().as_deref())),
        Check::new(GROUP, "glibc", "", |_| glibc()),
    ]
}

fn driver() -> Outcome {
    let version = match driver_version() {
        Ok(version) => version,
        Err(Error::NoDriver) => {
            return Err(Trouble::Advised("no NVIDIA driver: libcuda.so.1 was not found".into(), NO_DRIVER.into()));
        }
        Err(error) => return Err(error.into()),
    };
    let module = fs::read_to_string("/sys/module/nvidia/version").unwrap_or_default();
    let module = if module.trim().is_empty() { String::new() } else { format!("{}, ", module.trim()) };
    Ok(format!("{module}CUDA {}.{}", version / 1000, version % 1000 / 10))
}

fn card(index: usize) -> Outcome {
    let card = match Card::find(index) {
        Ok(card) => card,
        Err(Error::NoDriver) => return Err(Trouble::Skipped("needs the driver".into())),
        Err(Error::NoDevice { index, count }) => {
            let detail = format!("no GPU {index}: the driver reports {count}");
            return Err(Trouble::Advised(detail, NO_CARD.into()));
        }
        Err(error) => return Err(error.into()),
    };
    let (major, minor) = card.capability;
    let gigabytes = |bytes: usize| bytes as f64 / 1e9;
    let detail = format!(
        "{}, compute capability {major}.{minor}, {:.1} of {:.1} GB free",
        card.name,
        gigabytes(card.free),
        gigabytes(card.total)
    );
    if major < 8 {
        return Err(Trouble::Advised(detail, OLD_CARD.into()));
    }
    // Here as in training: with a stream and memory of its own.
    if !IMAGES.is_empty() {
        Device::cuda(index)?;
    }
    Ok(detail)
}

fn kernels() -> Outcome {
    if IMAGES.is_empty() {
        return Err(Trouble::Wrong("this binary was built without nvcc and holds no GPU kernels".into()));
    }
    let (hopper, every): (Vec<&Image>, Vec<&Image>) = IMAGES.iter().partition(|image| image.is_for_hopper_alone());
    let names: Vec<&str> = hopper.iter().map(|image| image.name).collect();
    let architectures = every.first().map_or(String::new(), |image| image.architectures.join(", "));
    Ok(format!(
        "{} files by nvcc {NVCC_RELEASE}: {} for {architectures}; for sm_90a alone {}",
        IMAGES.len(),
        every.len(),
        names.join(", ")
    ))
}

/// Whether a file can be written there, which is then gone again, as are folders made for it.
fn cache(folder: Option<&Path>) -> Outcome {
    let Some(folder) = folder else {
        return Err(Trouble::Wrong("none: BICL_CACHE, XDG_CACHE_HOME and HOME are not set".into()));
    };
    let shown = folder.display();
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    let file = folder.join(format!("doctor-{}.partial", process::id()));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&file, "trainer doctor\n"));
    let _ = fs::remove_file(&file);
    // From the innermost; one that holds something by now stays.
    missing.iter().for_each(|path| drop(fs::remove_dir(path)));
    match (written, missing.is_empty()) {
        (Err(error), _) => Err(Trouble::Wrong(format!("{shown} cannot be written: {error}"))),
        (Ok(()), true) => Ok(format!("{shown}, can be written")),
        (Ok(()), false) => Ok(format!("{shown}, does not exist yet and can be made")),
    }
}

fn glibc() -> Outcome {
    glibc_version().ok_or_else(|| Trouble::Skipped("the C library is not glibc".into()))
}

/// A folder for what a process of the checks would keep: the choice of kernels is to be timed, and the user's is left alone. Gone
/// with its owner.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        Self(env::temp_dir().join(format!("bicl-doctor-{}", process::id())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Most often nobody has made it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_folder_is_tried_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert!(cache(Some(folder.path())).unwrap().ends_with("can be written"));
        let inner = folder.path().join("is/made");
        assert!(cache(Some(&inner)).unwrap().ends_with("can be made"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
        // A file in the way stops root too.
        let blocked = folder.path().join("blocked");
        fs::write(&blocked, "").unwrap();
        for (path, part) in [(Some(blocked.join("in")), "cannot be written"), (None, "BICL_CACHE")] {
            let Err(Trouble::Wrong(text)) = cache(path.as_deref()) else { panic!("{path:?} passed") };
            assert!(text.contains(part), "{text}");
        }
    }
}
