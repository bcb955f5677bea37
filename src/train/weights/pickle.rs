//! A reader of pickles that executes nothing: it builds a picture of the values and refuses what no state dict needs.
//!
//! A pickle is a program for a stack machine (PEP 307, PEP 3154; opcodes as in Python's `pickletools`). Here a call makes
//! a node that names what is called, and only names on a list may be called. Each opcode takes at least a byte and makes
//! at most one node, so that memory is bounded by the pickle's length.

use super::pickle_calls::{Verdict, verdict};

/// Values are nodes of one list: a value that occurs twice, or inside itself, needs no further thought.
pub(super) type Id = usize;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// Whatever carries no weights: None, floats, bytes, large numbers.
    Other,
    Bool(bool),
    Int(i64),
    Text(String),
    /// Tuple, list or set.
    Sequence(Vec<Id>),
    /// Keys and values in order.
    Dict(Vec<(Id, Id)>),
    /// `module.name`.
    Global(String),
    /// What a call would give: the callable's name and its arguments.
    Call(String, Vec<Id>),
    /// What lies outside the pickle: a storage.
    Persistent(Id),
}

/// All values of a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    /// The value of the whole.
    pub root: Id,
    /// Bytes up to its end.
    pub length: usize,
}

impl Pickle {
    /// A value.
    pub fn node(&self, id: Id) -> &Node {
        self.nodes.get(id).unwrap_or(&Node::Other)
    }

    /// The value as text.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a count.
    pub fn count(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The value as counts.
    pub fn counts(&self, id: Id) -> Option<Vec<usize>> {
        match self.node(id) {
            Node::Sequence(items) => items.iter().map(|&item| self.count(item)).collect(),
            _ => None,
        }
    }
}

/// Why a pickle is not read: a sentence after the file's name.
pub(super) type Refusal = String;

/// The pickle at the beginning of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle, Refusal> {
    let mut machine =
        Machine { bytes, at: 0, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: Vec::new() };
    let root = machine.run().map_err(|stop| match stop {
        Stop::Damaged => format!("its pickle is damaged at byte {}; fetch the file again", machine.at),
        Stop::Refused(name) => format!(
            "its pickle calls {name}, which no state dict needs; nothing was run. Save the weights alone: \
             torch.save(model.state_dict(), FILE)"
        ),
    })?;
    Ok(Pickle { nodes: machine.nodes, root, length: machine.at })
}

enum Stop {
    Damaged,
    Refused(String),
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: Vec<Id>,
}

impl Machine<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], Stop> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len()).ok_or(Stop::Damaged)?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn number(&mut self, size: usize) -> Result<u64, Stop> {
        let mut whole = [0; 8];
        whole[..size].copy_from_slice(self.take(size)?);
        Ok(u64::from_le_bytes(whole))
    }

    fn counted(&mut self, size: usize) -> Result<String, Stop> {
        let count = usize::try_from(self.number(size)?).map_err(|_| Stop::Damaged)?;
        Ok(String::from_utf8_lossy(self.take(count)?).into_owned())
    }

    fn line(&mut self) -> Result<String, Stop> {
        let rest = self.bytes.get(self.at..).ok_or(Stop::Damaged)?;
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or(Stop::Damaged)?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.at += end + 1;
        Ok(line)
    }

    fn push(&mut self, node: Node) {
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
    }

    /// The topmost value, not below the last mark.
    fn pop(&mut self) -> Result<Id, Stop> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor { Err(Stop::Damaged) } else { self.stack.pop().ok_or(Stop::Damaged) }
    }

    fn top(&self) -> Result<Id, Stop> {
        self.stack.last().copied().ok_or(Stop::Damaged)
    }

    /// What lies above the last mark.
    fn above(&mut self) -> Result<Vec<Id>, Stop> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or(Stop::Damaged)?;
        Ok(self.stack.split_off(mark))
    }

    fn several(&mut self, count: usize) -> Result<Vec<Id>, Stop> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn put(&mut self, place: u64) -> Result<(), Stop> {
        let (top, place) = (self.top()?, usize::try_from(place).map_err(|_| Stop::Damaged)?);
        // Pickles number their memo from 0 or 1 without gaps; a wild number must not make a long list.
        if place > self.bytes.len() {
            return Err(Stop::Damaged);
        }
        if place >= self.memo.len() {
            self.memo.resize(place + 1, Id::MAX);
        }
        self.memo[place] = top;
        Ok(())
    }

    fn get(&mut self, place: u64) -> Result<(), Stop> {
        let found = usize::try_from(place).ok().and_then(|place| self.memo.get(place)).copied();
        self.stack.push(found.filter(|&id| id != Id::MAX).ok_or(Stop::Damaged)?);
        Ok(())
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), Stop> {
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::Sequence(list) => list.extend(items),
            Node::Call(..) | Node::Other => {}
            _ => return Err(Stop::Damaged),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), Stop> {
        let (pairs, rest) = items.as_chunks::<2>();
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            Node::Call(..) | Node::Other if rest.is_empty() => {}
            _ => return Err(Stop::Damaged),
        }
        Ok(())
    }

    /// Called with `arguments`: a node, or the end.
    fn call(&mut self, callable: Id, arguments: Id) -> Result<(), Stop> {
        let name = match &self.nodes[callable] {
            Node::Global(name) => name.clone(),
            _ => return Err(Stop::Damaged),
        };
        // Few, so that the copies of a long tuple do not fill memory.
        let arguments = match &self.nodes[arguments] {
            Node::Sequence(arguments) if arguments.len() <= 16 => arguments.clone(),
            _ => return Err(Stop::Damaged),
        };
        match verdict(&name) {
            Verdict::Dict => self.push(Node::Dict(Vec::new())),
            Verdict::Tensor => self.push(Node::Call(name, arguments)),
            Verdict::Harmless => self.push(Node::Other),
            Verdict::Refused => return Err(Stop::Refused(name)),
        }
        Ok(())
    }

    fn run(&mut self) -> Result<Id, Stop> {
        loop {
            let code = self.take(1)?[0];
            if code == b'.' {
                return self.pop();
            }
            self.step(code)?;
        }
    }

    fn step(&mut self, code: u8) -> Result<(), Stop> {
        match code {
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.above()?),
            b'2' => self.stack.push(self.top()?),
            b'N' => self.push(Node::Other),
            0x88 | 0x89 => self.push(Node::Bool(code == 0x88)),
            b'K' | b'M' => {
                let value = self.number(if code == b'K' { 1 } else { 2 })?;
                self.push(Node::Int(value as i64));
            }
            b'J' => {
                let value = self.number(4)? as u32 as i32;
                self.push(Node::Int(value.into()));
            }
            0x8a | 0x8b => self.long(if code == 0x8a { 1 } else { 4 })?,
            b'I' | b'L' => {
                let line = self.line()?;
                self.push(match (line.as_str(), line.trim_end_matches('L').parse()) {
                    ("00" | "01", _) => Node::Bool(line == "01"),
                    (_, Ok(value)) => Node::Int(value),
                    _ => return Err(Stop::Damaged),
                });
            }
            b'F' => {
                self.line()?;
                self.push(Node::Other);
            }
            b'G' => {
                self.take(8)?;
                self.push(Node::Other);
            }
            b'V' | b'S' => {
                let line = self.line()?;
                let quotes = ['\'', '"'];
                self.push(Node::Text(if code == b'S' { line.trim_matches(quotes).to_owned() } else { line }));
            }
            // Python 2 wrote text as bytes: keys of old files.
            b'X' | b'T' | b'U' | 0x8c | 0x8d => {
                let size = if code == 0x8d {
                    8
                } else if matches!(code, b'U' | 0x8c) {
                    1
                } else {
                    4
                };
                let text = self.counted(size)?;
                self.push(Node::Text(text));
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                self.counted(match code {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                })?;
                self.push(Node::Other);
            }
            b']' | b')' | 0x8f => self.push(Node::Sequence(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b't' | b'l' | 0x91 => {
                let items = self.above()?;
                self.push(Node::Sequence(items));
            }
            0x85..=0x87 => {
                let items = self.several(usize::from(code - 0x84))?;
                self.push(Node::Sequence(items));
            }
            b'd' => {
                let items = self.above()?;
                self.push(Node::Dict(Vec::new()));
                self.set_items(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.above()?;
                self.extend(items)?;
            }
            b's' => {
                let items = self.several(2)?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.above()?;
                self.set_items(&items)?;
            }
            _ => return self.refer(code),
        }
        Ok(())
    }

    /// Memo, names, calls and what lies outside.
    fn refer(&mut self, code: u8) -> Result<(), Stop> {
        match code {
            b'p' | b'g' => {
                let place = self.line()?.parse().map_err(|_| Stop::Damaged)?;
                if code == b'p' { self.put(place)? } else { self.get(place)? }
            }
            b'q' | b'r' => {
                let place = self.number(if code == b'q' { 1 } else { 4 })?;
                self.put(place)?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            b'h' | b'j' => {
                let place = self.number(if code == b'h' { 1 } else { 4 })?;
                self.get(place)?;
            }
            b'c' => {
                let name = [self.line()?, self.line()?].join(".");
                self.push(Node::Global(name));
            }
            0x93 => {
                let names = self.several(2)?;
                let name = match [&self.nodes[names[0]], &self.nodes[names[1]]] {
                    [Node::Text(module), Node::Text(name)] if module.len() + name.len() < 256 => {
                        format!("{module}.{name}")
                    }
                    _ => return Err(Stop::Damaged),
                };
                self.push(Node::Global(name));
            }
            b'R' | 0x81 => {
                let [callable, arguments] = self.several(2)?.try_into().map_err(|_| Stop::Damaged)?;
                self.call(callable, arguments)?;
            }
            0x92 => {
                let [callable, arguments, _named] = self.several(3)?.try_into().map_err(|_| Stop::Damaged)?;
                self.call(callable, arguments)?;
            }
            // Old forms of a call: the class is a line, or the first value above the mark.
            b'i' => {
                let name = [self.line()?, self.line()?].join(".");
                return Err(Stop::Refused(name));
            }
            b'o' => {
                let first = self.above()?.first().copied().ok_or(Stop::Damaged)?;
                return Err(match &self.nodes[first] {
                    Node::Global(name) => Stop::Refused(name.clone()),
                    _ => Stop::Damaged,
                });
            }
            // The state of an object, such as an ordered dict's own attributes.
            b'b' => drop(self.pop()?),
            b'P' => {
                let text = self.line()?;
                self.push(Node::Text(text));
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            _ => return Err(Stop::Damaged),
        }
        Ok(())
    }

    /// A whole number of any length; those beyond 64 bits carry no weights, and PyTorch's mark of its old files is one.
    fn long(&mut self, size: usize) -> Result<(), Stop> {
        let count = self.number(size)? as usize;
        let bytes = self.take(count)?;
        let node = match bytes.len() {
            0 => Node::Int(0),
            1..=8 => {
                let fill = if bytes[bytes.len() - 1] & 0x80 != 0 { 0xff } else { 0 };
                let mut whole = [fill; 8];
                whole[..bytes.len()].copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(whole))
            }
            _ => Node::Text(bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()),
        };
        self.push(node);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_memo() {
        // pickle.dumps({'a': (1, -2), 'b': [True, 'a']}, 2), where 'a' comes back from the memo.
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01J\xfe\xff\xff\xff\x86q\x02X\x01\x00\x00\x00bq\x03]q\x04(\x88h\x01eu.rest";
        let pickle = read(bytes).unwrap();
        assert_eq!(&bytes[pickle.length..], b"rest");
        let Node::Dict(items) = pickle.node(pickle.root) else { panic!("{pickle:?}") };
        let Node::Sequence(numbers) = pickle.node(items[0].1) else { panic!("{pickle:?}") };
        assert_eq!((pickle.node(numbers[0]), pickle.node(numbers[1])), (&Node::Int(1), &Node::Int(-2)));
        let Node::Sequence(list) = pickle.node(items[1].1) else { panic!("{pickle:?}") };
        assert_eq!((pickle.node(list[0]), pickle.text(list[1])), (&Node::Bool(true), Some("a")));
    }

    #[test]
    fn a_call_is_named_and_not_made() {
        for bytes in [
            &b"cposix\nsystem\n(S'touch x'\ntR."[..],
            b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x07touch x\x85R.",
            b"(S'touch x'\niposix\nsystem\n.",
            b"(cposix\nsystem\nS'touch x'\no.",
        ] {
            assert!(read(bytes).unwrap_err().contains("calls posix.system, which no state dict needs"));
        }
    }

    #[test]
    fn a_long_list_is_not_made_for_a_wild_number() {
        assert!(read(b"Nr\xff\xff\xff\xff.").unwrap_err().contains("damaged"));
        assert!(read(b"X\xff\xff\xff\xffa.").unwrap_err().contains("damaged"));
    }
}
