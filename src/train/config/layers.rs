//! The layers of a configuration: preset, then the file, then `--set key=value`.

use std::path::Path;

use super::{Config, Preset, one_line};
use crate::{Error, Result};

impl Config {
    /// Preset, then the file's keys, then the assignments `a.b=value` (TOML values; bare words are strings).
    pub fn resolve(preset: Preset, file: Option<&Path>, assignments: &[String]) -> Result<Self> {
        let mut table = toml::Table::try_from(preset.config())
            .map_err(|error| Error::Internal(format!("preset {preset}: {error}")))?;
        let mut given = Given::default();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
            let layer: toml::Table =
                text.parse().map_err(|error: toml::de::Error| Error::data(path, one_line(&error.to_string())))?;
            given.note(&layer);
            merge(&mut table, layer);
            // Read after each layer, so that the message can say where the wrong key is.
            Self::read_table(table.clone()).map_err(|message| Error::data(path, message))?;
        }
        for assignment in assignments {
            let layer = parse_assignment(assignment)?;
            given.note(&layer);
            merge(&mut table, layer);
            Self::read_table(table.clone())
                .map_err(|message| Error::Config(format!("--set {assignment}: {message}")))?;
        }
        let mut config = Self::from_table(table).map_err(|error| match (error, file) {
            (Error::Config(message), Some(path)) if assignments.is_empty() => Error::data(path, message),
            (error, _) => error,
        })?;
        config.follow_source(given);
        Ok(config)
    }

    /// What the source decides, where it is not set: how many classes there are, and which get no static label.
    pub fn follow_source(&mut self, given: Given) {
        if !given.classes {
            self.model.classes = self.data.classes().len();
        }
        if !given.excluded {
            self.method.excluded_classes = self.data.source.absent_classes();
        }
    }
}

/// Which settings that follow the source are set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given {
    classes: bool,
    excluded: bool,
}

impl Given {
    fn note(&mut self, layer: &toml::Table) {
        let has = |table: &str, key: &str| layer.get(table).is_some_and(|table| table.get(key).is_some());
        self.classes |= has("model", "classes");
        self.excluded |= has("method", "excluded_classes");
    }
}

/// Keys by their older names, which replace the key of today where a layer has them.
const RENAMED: [(&str, &str); 1] = [("label_places", "label_sampling")];

fn merge(base: &mut toml::Table, layer: toml::Table) {
    for (key, value) in layer {
        let key = RENAMED.iter().find(|(old, _)| *old == key).map_or(key, |(_, new)| (*new).to_owned());
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(layer)) => merge(base, layer),
            (Some(toml::Value::Float(base)), toml::Value::Integer(value)) => *base = value as f64,
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn parse_assignment(text: &str) -> Result<toml::Table> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| Error::Config(format!("--set {text}: write it as key=value, as in adapt.rounds=2")))?;
    let (key, value) = (key.trim(), value.trim());
    let parsed = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
    let mut value = parsed.unwrap_or_else(|| toml::Value::String(value.into()));
    for part in key.rsplit('.') {
        value = toml::Value::Table(toml::Table::from_iter([(part.to_owned(), value)]));
    }
    match value {
        toml::Value::Table(table) => Ok(table),
        _ => Err(Error::Config(format!("--set {text}: the key is empty"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sets;

    #[test]
    fn layers_override_each_other() {
        let assignments = ["adapt.rounds=7".to_owned(), "optimizer.momentum=0".into(), "data.source=synthia".into()];
        let config = Config::resolve(Preset::Paper, None, &assignments).unwrap();
        assert_eq!((config.adapt.rounds, config.optimizer.momentum), (7, 0.0));
        assert_eq!(config.data.source, sets::synthia());
    }

    #[test]
    fn the_source_decides_what_is_not_set() {
        let resolve = |assignments: &[&str]| {
            let assignments: Vec<String> = assignments.iter().map(|&text| text.to_owned()).collect();
            Config::resolve(Preset::Paper, None, &assignments).unwrap()
        };
        assert_eq!(resolve(&["data.source=synthia"]).method.excluded_classes, [9, 14, 16]);
        let own = resolve(&["data.source=synthia", "method.excluded_classes=[3]", "model.classes=21"]);
        assert_eq!((own.method.excluded_classes.as_slice(), own.model.classes), ([3].as_slice(), 21));
        assert!(own.expect_classes().is_ok());
        let few = resolve(&["model.classes=18"]).expect_classes().unwrap_err().to_string();
        assert!(few.contains("model.classes is 18, the classes of GTA5 are 19"), "{few}");
    }

    #[test]
    fn a_description_goes_along_in_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.toml");
        let text = sets::gta5().text().replace("name = \"gta5\"", "name = \"mine\"").replace("images/*", "pictures/*");
        std::fs::write(&file, text).unwrap();
        let config = Config::resolve(Preset::Paper, None, &[format!("data.source={}", file.display())]).unwrap();
        std::fs::remove_file(&file).unwrap();
        let copy = Config::parse(Path::new("config.toml"), &config.to_toml().unwrap()).unwrap();
        assert_eq!((copy.data.source.name(), &copy), ("mine", &config));
        // Built-in ones go by their name, so that older runs are read.
        assert!(Preset::Paper.config().to_toml().unwrap().contains("source = \"gta5\""));
    }

    #[test]
    fn older_names_of_keys_are_read() {
        use crate::adapt::LabelSampling;
        for key in ["label_places", "label_sampling"] {
            let config = Config::resolve(Preset::Paper, None, &[format!("method.{key}=aligned")]).unwrap();
            assert_eq!(config.method.label_sampling, LabelSampling::Aligned);
        }
        let config = Preset::Miniature.config();
        let old = config.to_toml().unwrap().replace("label_sampling", "label_places");
        assert_eq!(Config::parse(Path::new("config.toml"), &old).unwrap(), config);
    }

    #[test]
    fn unknown_keys_are_named() {
        let error = Config::resolve(Preset::Paper, None, &["adapt.runds=7".into()]).unwrap_err().to_string();
        assert!(error.contains("--set adapt.runds=7: unknown field `runds`") && !error.contains('\n'), "{error}");
        let error = Config::resolve(Preset::Paper, None, &["method.temperature=0".into()]).unwrap_err().to_string();
        assert_eq!(error, "config: method.temperature must be above 0");
    }

    #[test]
    fn a_wrong_file_is_named_whatever_is_set_besides() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.toml");
        std::fs::write(&file, "[optimizer]\nmomentom = 0.5\n").unwrap();
        let error = Config::resolve(Preset::Paper, Some(&file), &["adapt.rounds=7".into()]).unwrap_err().to_string();
        assert!(error.contains("mine.toml: unknown field `momentom`"), "{error}");
        // A range that the file leaves wrong may be put right after it.
        std::fs::write(&file, "[method]\ntemperature = 0\n").unwrap();
        assert!(Config::resolve(Preset::Paper, Some(&file), &["method.temperature=1".into()]).is_ok());
    }

    #[test]
    fn sizes_that_no_memory_holds_are_refused() {
        for assignment in ["data.batch=99999999999", "warmup.crop=[8,9999999]", "data.cache_mib=99999999999999"] {
            let error = Config::resolve(Preset::Paper, None, &[assignment.into()]).unwrap_err().to_string();
            assert!(error.contains("must be between") || error.contains("must be at most"), "{assignment}: {error}");
        }
    }

    #[test]
    fn configurations_of_before_layouts_are_of_torchvisions() {
        let old = Preset::Paper.config().to_toml().unwrap().replace("layout = \"caffe\"\n", "");
        let layout = |config: Config| config.model.layout.to_string();
        assert_eq!(layout(Config::parse(Path::new("config.toml"), &old).unwrap()), "torchvision");
        let of = |preset: Preset| (layout(preset.config()), preset.config().model.domain_stem);
        assert_eq!(of(Preset::Paper), ("caffe".to_owned(), false));
        assert_eq!(of(Preset::OfficialCode), ("caffe".to_owned(), true));
        assert_eq!(of(Preset::Miniature), ("torchvision".to_owned(), false));
        assert_eq!(of(Preset::Scratch), ("torchvision".to_owned(), false));
    }

    #[test]
    fn every_preset_survives_its_own_toml() {
        for preset in Preset::ALL {
            let config = preset.config();
            config.validate().unwrap();
            let table: toml::Table = config.to_toml().unwrap().parse().unwrap();
            assert_eq!(Config::from_table(table).unwrap(), config, "{preset}");
        }
    }
}
