//! The method's whole step as a captured graph.

mod common;

use bicl::{
    DType, Device, Result, Tensor, adapt,
    nn::{Domain, Forward, Normalization, ParameterId},
    ops::{self, SgdItem},
    train::{Config, Network, Preset},
};
use common::{Rng, all_devices, assert_same_bits};

/// The method's own step on a network of any size, with all its state in place.
struct Adaptation {
    config: Config,
    network: Network,
    momenta: Vec<(ParameterId, Tensor)>,
    calibration: Tensor,
    images: [Tensor; 2],
    labels: [Tensor; 2],
}

impl Adaptation {
    fn new(device: &Device) -> Self {
        let mut config = Preset::Miniature.config();
        config.model.width = 2;
        let network = Network::new(&config.model, config.precision, 3, device).unwrap();
        let mut rng = Rng(8);
        let images = [(); 2].map(|()| rng.reals(&[1, 24, 24, 3], DType::F32, device));
        let labels = [(); 2].map(|()| rng.labels(&[1, 24, 24], config.model.classes, 9, device));
        let calibration = {
            let pass = Forward::evaluate(&network.parameters, network.precision);
            let output = network.model.forward(&pass, &images[0], &[Domain::Source]).unwrap();
            let depth = output.features.value().shape()[3];
            Tensor::zeros(&[config.model.classes, depth], DType::F32, device).unwrap()
        };
        Self { config, network, momenta: Vec::new(), calibration, images, labels }
    }

    fn step(&mut self) -> Result<Tensor> {
        let network = &mut self.network;
        let pass = Forward::train(&network.parameters, Normalization::Batch, true, network.precision);
        let ([source, target], labels) = (&self.images, &self.labels);
        let source = network.model.forward(&pass, source, &[Domain::Source])?;
        let target = network.model.forward(&pass, target, &[Domain::Target])?;
        let method = &self.config.method;
        let step = adapt::adaptation_step(method, &source, &labels[0], &target, &labels[1], &self.calibration)?;
        let mut gradients = pass.tape().backward(&step.loss)?;
        let value = step.loss.value().clone();
        drop((step.loss, step.parts, source, target));
        let (gradients, statistics) = pass.finish(&mut gradients);
        if self.momenta.is_empty() {
            let zeros = |(id, gradient): &(ParameterId, Tensor)| {
                Ok((*id, Tensor::zeros(gradient.shape(), gradient.dtype(), gradient.device())?))
            };
            self.momenta = gradients.iter().map(zeros).collect::<Result<_>>()?;
        }
        let ids: Vec<ParameterId> = gradients.iter().map(|(id, _)| *id).collect();
        let values = network.parameters.get_many_mut(&ids)?.into_iter();
        let (learning_rate, weight_decay) = (0.01, 1e-4);
        let items = values.zip(&mut self.momenta).zip(&gradients).map(|((value, (_, momentum)), (_, gradient))| {
            SgdItem { value, momentum, gradient, learning_rate, weight_decay }
        });
        ops::sgd_step(&mut items.collect::<Vec<_>>(), 0.9)?;
        statistics.apply(&mut network.parameters)?;
        if let Some(calibration) = step.calibration {
            self.calibration.copy_from(&calibration)?;
        }
        Ok(value)
    }
}

/// No operation of the method uploads, reads back or copies a parameter, on any device; the first step allocates what
/// later ones keep.
#[test]
fn a_step_of_adaptation_can_be_captured() {
    for device in all_devices().into_iter().filter(|device| !device.is_cpu()).chain([Device::plan()]) {
        let (mut direct, mut replayed) = (Adaptation::new(&device), Adaptation::new(&device));
        direct.step().unwrap();
        replayed.step().unwrap();
        let (graph, loss) = device.capture(|| replayed.step()).unwrap();
        for _ in 0..2 {
            let want = direct.step().unwrap();
            graph.replay().unwrap();
            assert_same_bits(&loss, &want, "loss");
        }
        assert_same_bits(&replayed.calibration, &direct.calibration, "calibration");
        for (id, (name, tensor)) in direct.network.parameters.ids().zip(replayed.network.parameters.iter()) {
            assert_same_bits(tensor, direct.network.parameters.get(id), name);
        }
    }
}
