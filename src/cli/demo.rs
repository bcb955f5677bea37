//! `--demo`: generate two miniature domains, train on one, adapt to the other, show the gain.

use std::time::Instant;

use super::{TrainArgs, train};
use crate::{
    data::miniature::{self, Options},
    train::Preset,
};

pub(super) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let out = args.out.clone().unwrap_or_else(|| train::new_folder("demo"));
    let mut config = args.resolve(Preset::Miniature)?;
    let root = args.data_root.clone().unwrap_or_else(|| out.join("data"));
    let options = Options { seed: config.seed, ..Options::default() };
    config.data.source_root = config.data.source.root_in(&root);
    config.data.target_root = config.data.target.root_in(&root);
    if !args.json {
        let images = options.source_images + options.target_train + options.target_val;
        println!("generating {images} street scenes in two styles in {}", root.display());
    }
    miniature::generate(&root, &options)?;
    let Some(evaluations) = train::execute(args, &config, &out, false)? else { return Ok(()) };
    train::report(args, &out, &evaluations)?;
    if !args.json {
        println!("the whole demo took {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}
