//! The network as ONNX, for images of any number and size.

mod encode;
mod graph;

use std::collections::BTreeMap;

use encode::Message;
use graph::{Attribute, FLOAT, Graph, UINT8};

use super::export_options::ExportOptions;
use crate::{
    Result, Tensor,
    models::{Layout, RATES},
    nn::EPSILON,
    train::Config,
};

/// The operators' version, and that of the format which goes with it.
const OPSET: i64 = 23;
const IR_VERSION: i64 = 11;

/// Stride, dilation and padding of a square convolution.
struct Place {
    kernel: usize,
    stride: usize,
    dilation: usize,
}

/// The file's bytes. `tensors` are the network's with torchvision's names and layouts, `text` goes along as metadata.
///
/// Input `image`, f32 `[N,3,H,W]`: normalised as `data.normalize` says, or levels 0..255 of red, green, blue. Output
/// `logits`, f32 `[N,C,H,W]`, or `labels`, u8 `[N,H,W]`.
pub(super) fn model(
    config: &Config,
    tensors: &[(String, Tensor)],
    text: &BTreeMap<String, String>,
    options: ExportOptions,
) -> Result<Vec<u8>> {
    let mut graph = Graph::default();
    for (name, tensor) in tensors {
        graph.tensor(name, tensor)?;
    }
    graph.input("image", FLOAT, &["N", "3", "H", "W"]);
    let image = match options.normalize_inside {
        true => normalize(&mut graph, config),
        false => "image".to_owned(),
    };
    let map = backbone(&mut graph, config, &image);
    let branch = |graph: &mut Graph, i: usize| {
        let name = format!("classifier.convs.{i}");
        conv(graph, &map, &name, true, Place { kernel: 3, stride: 1, dilation: RATES[i] })
    };
    let mut logits = branch(&mut graph, 0);
    for i in 1..RATES.len() {
        let next = branch(&mut graph, i);
        logits = graph.node("Add", &[&logits, &next], &[]);
    }
    let classes = config.model.classes.to_string();
    let full = upsample(&mut graph, &logits, if options.argmax { None } else { Some("logits") });
    if options.argmax {
        let first = graph.node("ArgMax", &[&full], &[("axis", Attribute::Int(1)), ("keepdims", Attribute::Int(0))]);
        graph.named("Cast", &[&first], "labels", &[("to", Attribute::Int(UINT8))]);
        graph.output("labels", UINT8, &["N", "H", "W"]);
    } else {
        graph.output("logits", FLOAT, &["N", &classes, "H", "W"]);
    }
    let mut text = text.clone();
    let input = if options.normalize_inside { "RGB levels 0..255" } else { "normalised" };
    text.insert("input".to_owned(), input.to_owned());
    let mut model = Message::default()
        .int(1, IR_VERSION)
        .text(2, env!("CARGO_PKG_NAME"))
        .text(3, env!("CARGO_PKG_VERSION"))
        .message(7, &graph.finish("deeplab"))
        .message(8, &Message::default().text(1, "").int(2, OPSET));
    for (key, value) in &text {
        model = model.message(14, &Message::default().text(1, key).text(2, value));
    }
    Ok(model.into_bytes())
}

fn normalize(graph: &mut Graph, config: &Config) -> String {
    let normalize = config.data.normalize;
    let image = if normalize.channels() == "BGR" {
        graph.indices("bgr", &[2, 1, 0]);
        graph.node("Gather", &["image", "bgr"], &[("axis", Attribute::Int(1))])
    } else {
        "image".to_owned()
    };
    graph.floats("mean", &[1, 3, 1, 1], &normalize.mean());
    graph.floats("std", &[1, 3, 1, 1], &normalize.deviation());
    let centred = graph.node("Sub", &[&image, "mean"], &[]);
    graph.node("Div", &[&centred, "std"], &[])
}

fn conv(graph: &mut Graph, x: &str, name: &str, bias: bool, place: Place) -> String {
    let Place { kernel, stride, dilation } = place;
    let (filter, shift) = (format!("{name}.weight"), format!("{name}.bias"));
    let inputs: &[&str] = if bias { &[x, &filter, &shift] } else { &[x, &filter] };
    let padding = dilation * (kernel / 2);
    let attributes = [
        ("kernel_shape", Attribute::Ints(&[kernel; 2])),
        ("strides", Attribute::Ints(&[stride; 2])),
        ("dilations", Attribute::Ints(&[dilation; 2])),
        ("pads", Attribute::Ints(&[padding; 4])),
    ];
    graph.node("Conv", inputs, &attributes)
}

fn batch_norm(graph: &mut Graph, x: &str, name: &str) -> String {
    let [scale, shift, mean, variance] =
        ["weight", "bias", "running_mean", "running_var"].map(|part| format!("{name}.{part}"));
    let epsilon = [("epsilon", Attribute::Float(EPSILON as f32))];
    graph.node("BatchNormalization", &[x, &scale, &shift, &mean, &variance], &epsilon)
}

/// The image -> the map that enters the head.
fn backbone(graph: &mut Graph, config: &Config, image: &str) -> String {
    let (backbone, layout) = (config.model.backbone, config.model.layout);
    let x = conv(graph, image, "conv1", false, Place { kernel: 7, stride: 2, dilation: 1 });
    let x = batch_norm(graph, &x, "bn1");
    let x = graph.node("Relu", &[&x], &[]);
    let pool = [
        ("kernel_shape", Attribute::Ints(&[3, 3])),
        ("strides", Attribute::Ints(&[2, 2])),
        ("pads", Attribute::Ints(&[1; 4])),
        ("ceil_mode", Attribute::Int(1)),
    ];
    let mut x = graph.node("MaxPool", &[&x], &pool);
    let shape = config.model.shape();
    for (stage, count) in backbone.blocks().into_iter().enumerate() {
        let plan = layout.stage(stage);
        // The first block of a stage has a convolution on its shortcut wherever extents change.
        let output = (shape.width << stage) * backbone.expansion();
        let changes = plan.stride != 1 || stage > 0 || shape.stem_width != output;
        for index in 0..count {
            let name = format!("layer{}.{index}", stage + 1);
            let (stride, dilation) = if index == 0 { (plan.stride, plan.first) } else { (1, plan.rest) };
            x = block(
                graph,
                &x,
                &name,
                (layout, backbone.has_bottlenecks()),
                (stride, dilation),
                index == 0 && changes,
            );
        }
    }
    x
}

fn block(
    graph: &mut Graph,
    x: &str,
    name: &str,
    (layout, bottleneck): (Layout, bool),
    (stride, dilation): (usize, usize),
    changes: bool,
) -> String {
    let places: Vec<Place> = if bottleneck {
        let [one, three] = layout.bottleneck_strides(stride);
        vec![
            Place { kernel: 1, stride: one, dilation: 1 },
            Place { kernel: 3, stride: three, dilation },
            Place { kernel: 1, stride: 1, dilation: 1 },
        ]
    } else {
        vec![Place { kernel: 3, stride, dilation }, Place { kernel: 3, stride: 1, dilation }]
    };
    let shortcut = match changes {
        true => {
            let y = conv(graph, x, &format!("{name}.downsample.0"), false, Place { kernel: 1, stride, dilation: 1 });
            batch_norm(graph, &y, &format!("{name}.downsample.1"))
        }
        false => x.to_owned(),
    };
    let last = places.len();
    let mut y = x.to_owned();
    for (i, place) in (1..).zip(places) {
        y = conv(graph, &y, &format!("{name}.conv{i}"), false, place);
        y = batch_norm(graph, &y, &format!("{name}.bn{i}"));
        if i == last {
            y = graph.node("Add", &[&y, &shortcut], &[]);
        }
        y = graph.node("Relu", &[&y], &[]);
    }
    y
}

/// To the image's rows and columns, bilinear with align_corners.
fn upsample(graph: &mut Graph, logits: &str, output: Option<&str>) -> String {
    let part = |graph: &mut Graph, of: &str, start: i64| {
        let range = [("start", Attribute::Int(start)), ("end", Attribute::Int(start + 2))];
        graph.node("Shape", &[of], &range)
    };
    let (images, rows) = (part(graph, logits, 0), part(graph, "image", 2));
    let sizes = graph.node("Concat", &[&images, &rows], &[("axis", Attribute::Int(0))]);
    let output = output.unwrap_or("upsampled");
    let how =
        [("mode", Attribute::Text("linear")), ("coordinate_transformation_mode", Attribute::Text("align_corners"))];
    graph.named("Resize", &[logits, "", "", &sizes], output, &how);
    output.to_owned()
}
