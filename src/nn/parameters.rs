//! The tensors of a model by name: what an optimiser changes, and the running statistics beside it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{DType, Device, Error, Result, Tensor};

/// A tensor's place in [`Parameters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParameterId(usize);

/// What a tensor is to the optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Trained at the base learning rate.
    Backbone,
    /// Trained at the head's multiple of it.
    Head,
    /// Scale or shift of a batch norm: trained only where the configuration says so.
    Affine,
    /// A running statistic: never trained, part of the checkpoint.
    Statistic,
}

#[derive(Clone)]
struct Entry {
    name: String,
    value: Tensor,
    role: Role,
    /// The value in bf16, kept in step with it: see [`Parameters::keep_copies`].
    copy: Option<Tensor>,
}

/// All tensors of a model, in the order in which its layers were built.
#[derive(Clone)]
pub struct Parameters {
    device: Device,
    entries: Vec<Entry>,
    by_name: HashMap<Arc<str>, ParameterId>,
    expected: HashSet<String>,
}

impl Parameters {
    /// None yet, to live on `device`.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), entries: Vec::new(), by_name: HashMap::new(), expected: HashSet::new() }
    }

    /// The same, where filters of the names `expected` will be replaced before they are used: drawing initial values for
    /// them would take longer than reading them.
    pub fn expecting(device: &Device, expected: HashSet<String>) -> Self {
        Self { expected, ..Self::new(device) }
    }

    /// Whether the tensor of that name will be replaced: zeros do as its initial values.
    pub fn expects(&self, name: &str) -> bool {
        self.expected.contains(name)
    }

    /// Where they live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Adds a tensor of f32 values under a name that must be new.
    pub fn add(&mut self, name: String, values: Vec<f32>, shape: &[usize], role: Role) -> Result<ParameterId> {
        let id = ParameterId(self.entries.len());
        if self.by_name.insert(name.as_str().into(), id).is_some() {
            return Err(Error::Internal(format!("two parameters are named {name}")));
        }
        self.entries.push(Entry { name, value: Tensor::from_vec(values, shape, &self.device)?, role, copy: None });
        Ok(id)
    }

    /// A tensor.
    pub fn get(&self, id: ParameterId) -> &Tensor {
        &self.entries[id.0].value
    }

    /// Keeps what is multiplied (roles [`Role::Backbone`] and [`Role::Head`]) in bf16 beside the values, for steps in that
    /// precision: the optimizer writes both, so that no step has to convert.
    pub fn keep_copies(&mut self) -> Result<()> {
        for entry in self.entries.iter_mut().filter(|entry| matches!(entry.role, Role::Backbone | Role::Head)) {
            entry.copy = Some(entry.value.to_dtype(DType::Bf16)?);
        }
        Ok(())
    }

    /// The copy in bf16, where one is kept.
    pub fn copy(&self, id: ParameterId) -> Option<&Tensor> {
        self.entries[id.0].copy.as_ref()
    }

    /// A tensor's name, in torchvision's manner: `layer3.5.conv2.weight`.
    pub fn name(&self, id: ParameterId) -> &str {
        &self.entries[id.0].name
    }

    /// What it is to the optimiser.
    pub fn role(&self, id: ParameterId) -> Role {
        self.entries[id.0].role
    }

    /// The tensor of that name.
    pub fn find(&self, name: &str) -> Option<ParameterId> {
        self.by_name.get(name).copied()
    }

    /// All of them, in order.
    pub fn ids(&self) -> impl Iterator<Item = ParameterId> + use<> {
        (0..self.entries.len()).map(ParameterId)
    }

    /// Names and tensors, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|entry| (entry.name.as_str(), &entry.value))
    }

    /// Several tensors with their copies, to be changed together, in the order of `ids`, each named once. Whoever changes a
    /// value writes its copy too.
    pub fn get_many_mut(&mut self, ids: &[ParameterId]) -> Result<Vec<(&mut Tensor, Option<&mut Tensor>)>> {
        let mut slots: Vec<_> =
            self.entries.iter_mut().map(|entry| Some((&mut entry.value, entry.copy.as_mut()))).collect();
        let twice = || Error::Internal("a parameter was asked for twice".into());
        ids.iter().map(|id| slots[id.0].take().ok_or_else(twice)).collect()
    }

    /// Replaces a tensor's value; shape and dtype must stay.
    pub fn set(&mut self, id: ParameterId, value: Tensor) -> Result<()> {
        let entry = &mut self.entries[id.0];
        if value.shape() != entry.value.shape() || value.dtype() != entry.value.dtype() {
            let (have, want) = (&value, &entry.value);
            return Err(Error::shape("parameters", format!("{}: {have:?} cannot replace {want:?}", entry.name)));
        }
        entry.value = value.to_device(&self.device)?;
        if entry.copy.is_some() {
            entry.copy = Some(entry.value.to_dtype(DType::Bf16)?);
        }
        Ok(())
    }

    /// How many numbers are trained or kept.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|entry| entry.value.len()).sum()
    }
}

impl ParameterId {
    /// Its position, counted from 0 in the order of the layers.
    pub fn index(self) -> usize {
        self.0
    }
}
