//! `datasets`: what can be named as source or target.

use serde_json::json;

use super::output;
use crate::data::{Description, sets};

#[derive(clap::Args, Debug)]
pub(super) struct DatasetsArgs {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print the list as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Print a description: a TOML file to copy and change.
    Show {
        /// A data set of the list, or a description's file.toml.
        name: Description,
    },
}

pub(super) fn run(args: &DatasetsArgs) -> anyhow::Result<()> {
    if let Some(Command::Show { name }) = &args.command {
        return match args.json {
            true => output::line(json!({ "description": name })),
            false => output::line(name.text().trim_end()),
        };
    }
    if args.json {
        return output::line(json!({ "datasets": sets::all().iter().map(about).collect::<Vec<_>>() }));
    }
    for set in sets::all() {
        let labels = match set.labels() {
            Some(_) => format!("{} classes", set.classes().len()),
            None => "no labels".into(),
        };
        output::line(format_args!("{:<20} {labels:<12} {}", set.name(), set.source()))?;
    }
    Ok(())
}

fn about(set: &Description) -> serde_json::Value {
    let classes: Vec<_> = set.classes().iter().map(|class| &class.name).collect();
    json!({
        "name": set.name(), "title": set.title(), "source": set.source(), "size": set.size(),
        "labelled": set.labels().is_some(), "classes": classes, "absent_classes": set.absent_classes(),
    })
}
