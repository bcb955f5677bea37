//! What the program prints. A reader that has gone away (`trainer check ... | head -1`) stops no work.

use std::{
    fmt::Display,
    io::{self, Write},
    path::Path,
};

use anyhow::Context;

/// Prints a line to the standard output. A closed pipe is no error; a full disk behind it is.
pub(super) fn line(text: impl Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to the standard output"),
    }
}

/// Prints the one line of an error; there is nobody left to tell where that fails.
pub(super) fn error(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "error: {text}");
}

/// A path for JSON, which knows Unicode only: other bytes are replaced.
pub(super) fn json_path(path: &Path) -> String {
    path.display().to_string()
}

/// Wrong usage in one line: what the parser says, without its picture of the usage.
pub(super) fn usage(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let mut message = String::new();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")) {
        if !message.is_empty() {
            message.push_str(if message.ends_with(':') { " " } else { "; " });
        }
        message.push_str(line);
    }
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    format!("{message}; see --help")
}

#[cfg(test)]
mod tests {
    #[test]
    fn usage_is_one_line() {
        let text = "error: the following required arguments were not provided:\n  <CHECKPOINT>\n\nUsage: x\n\nFor more information, try '--help'.\n";
        assert_eq!(super::usage(text), "the following required arguments were not provided: <CHECKPOINT>; see --help");
        let text = "error: invalid value 'a'\n\n  tip: try b\n\nFor more information, try '--help'.\n";
        assert_eq!(super::usage(text), "invalid value 'a'; tip: try b; see --help");
    }
}
