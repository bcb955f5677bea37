//! What to predict, and the files that come of it: no two images write one file.

use std::{
    collections::{HashMap, HashSet},
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Error, Result,
    data::listing::{images_below, is_image},
};

/// An image to predict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub image: PathBuf,
    /// Where its pictures lie, without their endings.
    pub out: PathBuf,
}

impl Job {
    /// The picture with this ending.
    pub fn file(&self, ending: &str) -> PathBuf {
        let mut name = self.out.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        self.out.with_file_name(name)
    }
}

/// The images of `input`; below `out` lies the same tree of folders as below the input.
pub(super) fn jobs(input: &Path, out: &Path) -> Result<Vec<Job>> {
    let (base, images) = if input.is_dir() {
        // Pictures of an earlier call are not input.
        let mut leave_out: HashSet<PathBuf> = fs::canonicalize(out).into_iter().collect();
        let real = fs::canonicalize(input).map_err(|error| Error::io(input, error))?;
        if leave_out.contains(&real) {
            return Err(Error::data(out, "the pictures would lie among the images; choose another --out"));
        }
        // A link to a folder above would bring in everything beside the input.
        leave_out.extend(real.ancestors().skip(1).map(Path::to_owned));
        (input, images_below(input, usize::MAX, &leave_out)?)
    } else {
        let suffix = input.extension().unwrap_or_default().display();
        if input.is_file() && !is_image(input) && !suffix.to_string().is_empty() {
            let advice = "use png, jpg, webp, bmp or tif";
            return Err(Error::data(input, format!("is no image by its suffix .{suffix}; {advice}")));
        }
        (input.parent().unwrap_or(input), vec![input.to_owned()])
    };
    if images.is_empty() {
        return Err(Error::data(
            input,
            "holds no image (png, jpg, webp, bmp, tif); name an image or a folder of images",
        ));
    }
    Ok(named(base, out, images))
}

/// A name for each image's pictures: its own without the suffix, or with it where others share that.
fn named(base: &Path, out: &Path, images: Vec<PathBuf>) -> Vec<Job> {
    let mut stems: HashMap<PathBuf, usize> = HashMap::new();
    for image in &images {
        *stems.entry(image.with_extension("")).or_default() += 1;
    }
    let mut taken = HashSet::new();
    let job = |image: PathBuf| {
        let folder = out.join(image.strip_prefix(base).ok().and_then(Path::parent).unwrap_or(Path::new("")));
        let name = |part: Option<&OsStr>| part.unwrap_or_default().to_owned();
        let alone = stems.get(&image.with_extension("")) == Some(&1);
        let whole = name(image.file_name());
        let numbered = (2..).map(|number| {
            let mut name = whole.clone();
            name.push(format!("-{number}"));
            name
        });
        let stem = alone.then(|| name(image.file_stem()));
        let mut names = stem.into_iter().chain([whole.clone()]).chain(numbered).map(|name: OsString| folder.join(name));
        // There is always a number that is free.
        let free = names.find(|name| !taken.contains(name)).unwrap_or_else(|| folder.join(&whole));
        taken.insert(free.clone());
        Job { image, out: free }
    };
    images.into_iter().map(job).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_images_write_one_file() {
        let names = [
            "a.jpg",
            "a.png",
            "a.png.jpg",
            "b.JPG",
            "b.jpg",
            "c.png",
            "c_labels.png",
            "sub/a.png",
            "d.png",
            "d.png.png",
        ];
        let images = names.iter().map(|name| Path::new("in").join(name)).collect();
        let jobs = named(Path::new("in"), Path::new("out"), images);
        let outs: Vec<_> = jobs.iter().map(|job| job.out.to_str().unwrap()).collect();
        let want = ["a.jpg", "a.png", "a.png.jpg", "b.JPG", "b.jpg", "c", "c_labels", "sub/a", "d", "d.png"];
        assert_eq!(outs, want.map(|name| format!("out/{name}")));
        assert_eq!(jobs[5].file("_labels.png"), Path::new("out/c_labels.png"));
    }
}
