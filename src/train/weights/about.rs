//! What a file of weights says about itself: the text entries that an export writes and an import holds against the
//! configuration.

use std::collections::BTreeMap;

use super::{export_options::Whose, file::WeightsFile};
use crate::{
    Error, Result,
    data::{Class, ClassList, Normalize},
    models::{Layout, RATES},
    nn::EPSILON,
    train::Config,
};

/// The text entry that marks our checkpoints.
pub(in crate::train) const CHECKPOINT_KEY: &str = "bicl";

/// The layout and input that a file's text names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub layout: Layout,
    pub normalize: Normalize,
    /// Length of the shorter side in evaluation.
    pub short_side: usize,
}

/// All that another program needs to compute what `predict` computes.
pub(super) fn describe(config: &Config, whose: Whose) -> BTreeMap<String, String> {
    let (model, shape, normalize) = (&config.model, config.model.shape(), config.data.normalize);
    let short = |value: f32| ((f64::from(value) * 1e5).round() / 1e5).to_string();
    let joined = |values: [f32; 3]| values.map(short).join(",");
    let statistics = match (model.domain_statistics, whose) {
        (false, _) => "shared",
        (true, Whose::Target) => "target",
        (true, Whose::Source) => "source",
    };
    let stem = match (model.domain_stem, whose) {
        (false, _) => "shared",
        (true, Whose::Target) => "target",
        (true, Whose::Source) => "source",
    };
    let mut text = BTreeMap::from(
        [
            ("format", "pt".to_owned()),
            ("producer", concat!("bicl ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("network", "DeepLab-V2".to_owned()),
            ("backbone", model.backbone.to_string()),
            ("layout", model.layout.to_string()),
            ("width", model.width.to_string()),
            ("stem_width", shape.stem_width.to_string()),
            ("output_stride", "8".to_owned()),
            ("max_pool", "kernel 3, stride 2, padding 1".to_owned()),
            ("ceil_mode", "true".to_owned()),
            ("batch_norm_epsilon", EPSILON.to_string()),
            ("statistics", statistics.to_owned()),
            ("stem", stem.to_owned()),
            ("head", "sum of the convolutions classifier.convs.N".to_owned()),
            ("rates", RATES.map(|rate| rate.to_string()).join(",")),
            ("align_corners", "true".to_owned()),
            ("classes", model.classes.to_string()),
            ("normalize", normalize.to_string()),
            ("channels", normalize.channels().to_owned()),
            ("mean", joined(normalize.mean())),
            ("std", joined(normalize.deviation())),
            ("short_side", config.data.eval_short_side.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    let classes = config.data.classes();
    if model.classes == classes.len() {
        let joined = |part: fn(&Class) -> String| classes.iter().map(part).collect::<Vec<_>>().join(",");
        text.insert("class_names".to_owned(), joined(|class| class.name.replace(',', " ")));
        text.insert("class_colors".to_owned(), joined(|class| class.color.map(|level| level.to_string()).join(" ")));
    }
    text
}

/// What the text of one of our files says; `None` of others.
pub(super) fn said(file: &WeightsFile) -> Result<Option<Said>> {
    if let Some(about) = file.text(CHECKPOINT_KEY) {
        let damaged = |_| Error::data(file.path(), "has a damaged entry; use another checkpoint");
        let about: serde_json::Value = serde_json::from_str(about).map_err(damaged)?;
        let config = Config::parse(file.path(), about["config"].as_str().unwrap_or_default())?;
        let (layout, normalize) = (config.model.layout, config.data.normalize);
        return Ok(Some(Said { layout, normalize, short_side: config.data.eval_short_side }));
    }
    let (Some(layout), Some(normalize)) = (file.text("layout"), file.text("normalize")) else { return Ok(None) };
    let unknown = |key: &str, value: &str| {
        Error::data(file.path(), format!("says {key} {value:?}, which this program does not know; export it again"))
    };
    let layout = [Layout::Caffe, Layout::Torchvision].into_iter().find(|known| known.to_string() == layout);
    let normalize = [Normalize::Caffe, Normalize::Imagenet].into_iter().find(|known| known.to_string() == normalize);
    let short_side = file.text("short_side").and_then(|text| text.parse().ok()).unwrap_or(0);
    match (layout, normalize) {
        (Some(layout), Some(normalize)) => Ok(Some(Said { layout, normalize, short_side })),
        (None, _) => Err(unknown("layout", file.text("layout").unwrap_or_default())),
        _ => Err(unknown("normalize", file.text("normalize").unwrap_or_default())),
    }
}

/// The classes that a file of a network with `count` outputs names; numbered ones with colours of their own where it names none.
/// Nineteen are Cityscapes', as every network of this field has them.
pub(super) fn classes_of(file: &WeightsFile, count: usize) -> Result<ClassList> {
    let names: Option<Vec<&str>> = file.text("class_names").map(|names| names.split(',').collect());
    let colors: Option<Vec<[u8; 3]>> = file.text("class_colors").and_then(|colors| {
        let color = |text: &str| {
            let levels: Vec<u8> = text.split(' ').map(|level| level.parse().ok()).collect::<Option<_>>()?;
            levels.try_into().ok()
        };
        colors.split(',').map(color).collect()
    });
    match (names, colors) {
        (Some(names), Some(colors)) if names.len() == count && colors.len() == count => {
            let class = |(name, color): (&str, [u8; 3])| Class { name: name.into(), color, label_id: None };
            let list = ClassList::new(names.into_iter().zip(colors).map(class).collect(), Vec::new())?;
            // The same classes have the same ids and subsets.
            let known = ClassList::cityscapes();
            Ok(if list.iter().map(|class| &class.name).eq(known.iter().map(|class| &class.name)) {
                known
            } else {
                list
            })
        }
        _ if count == ClassList::cityscapes().len() => Ok(ClassList::cityscapes()),
        _ => ClassList::numbered(count),
    }
}

/// Errors where one of our files was made for another layout or input than `config`'s.
pub(super) fn expect_agreement(file: &WeightsFile, config: &Config) -> Result<()> {
    let Some(said) = said(file)? else { return Ok(()) };
    let have = (said.layout, said.normalize);
    let want = (config.model.layout, config.data.normalize);
    if have == want {
        return Ok(());
    }
    Err(Error::data(
        file.path(),
        format!(
            "is of layout {} for input {}, the network is of {} for {}; use --set model.layout={} --set \
             data.normalize={}",
            have.0, have.1, want.0, want.1, have.0, have.1
        ),
    ))
}
