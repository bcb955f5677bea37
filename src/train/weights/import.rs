//! Weights of a file into a network.
//!
//! Filters are `[K,C,R,S]` in other programs and `[K,R,S,C]` here; everything else has one layout.

use std::path::Path;

use super::{
    about::{self, CHECKPOINT_KEY},
    axes::permute,
    convention,
    file::WeightsFile,
    looks::{Looks, Names, names},
    names::of_source,
    report::Report,
};
use crate::{
    Device, Error, Result, Tensor,
    nn::{ParameterId, Parameters, Role},
    train::{Config, Network},
};

/// A file of weights with our names for its tensors.
pub struct Import {
    file: WeightsFile,
    names: Names,
    left_out: Vec<String>,
    looks: Looks,
    own: bool,
}

impl Import {
    /// Opens a safetensors or PyTorch file: [`WeightsFile::open`].
    ///
    /// Errors besides: two tensors whose names come to the same once wrappers like `module.` are gone.
    pub fn open(path: &Path) -> Result<Self> {
        let file = WeightsFile::open(path)?;
        let own = file.text(CHECKPOINT_KEY).is_some();
        let (mut names, mut left_out) = names(&file)?;
        if own {
            // The rest of a run's state.
            names.retain(|name, original| {
                let state = name.starts_with("momentum.") || name == "calibration";
                if state {
                    left_out.push(original.clone());
                }
                !state
            });
        }
        let looks = Looks::of(&file, &names);
        Ok(Self { file, names, left_out, looks, own })
    }

    /// The file.
    pub fn file(&self) -> &WeightsFile {
        &self.file
    }

    pub(super) fn looks(&self) -> &Looks {
        &self.looks
    }

    /// A network of `config` that is to be filled: what the file has gets no initial values.
    pub fn network(&self, config: &Config, device: &Device) -> Result<Network> {
        let build = |expected| Network::expecting(&config.model, config.precision, config.seed, device, expected);
        let network = build(self.names.keys().cloned().collect())?;
        let (_, report) = self.places(&network.parameters);
        // Of a name whose extents do not fit nothing will be taken.
        match report.missing.iter().any(|name| self.names.contains_key(name)) {
            true => build(report.loaded.into_iter().collect()),
            false => Ok(network),
        }
    }

    /// Fills `network`, that of `config`. What the target has of its own and the file does not know starts from the
    /// source's.
    ///
    /// Errors: a file whose metadata names another layout or input than `config`; one that fills less than the whole
    /// backbone, unless `partial`; no tensor in common; NaN. The network is then filled in part.
    pub fn fill(mut self, network: &mut Network, config: &Config, partial: bool) -> Result<Report> {
        about::expect_agreement(&self.file, config)?;
        let parameters = &mut network.parameters;
        let (places, mut report) = self.places(parameters);
        self.expect_whole(parameters, &places, &report, partial)?;
        report.notes.extend(self.tell_scale(config)?);
        if self.looks.domain_stem && !config.model.domain_stem {
            let note = "the file has a stem per domain, the network one: it takes the source's; --set \
                        model.domain_stem=true takes both";
            report.notes.push(note.into());
        }
        for (id, name) in places {
            let value = self.value(&name, parameters.get(id).shape())?;
            parameters.set(id, value)?;
        }
        let taken: Vec<ParameterId> = report.loaded.iter().filter_map(|name| parameters.find(name)).collect();
        for id in taken {
            if parameters.name(id).ends_with("running_var")
                && parameters.get(id).to_vec::<f32>()?.iter().any(|value| *value < 0.0)
            {
                let message = format!("{} holds a variance below 0; use other weights", parameters.name(id));
                return Err(Error::data(self.file.path(), message));
            }
        }
        self.share_with_target(parameters, &mut report)?;
        Ok(report)
    }

    /// Which parameter takes which tensor of the file, and the report of that.
    fn places(&self, parameters: &Parameters) -> (Vec<(ParameterId, String)>, Report) {
        let mut report =
            Report { file: self.file.path().to_owned(), left_out: self.left_out.clone(), ..Report::default() };
        let mut places = Vec::new();
        for id in parameters.ids() {
            let name = parameters.name(id);
            let want = parameters.get(id).shape();
            let found = self.names.get(name).and_then(|original| Some((original, self.extents(original)?)));
            match found {
                Some((original, have)) if have == want => {
                    places.push((id, original.clone()));
                    report.loaded.push(name.to_owned());
                }
                Some((_, have)) => {
                    if parameters.role(id) == Role::Head && name.ends_with("0.weight") {
                        let (have, want) = (have.first().copied().unwrap_or(0), want[0]);
                        report.notes.push(format!(
                            "the head is for {have} classes, the network has {want}: it keeps its initial values; \
                             --set model.classes={have} takes it"
                        ));
                    }
                    report.missing.push(name.to_owned());
                }
                None => report.missing.push(name.to_owned()),
            }
        }
        report.loaded.sort();
        let taken = |name: &String| report.loaded.binary_search(name).is_ok();
        report.unused = self.names.iter().filter(|(name, _)| !taken(name)).map(|(_, name)| name.clone()).collect();
        (places, report)
    }

    /// A tensor's extents in our order of axes.
    fn extents(&self, original: &str) -> Option<Vec<usize>> {
        let shape = self.file.shape(original)?;
        Some(match *shape {
            [k, c, r, s] if !self.own => vec![k, r, s, c],
            _ => shape.to_vec(),
        })
    }

    fn expect_whole(
        &self,
        parameters: &Parameters,
        places: &[(ParameterId, String)],
        report: &Report,
        partial: bool,
    ) -> Result<()> {
        let path = self.file.path();
        let looks = &self.looks;
        if places.is_empty() {
            let message = "holds no tensor of this network; names must be torchvision's (conv1.weight)";
            return Err(Error::data(path, format!("{message}; it looks like {looks}")));
        }
        let of_backbone =
            |id: ParameterId| parameters.role(id) != Role::Head && of_source(parameters.name(id)).is_none();
        let count = parameters.ids().filter(|id| of_backbone(*id)).count();
        let lacking: Vec<&String> =
            report.missing.iter().filter(|name| parameters.find(name).is_some_and(of_backbone)).collect();
        let Some(first) = lacking.first() else { return Ok(()) };
        if partial {
            return Ok(());
        }
        let why = match self.names.get(*first).and_then(|original| self.extents(original)) {
            Some(have) => {
                let want = parameters.find(first).map(|id| parameters.get(id).shape().to_vec()).unwrap_or_default();
                format!("{first} has extents {have:?}, the network wants {want:?}")
            }
            None => format!("the first that it lacks is {first}"),
        };
        let advice = looks.settings().map_or_else(|| "use other weights".into(), |settings| format!("use {settings}"));
        let filled = count - lacking.len();
        Err(Error::data(
            path,
            format!(
                "fills {filled} of the backbone's {count} tensors: {why}; it looks like {looks}: {advice}, or \
                 --partial to take what fits"
            ),
        ))
    }

    /// The line about a first filter that does not fit the network's input.
    fn tell_scale(&mut self, config: &Config) -> Result<Option<String>> {
        let original = |name: &str| self.names.get(name).cloned();
        let (Some(filter), Some(mean), Some(variance)) =
            (original("conv1.weight"), original("bn1.running_mean"), original("bn1.running_var"))
        else {
            return Ok(None);
        };
        let scale = convention::input_scale(&mut self.file, &filter, &mean, &variance)?;
        Ok(scale.and_then(|scale| convention::misfit(scale, config.data.normalize)))
    }

    /// A tensor of the file in our order of axes.
    fn value(&mut self, original: &str, want: &[usize]) -> Result<Tensor> {
        let values = self.file.values(original)?;
        let values = match (self.own, self.file.shape(original)) {
            (false, Some(&[k, c, r, s])) if r * s > 1 => permute(&values, [k, c, r, s], [0, 2, 3, 1]),
            _ => values,
        };
        Tensor::from_vec(values, want, &Device::cpu())
    }

    /// The target's own statistics and stem, from the file's one set.
    fn share_with_target(&self, parameters: &mut Parameters, report: &mut Report) -> Result<()> {
        let shared = |name: &String| {
            let source = of_source(name)?;
            report.loaded.iter().any(|loaded| loaded == source).then(|| (name.clone(), source.to_owned()))
        };
        let pairs: Vec<(String, String)> = report.missing.iter().filter_map(shared).collect();
        for (target, source) in &pairs {
            if let (Some(target), Some(source)) = (parameters.find(target), parameters.find(source)) {
                let value = parameters.get(source).duplicate()?;
                parameters.set(target, value)?;
            }
        }
        report.missing.retain(|name| !pairs.iter().any(|(target, _)| target == name));
        report.shared = pairs.into_iter().map(|(target, _)| target).collect();
        Ok(())
    }
}

/// Opens a file and fills a network that is there: [`Import::fill`].
pub fn import(network: &mut Network, config: &Config, path: &Path, partial: bool) -> Result<Report> {
    Import::open(path)?.fill(network, config, partial)
}
