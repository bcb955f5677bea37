//! What a pickle of weights may call.

/// What becomes of a call.
pub(super) enum Verdict {
    /// An empty dict, to be filled.
    Dict,
    /// A tensor or a parameter: kept with its arguments.
    Tensor,
    /// A value without weights, which training scripts save beside them.
    Harmless,
    /// Everything else.
    Refused,
}

const DICTS: [&str; 4] = ["collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"];
const TENSORS: [&str; 4] = [
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
];
const HARMLESS: [&str; 22] = [
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.set",
    "builtins.slice",
    "collections.Counter",
    "collections.deque",
    "copyreg._reconstructor",
    "datetime.datetime",
    "easydict.EasyDict",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.serialization._get_layout",
    "yacs.config.CfgNode",
];

/// What becomes of a call of `name`.
pub(super) fn verdict(name: &str) -> Verdict {
    match name {
        _ if DICTS.contains(&name) => Verdict::Dict,
        _ if TENSORS.contains(&name) => Verdict::Tensor,
        _ if HARMLESS.contains(&name) => Verdict::Harmless,
        _ => Verdict::Refused,
    }
}

/// The parameter that [`TENSORS`] wraps in its first argument, rather than a storage.
pub(super) fn wraps_tensor(name: &str) -> bool {
    name.contains("_rebuild_parameter")
}
