//! `check`: read a run's data before training on it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Domain, Preset, TrainArgs, output};
use crate::data::{ClassList, Dataset, Description, LabelSource, Split, Survey};

#[derive(clap::Args, Debug)]
pub(super) struct CheckArgs {
    /// Labelled data set (`trainer datasets` lists them), or a description's file.toml.
    #[arg(long, value_name = "NAME", default_value = "gta5")]
    source: Domain,
    /// Unlabelled data set, of the same kinds, or folder:DIR.
    #[arg(long, value_name = "NAME", default_value = "cityscapes")]
    target: Domain,
    /// Folder with gta5/, synthia/, cityscapes/ and so on as their downloads unpack.
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// Folder of the source, where it is not in the data root.
    #[arg(long, value_name = "DIR")]
    source_root: Option<PathBuf>,
    /// Folder of the target, where it is not in the data root.
    #[arg(long, value_name = "DIR")]
    target_root: Option<PathBuf>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// What was found in one split.
struct Part {
    name: &'static str,
    survey: Survey,
    classes: ClassList,
    /// Training would stop, or be wrong.
    problems: Vec<String>,
    /// Worth a look.
    notes: Vec<String>,
}

impl Part {
    fn empty(name: &'static str, set: &Description) -> Self {
        let classes = set.classes().clone();
        Self { name, survey: Survey::default(), classes, problems: Vec::new(), notes: Vec::new() }
    }

    fn read(name: &'static str, set: &Description, dataset: crate::Result<Dataset>) -> Self {
        let mut part = Self::empty(name, set);
        match dataset {
            Err(error) => part.problems.push(error.to_string()),
            Ok(dataset) => {
                part.problems.extend(dataset.expect_ids().err().map(|error| error.to_string()));
                part.survey = Survey::of(&dataset);
                part.problems.extend(part.survey.bad.iter().map(|(_, error)| error.to_string()));
                part.judge(set);
            }
        }
        part
    }

    /// What the class counts say.
    fn judge(&mut self, set: &Description) {
        let Survey { images, pixels, void, .. } = &self.survey;
        if *images == 0 || pixels.is_empty() {
            return;
        }
        let held: Vec<usize> = (0..pixels.len()).filter(|&class| pixels[class] > 0).collect();
        let name = set.name();
        match held.as_slice() {
            [] if set.labels().is_some_and(|table| table.reads_channel()) => self.problems.push(format!(
                "no label holds any class, all {void} pixels are void: labels of {} have 16 bits a channel and hold only 0 \
                 once a program has turned them into 8; unpack the download again",
                set.title()
            )),
            [] => self.problems.push(format!(
                "no label holds any class, all {void} pixels are void; check that these are the label files and that their \
                 ids are those of the data set (trainer datasets show {name})"
            )),
            [class] => self.problems.push(format!(
                "every labelled pixel is {}; check the ids (trainer datasets show {name})",
                self.classes.name(*class)
            )),
            _ => {}
        }
        let absent = set.absent_classes();
        let lacking = (0..pixels.len()).filter(|class| !held.contains(class) && !absent.contains(&(*class as u8)));
        let lacking: Vec<_> = lacking.map(|class| self.classes.name(class).into_owned()).collect();
        if !lacking.is_empty() && held.len() > 1 {
            self.notes.push(format!("no pixel of {}", lacking.join(", ")));
        }
    }

    fn json(&self) -> Value {
        let Survey { images, pixels, holding, void, sizes, .. } = &self.survey;
        let class = |class: usize| json!({ "name": self.classes.name(class), "pixels": pixels[class], "images": holding[class] });
        let size = |(&(width, height), &images): (&(usize, usize), &usize)| json!({ "size": [width, height], "images": images });
        json!({
            "part": self.name, "images": images, "pixels": pixels, "void_pixels": void,
            "classes": (0..pixels.len()).map(class).collect::<Vec<_>>(),
            "sizes": sizes.iter().map(size).collect::<Vec<_>>(),
            "problems": self.problems, "notes": self.notes,
        })
    }

    fn print(&self) -> anyhow::Result<()> {
        let Survey { images, pixels, holding, void, sizes, .. } = &self.survey;
        let size = |(&(width, height), &count): (&(usize, usize), &usize)| match sizes.len() {
            1 => format!(" of {width} x {height}"),
            _ => format!("{count} of {width} x {height}"),
        };
        let shown: Vec<String> = sizes.iter().take(4).map(size).collect();
        let sizes = match (shown.len(), sizes.len()) {
            (0 | 1, _) => shown.concat(),
            (_, all) if all > 4 => format!(": {} and {} sizes more", shown.join(", "), all - 4),
            _ => format!(": {}", shown.join(", ")),
        };
        output::line(format_args!("{}: {images} images{sizes}", self.name))?;
        let total: u64 = pixels.iter().sum::<u64>().max(1);
        for (class, &count) in pixels.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (share, name) = (100.0 * count as f64 / total as f64, self.classes.name(class));
            let images = holding[class];
            output::line(format_args!("  {name:<14} {share:>5.1} % of labelled pixels, in {images:>5} images"))?;
        }
        if *void > 0 {
            let share = 100.0 * *void as f64 / (total + void) as f64;
            output::line(format_args!("  {:<14} {share:>5.1} % of all pixels", "void"))?;
        }
        for problem in &self.problems {
            output::line(format_args!("  problem: {problem}"))?;
        }
        for note in &self.notes {
            output::line(format_args!("  note: {note}"))?;
        }
        Ok(())
    }
}

/// The target's labelled images; without any there is nothing to be wrong.
fn validation(set: &Description, root: &Path) -> Part {
    match Dataset::open_labelled(set, root, Split::Val) {
        Ok(Ok(dataset)) => Part::read("target val", set, Ok(dataset)),
        Ok(Err(why)) => {
            let mut part = Part::empty("target val", set);
            part.notes.push(format!("{why}: a run trains, but has no scores"));
            part
        }
        Err(error) => Part::read("target val", set, Err(error)),
    }
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let train = TrainArgs {
        source: Some(args.source.clone()),
        target: Some(args.target.clone()),
        data_root: args.data_root.clone(),
        source_root: args.source_root.clone(),
        target_root: args.target_root.clone(),
        ..TrainArgs::default()
    };
    let config = train.resolve(Preset::Paper)?;
    config.expect_classes()?;
    let data = config.data;
    let open = |set, root: &Path, labels| Dataset::open(set, root, Split::Train, &labels);
    let mut parts = [
        Part::read("source train", &data.source, open(&data.source, &data.source_root, LabelSource::Truth)),
        Part::read("target train", &data.target, open(&data.target, &data.target_root, LabelSource::None)),
        validation(&data.target, &data.target_root),
    ];
    let twice = parts[1].survey.same_as(&parts[2].survey);
    if let Some((ours, theirs)) = twice.first() {
        let note = format!(
            "{} images are in target train too, the first are {} and {}: scores on them are of images that were trained on; \
             take them out of one of the two",
            twice.len(),
            theirs.display(),
            ours.display()
        );
        parts[2].notes.push(note);
    }
    let problems: usize = parts.iter().map(|part| part.problems.len()).sum();
    match args.json {
        true => output::line(json!({ "parts": parts.iter().map(Part::json).collect::<Vec<_>>() }))?,
        false => parts.iter().try_for_each(Part::print)?,
    }
    match problems {
        0 => Ok(()),
        _ => anyhow::bail!("{problems} problems in {} and {}", data.source_root.display(), data.target_root.display()),
    }
}
