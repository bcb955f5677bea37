//! Where in a TOML text something stands, for messages.

use std::ops::Range;

use toml::{Spanned, de::DeTable, de::DeValue};

/// `line 7, labels.ids.road`, for the bytes `span` of the text.
pub(super) fn of_span(text: &str, span: Range<usize>) -> String {
    let line = 1 + text.bytes().take(span.start).filter(|&byte| byte == b'\n').count();
    match DeTable::parse(text).ok().map(|table| path_at(table.get_ref(), &span)) {
        Some(path) if !path.is_empty() => format!("line {line}, {path}"),
        _ => format!("line {line}"),
    }
}

/// The same for the field at `path`; the path alone where the text does not have it.
pub(super) fn of_field(text: &str, path: &str) -> String {
    let span = DeTable::parse(text).ok().and_then(|table| span_of(table.get_ref(), path));
    let line = span.map(|span| 1 + text.bytes().take(span.start).filter(|&byte| byte == b'\n').count());
    line.map_or_else(|| path.to_owned(), |line| format!("line {line}, {path}"))
}

/// The field whose key or value holds the span.
fn path_at(table: &DeTable<'_>, span: &Range<usize>) -> String {
    let holds = |place: Range<usize>| place.start <= span.start && span.end <= place.end.max(place.start + 1);
    for (key, value) in table {
        let inner = match value.get_ref() {
            DeValue::Table(inner) => path_at(inner, span),
            DeValue::Array(items) => {
                let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                tables.map(|inner| path_at(inner, span)).find(|path| !path.is_empty()).unwrap_or_default()
            }
            _ => String::new(),
        };
        if !inner.is_empty() {
            return format!("{}.{inner}", key.get_ref());
        }
        if holds(key.span()) || holds(value.span()) {
            return key.get_ref().to_string();
        }
    }
    String::new()
}

fn span_of(table: &DeTable<'_>, path: &str) -> Option<Range<usize>> {
    // A key may itself hold a dot: the longest one that fits is taken.
    let fits = |key: &str| path == key || path.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
    let found = table.iter().filter(|(key, _)| fits(key.get_ref()));
    let (key, value) = found.max_by_key(|(key, _)| key.get_ref().len())?;
    let rest = path.get(key.get_ref().len() + 1..);
    let inside = |value: &Spanned<DeValue<'_>>| span_of(value.get_ref().as_table()?, rest?);
    Some(inside(value).unwrap_or_else(|| key.span()))
}
