//! From the names that other programs give tensors to ours, which are torchvision's.

use crate::nn::TARGET_PREFIX;

/// Wrappers around a network, in any order and number: DataParallel, Lightning, mmsegmentation, segmentation_models, a
/// training script's dict, Caffe's converted networks.
const WRAPPERS: [&str; 6] = ["module.", "model.", "backbone.", "encoder.", "state_dict.", "Scale."];
/// Beginnings of the published code's names, and ours.
const RENAMED: [(&str, &str); 4] = [
    ("target_conv1.", "target.conv1."),
    ("target_bn1.", "target.bn1."),
    ("target_layer1.", "target.layer1."),
    ("layer5.conv2d_list.", "classifier.convs."),
];
/// What no network here has: an ImageNet classifier, and a second head for training.
const LEFT_OUT: [&str; 2] = ["fc.", "layer6."];

/// The name here of what is `name` in a file; `None` for what is left out.
pub(super) fn plain(name: &str) -> Option<String> {
    let mut rest = name;
    while let Some(inner) = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
        rest = inner;
    }
    if rest.ends_with("num_batches_tracked") || LEFT_OUT.iter().any(|start| rest.starts_with(start)) {
        return None;
    }
    let renamed = RENAMED.iter().find_map(|(old, new)| Some(format!("{new}{}", rest.strip_prefix(old)?)));
    Some(renamed.unwrap_or_else(|| rest.to_owned()))
}

/// The source's name of what is the target's own.
pub(super) fn of_source(name: &str) -> Option<&str> {
    name.strip_prefix(TARGET_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn wrappers_go_in_any_order() {
        for start in ["", "module.", "state_dict.module.", "model.backbone.", "state_dict.encoder.module.", "Scale."] {
            assert_eq!(plain(&format!("{start}conv1.weight")).as_deref(), Some("conv1.weight"), "{start}");
            let head = plain(&format!("{start}layer5.conv2d_list.3.bias"));
            assert_eq!(head.as_deref(), Some("classifier.convs.3.bias"), "{start}");
            assert_eq!(plain(&format!("{start}fc.weight")), None, "{start}");
        }
        assert_eq!(plain("module.target_layer1.0.bn1.bias").as_deref(), Some("target.layer1.0.bn1.bias"));
        assert_eq!(plain("bn1.num_batches_tracked"), None);
        assert_eq!(plain("layer6.conv2d_list.0.weight"), None);
    }
}
