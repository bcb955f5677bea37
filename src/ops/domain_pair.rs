//! What source and target have alike, for operations that take both: in one tensor, as they leave a network that took them as
//! one batch, or in one each.

use super::split_images;
use crate::{Error, Result, Tensor, autograd::Var, tensor::Element};

/// Images of source and target, of one shape [N,..].
#[derive(Clone)]
pub enum DomainPair {
    /// [2N,..]: the source's images, then the target's.
    Together(Var),
    /// [N,..] each: the source's, the target's.
    Apart([Var; 2]),
}

impl DomainPair {
    /// The one or two of them.
    pub fn vars(&self) -> &[Var] {
        match self {
            Self::Together(both) => std::slice::from_ref(both),
            Self::Apart(each) => each,
        }
    }

    /// The same of other `vars`, one for each of [`DomainPair::vars`].
    pub(crate) fn with(&self, vars: &[Var]) -> Result<Self> {
        match (self, vars) {
            (Self::Together(_), [both]) => Ok(Self::Together(both.clone())),
            (Self::Apart(_), [source, target]) => Ok(Self::Apart([source.clone(), target.clone()])),
            _ => Err(Error::Internal("a pair of domains of other tensors".into())),
        }
    }

    /// Source and target.
    ///
    /// Errors: an odd number of images together.
    pub fn parts(&self) -> Result<[Var; 2]> {
        match self {
            Self::Apart(each) => Ok(each.clone()),
            Self::Together(both) => {
                let images = both.value().shape().first().copied().unwrap_or(0);
                let parts = <[Var; 2]>::try_from(split_images(both, &[images / 2, images - images / 2])?);
                parts.map_err(|_| Error::Internal("two domains were asked for".into()))
            }
        }
    }

    /// The extents of one domain.
    ///
    /// Errors: domains that differ in shape, dtype or device; other than `R` dimensions.
    pub(crate) fn dims<const R: usize>(&self, op: &'static str) -> Result<[usize; R]> {
        let mut extents: [usize; R] = self.vars()[0].value().dims(op)?;
        match self {
            Self::Together(both) if R == 0 || !extents[0].is_multiple_of(2) => {
                let shape = both.value().shape();
                return Err(Error::shape(op, format!("{shape:?} holds no source and target of as many images")));
            }
            Self::Together(_) => extents[0] /= 2,
            Self::Apart([source, target]) => {
                let (source, target) = (source.value(), target.value());
                target.expect_shape(source.shape(), op, "the target, like the source,")?;
                source.expect_same_device(target, op)?;
                if source.dtype() != target.dtype() {
                    let (source, target) = (source.dtype(), target.dtype());
                    return Err(Error::shape(
                        op,
                        format!("source and target of dtype {source} and {target}; convert one"),
                    ));
                }
            }
        }
        Ok(extents)
    }

    /// The values.
    pub(crate) fn halves(&self) -> Halves {
        match self {
            Self::Together(both) => Halves { first: both.value().clone(), second: None },
            Self::Apart([source, target]) => {
                Halves { first: source.value().clone(), second: Some(target.value().clone()) }
            }
        }
    }
}

/// The tensors of a [`DomainPair`], as `of_domain` of `kernels/include/domains.cuh` takes them.
#[derive(Clone)]
pub(crate) struct Halves {
    /// The source's, or both domains'.
    pub first: Tensor,
    /// The target's.
    pub second: Option<Tensor>,
}

impl Halves {
    /// Those of one tensor that belongs to a single domain, or to both.
    pub fn one(tensor: &Tensor) -> Self {
        Self { first: tensor.clone(), second: None }
    }

    /// A tensor for each domain.
    pub fn two([source, target]: [&Tensor; 2]) -> Self {
        Self { first: source.clone(), second: Some(target.clone()) }
    }

    /// The target's tensor, and how many images stand before its own in it, `images` being a domain's.
    pub fn target(&self, images: usize) -> (&Tensor, usize) {
        match &self.second {
            Some(target) => (target, 0),
            None => (&self.first, images),
        }
    }

    /// The elements of each domain, of tensors in host memory.
    pub fn slices<T: Element>(&self) -> Result<[&[T]; 2]> {
        let first = self.first.as_slice::<T>()?;
        match &self.second {
            Some(second) => Ok([first, second.as_slice::<T>()?]),
            None => Ok(first.split_at(first.len() / 2).into()),
        }
    }

    /// Uninitialised tensors like these.
    pub fn empty_like(&self) -> Result<Self> {
        Ok(Self { first: self.first.empty_like()?, second: self.second.as_ref().map(Tensor::empty_like).transpose()? })
    }

    /// As gradients of [`DomainPair::vars`].
    pub fn into_gradients(self) -> Vec<Option<Tensor>> {
        [Some(self.first)].into_iter().chain(self.second.map(Some)).collect()
    }
}
