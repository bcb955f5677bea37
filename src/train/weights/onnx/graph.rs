//! An ONNX graph, node by node (onnx.proto3 of ONNX 1.17 and later; field numbers do not change).

use super::encode::Message;
use crate::{Result, Tensor};

/// TensorProto.DataType.
pub(super) const FLOAT: i64 = 1;
pub(super) const UINT8: i64 = 2;
const INT64: i64 = 7;

/// An attribute of a node.
pub(super) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [usize]),
    Float(f32),
    Text(&'a str),
}

/// The graph so far.
#[derive(Default)]
pub(super) struct Graph {
    message: Message,
    nodes: usize,
}

impl Graph {
    /// Adds a node with one output, and gives the output's name.
    pub fn node(&mut self, kind: &str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)]) -> String {
        let output = format!("{}_{}", kind.to_lowercase(), self.nodes);
        self.named(kind, inputs, &output, attributes);
        output
    }

    /// The same with an output of that name.
    pub fn named(&mut self, kind: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute<'_>)]) {
        let mut node = Message::default();
        for input in inputs {
            node = node.text(1, input);
        }
        node = node.text(2, output).text(3, &format!("{kind}_{}", self.nodes)).text(4, kind);
        for (name, value) in attributes {
            let attribute = Message::default().text(1, name);
            let (attribute, kind) = match value {
                Attribute::Float(value) => (attribute.float(2, *value), 1),
                Attribute::Int(value) => (attribute.int(3, *value), 2),
                Attribute::Text(value) => (attribute.text(4, value), 3),
                Attribute::Ints(values) => (attribute.ints(8, values), 7),
            };
            node = node.message(5, &attribute.int(20, kind));
        }
        self.add(1, &node);
        self.nodes += 1;
    }

    /// A constant of numbers, row-major.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.add(5, &Message::default().ints(1, shape).int(2, FLOAT).text(8, name).bytes(9, &bytes));
    }

    /// A constant of whole numbers.
    pub fn indices(&mut self, name: &str, values: &[i64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.add(5, &Message::default().ints(1, &[values.len()]).int(2, INT64).text(8, name).bytes(9, &bytes));
    }

    /// A tensor as a constant.
    pub fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.floats(name, tensor.shape(), &tensor.to_vec::<f32>()?);
        Ok(())
    }

    /// An input (`field` 11) or output (12); extents that are no numbers are free.
    fn value(&mut self, field: u64, name: &str, kind: i64, extents: &[&str]) {
        let dimension = |shape: Message, extent: &&str| {
            let dimension = Message::default();
            let dimension = match extent.parse() {
                Ok(value) => dimension.int(1, value),
                Err(_) => dimension.text(2, extent),
            };
            shape.message(1, &dimension)
        };
        let shape = extents.iter().fold(Message::default(), dimension);
        let tensor = Message::default().int(1, kind).message(2, &shape);
        let kind = Message::default().message(1, &tensor);
        self.add(field, &Message::default().text(1, name).message(2, &kind));
    }

    /// An input of the graph.
    pub fn input(&mut self, name: &str, kind: i64, extents: &[&str]) {
        self.value(11, name, kind, extents);
    }

    /// An output of the graph.
    pub fn output(&mut self, name: &str, kind: i64, extents: &[&str]) {
        self.value(12, name, kind, extents);
    }

    fn add(&mut self, field: u64, part: &Message) {
        self.message = std::mem::take(&mut self.message).message(field, part);
    }

    /// The finished graph.
    pub fn finish(self, name: &str) -> Message {
        self.message.text(2, name)
    }
}
