//! A step's images and labels on the device, in memory that stays: a captured step reads them there.

use crate::{Device, Result, Tensor, data::Batch, device::Uploader, tensor::Element};

/// What a step reads.
pub(super) struct Inputs {
    /// f32 [N,H,W,3]: one batch, or one of each domain.
    pub images: Vec<Tensor>,
    /// u8 [N,H,W]: of the source, then of the target.
    pub labels: Vec<Tensor>,
    /// The learning rate, f64 [1].
    pub rate: Tensor,
    uploader: Option<Uploader>,
}

/// Pixels, of several batches one after the other, and their extents.
type Images = Vec<(Vec<Vec<f32>>, [usize; 4])>;

/// The batches of a step, source first, as the network takes them.
pub(super) struct Batches {
    images: Images,
    labels: Vec<(Vec<u8>, [usize; 3])>,
}

impl Batches {
    /// Each batch for itself, or, where `together` and they are alike, their images as one.
    pub fn new(batches: Vec<Batch>, together: bool) -> Self {
        let extents = |batch: &Batch| [batch.count, batch.height, batch.width];
        let alike = batches.windows(2).all(|pair| extents(&pair[0]) == extents(&pair[1]));
        let (mut images, mut labels) = (Images::new(), Vec::new());
        for batch in batches {
            let [n, h, w] = extents(&batch);
            labels.push((batch.labels, [n, h, w]));
            match images.last_mut().filter(|_| together && alike) {
                Some((pixels, shape)) => {
                    pixels.push(batch.images);
                    shape[0] += n;
                }
                None => images.push((vec![batch.images], [n, h, w, 3])),
            }
        }
        Self { images, labels }
    }
}

impl Inputs {
    /// New tensors.
    pub fn new(batches: Batches, rate: f64, device: &Device) -> Result<Self> {
        let images = batches.images.into_iter().map(|(data, shape)| Tensor::from_vec(data.concat(), &shape, device));
        let images = images.collect::<Result<_>>()?;
        let labels = batches.labels.into_iter().map(|(data, shape)| Tensor::from_vec(data, &shape, device));
        let uploader = if device.is_cpu() { None } else { Some(Uploader::new(device)?) };
        let rate = Tensor::from_vec(vec![rate], &[1], device)?;
        Ok(Self { images, labels: labels.collect::<Result<_>>()?, rate, uploader })
    }

    /// Whether `batches` have the extents of these.
    pub fn fit(&self, batches: &Batches) -> bool {
        let images = self.images.iter().map(Tensor::shape).eq(batches.images.iter().map(|(_, shape)| &shape[..]));
        images && self.labels.iter().map(Tensor::shape).eq(batches.labels.iter().map(|(_, shape)| &shape[..]))
    }

    /// Overwrites them, ahead of their use where the device can.
    pub fn write(&mut self, batches: &Batches, rate: f64) -> Result<()> {
        let Self { images, labels, uploader, .. } = self;
        for (tensor, (parts, _)) in images.iter_mut().zip(&batches.images) {
            let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
            write(tensor, &parts, uploader)?;
        }
        for (tensor, (data, _)) in labels.iter_mut().zip(&batches.labels) {
            write(tensor, &[data], uploader)?;
        }
        write(&mut self.rate, &[&[rate]], uploader)
    }
}

fn write<T: Element>(tensor: &mut Tensor, parts: &[&[T]], uploader: &mut Option<Uploader>) -> Result<()> {
    match uploader {
        Some(uploader) => tensor.write_parts_through(uploader, parts),
        None => tensor.write_from(&parts.concat()),
    }
}
