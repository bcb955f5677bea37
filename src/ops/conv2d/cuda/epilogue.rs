//! What a convolution's kernel does with its results before it stores them: the arguments of kernels/include/conv_epilogue.cuh.

use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};

use crate::{
    Device, Result, Tensor,
    ops::epilogue::{BatchNormBackwardEpilogue, BatchNormEpilogue, NormParams},
    tensor::{Element, OptIn, OptOut, Param},
};

/// Mean, variance, scale and shift of a batch norm; all or none.
pub(crate) type NormVectors<'a> = [Option<&'a Tensor>; 4];

/// The epilogue of a forward pass: `ForwardEpilogue` as the host has it.
pub(crate) struct ForwardEpilogue<'a> {
    /// \[K\].
    pub bias: Option<&'a Tensor>,
    /// As y.
    pub residual: Option<&'a Tensor>,
    /// f32 \[groups,pieces,2,K\].
    pub moments: Option<&'a mut Tensor>,
    pub vectors: NormVectors<'a>,
    pub norm: NormParams,
}

impl<'a> ForwardEpilogue<'a> {
    pub fn new(bias: Option<&'a Tensor>, moments: Option<&'a mut Tensor>, norm: &BatchNormEpilogue<'a>) -> Self {
        Self { bias, residual: norm.residual, moments, vectors: norm.vectors, norm: norm.params }
    }
}

/// `ForwardEpilogue` as a kernel takes it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct PackedForwardEpilogue {
    bias: usize,
    residual: usize,
    moments: usize,
    vectors: [usize; 4],
    norm: NormParams,
}

const _: () = assert!(size_of::<PackedForwardEpilogue>() == 72, "as in conv_epilogue.cuh");

/// A [`ForwardEpilogue`] by value.
pub(crate) struct Forward<T>(PhantomData<T>);

impl<T: Element> Param for Forward<T> {
    type Host<'a> = ForwardEpilogue<'a>;
    type Packed = PackedForwardEpilogue;

    fn traffic(host: &ForwardEpilogue<'_>) -> usize {
        let images = [host.bias, host.residual].iter().map(OptIn::<T>::traffic).sum::<usize>();
        images + OptOut::<f32>::traffic(&host.moments) + vectors_traffic(&host.vectors)
    }

    fn pack(kernel: &'static str, device: &Device, host: ForwardEpilogue<'_>) -> Result<PackedForwardEpilogue> {
        Ok(PackedForwardEpilogue {
            bias: OptIn::<T>::pack(kernel, device, host.bias)?,
            residual: OptIn::<T>::pack(kernel, device, host.residual)?,
            moments: OptOut::<f32>::pack(kernel, device, host.moments)?,
            vectors: pack_vectors(kernel, device, host.vectors)?,
            norm: host.norm,
        })
    }
}

/// The epilogue of a data gradient: `DataGradientEpilogue` as the host has it.
pub(crate) struct DataGradientEpilogue<'a> {
    /// What it is added to; x and y of the batch norm whose output the convolution read. All as dx.
    pub accumulate: Option<&'a Tensor>,
    pub x: Option<&'a Tensor>,
    pub y: Option<&'a Tensor>,
    /// f32 \[groups,pieces,2,C\].
    pub sums: Option<&'a mut Tensor>,
    pub vectors: NormVectors<'a>,
    pub norm: NormParams,
}

impl<'a> DataGradientEpilogue<'a> {
    pub fn new(accumulate: Option<&'a Tensor>, norm: &'a mut BatchNormBackwardEpilogue<'_>) -> Self {
        let (x, y, vectors) = (norm.x, norm.y, norm.vectors);
        Self { accumulate, x, y, sums: norm.sums.as_mut(), vectors, norm: norm.params }
    }
}

/// `DataGradientEpilogue` as a kernel takes it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct PackedDataGradientEpilogue {
    images: [usize; 3],
    sums: usize,
    vectors: [usize; 4],
    norm: NormParams,
}

const _: () = assert!(size_of::<PackedDataGradientEpilogue>() == 80, "as in conv_epilogue.cuh");

/// A [`DataGradientEpilogue`] by value.
pub(crate) struct DataGradient<T>(PhantomData<T>);

impl<T: Element> Param for DataGradient<T> {
    type Host<'a> = DataGradientEpilogue<'a>;
    type Packed = PackedDataGradientEpilogue;

    fn traffic(host: &DataGradientEpilogue<'_>) -> usize {
        let images = [host.accumulate, host.x, host.y].iter().map(OptIn::<T>::traffic).sum::<usize>();
        images + OptOut::<f32>::traffic(&host.sums) + vectors_traffic(&host.vectors)
    }

    fn pack(
        kernel: &'static str,
        device: &Device,
        host: DataGradientEpilogue<'_>,
    ) -> Result<PackedDataGradientEpilogue> {
        let image = |image| OptIn::<T>::pack(kernel, device, image);
        Ok(PackedDataGradientEpilogue {
            images: [image(host.accumulate)?, image(host.x)?, image(host.y)?],
            sums: OptOut::<f32>::pack(kernel, device, host.sums)?,
            vectors: pack_vectors(kernel, device, host.vectors)?,
            norm: host.norm,
        })
    }
}

fn vectors_traffic(vectors: &NormVectors<'_>) -> usize {
    vectors.iter().map(OptIn::<f32>::traffic).sum()
}

fn pack_vectors(kernel: &'static str, device: &Device, vectors: NormVectors<'_>) -> Result<[usize; 4]> {
    let mut packed = [0; 4];
    for (address, vector) in packed.iter_mut().zip(vectors) {
        *address = OptIn::<f32>::pack(kernel, device, vector)?;
    }
    Ok(packed)
}
