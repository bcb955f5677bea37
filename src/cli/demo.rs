//! `--demo`: generate two miniature domains, train on one, adapt to the other, show the gain.

use std::time::Instant;

use super::{TrainArgs, output, train};
use crate::{
    Error,
    data::{
        miniature::{self, Options},
        sets,
    },
    train::{Interrupt, Preset},
};

pub(super) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    // All that can be wrong with the command must show before the scenes are made.
    let device = args.device()?;
    let out = args.out.clone().unwrap_or_else(|| train::new_folder("demo"));
    let mut config = args.resolve(Preset::Miniature)?;
    config.expect_runs_on(&device)?;
    let data = &mut config.data;
    if (&data.source, &data.target) != (&sets::gta5(), &sets::cityscapes()) {
        return Err(
            Error::Config("--demo generates gta5 and cityscapes; leave data.source and data.target".into()).into()
        );
    }
    let root = args.data_root.clone().unwrap_or_else(|| out.join("data"));
    if root.to_str().is_none() {
        return Err(Error::data(root, "the path is not valid UTF-8, which config.toml needs; rename it").into());
    }
    data.source_root = data.source.root_in(&root);
    data.target_root = data.target.root_in(&root);
    crate::train::expect_no_run(&out)?;
    // From here on Ctrl-C leaves a folder that --resume takes up: the run stops as soon as the scenes are there.
    let interrupt = Interrupt::install()?;
    let options = Options { seed: config.seed, ..Options::default() };
    if !args.json {
        let images = options.source_images + options.target_train + options.target_val;
        output::line(format_args!("generating {images} street scenes in two styles in {}", root.display()))?;
    }
    miniature::generate(&root, &options)?;
    let Some(evaluations) = train::execute(args, &config, &device, &out, false, interrupt)? else { return Ok(()) };
    train::report(args, &config, &out, &evaluations)?;
    if !args.json {
        output::line(format_args!("the whole demo took {:.0} s", start.elapsed().as_secs_f64()))?;
    }
    Ok(())
}
