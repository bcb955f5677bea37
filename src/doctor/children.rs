//! Checks in processes of their own: one that hangs, crashes or loses its GPU costs a row, and the others still run.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    process::{Child, Command, ExitStatus, Stdio, abort},
    sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::check::{Check, Row, Status};
use crate::{Device, Error, Result};

/// What a child writes to its standard output, one line of JSON each. Other lines are of libraries, and are passed over.
#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Message {
    /// The check of this name begins.
    Begin { name: String },
    /// It has ended so.
    End { row: Row },
}

/// A line of the protocol is shorter; what a child writes without end is not kept.
const LONGEST_LINE: u64 = 1 << 16;
/// For a process to end once it has nothing more to say, or was told to.
const END: Duration = Duration::from_secs(2);

/// How checks are run in processes.
pub struct Children<'a> {
    /// The command that runs the checks of these names, in this order, by [`super::answer`].
    pub command: &'a dyn Fn(&[&str]) -> Command,
    /// A process may take so long before it begins its next check.
    pub start: Duration,
    /// All is over by then.
    pub deadline: Instant,
}

/// How a process ceased to be of use.
enum Fate {
    /// It reported all.
    Done,
    /// It was silent for too long.
    Hung(Duration),
    /// It closed its output.
    Ended,
}

impl Children<'_> {
    /// Runs all checks, and reports a row for each, in order.
    pub fn run(&self, checks: &[Check], report: &mut dyn FnMut(Row)) {
        let mut rest = checks;
        while !rest.is_empty() {
            if Instant::now() >= self.deadline {
                let unfinished = "not run: what came before took all of the time";
                rest.iter().for_each(|check| report(check.row(Status::Failed, unfinished)));
                return;
            }
            rest = &rest[self.in_one_process(rest, report)..];
        }
    }

    /// Runs checks in one process for as long as that lives; how many have their rows, at least one.
    fn in_one_process(&self, checks: &[Check], report: &mut dyn FnMut(Row)) -> usize {
        let names: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
        let mut command = (self.command)(&names);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                report(checks[0].row(Status::Failed, format!("its process did not start: {error}")));
                return 1;
            }
        };
        let (lines, complaints) = (lines_of(child.stdout.take()), last_line_of(child.stderr.take()));
        let (mut done, mut begun, mut since) = (0, false, Instant::now());
        let fate = loop {
            let Some(check) = checks.get(done) else { break Fate::Done };
            let limit = if begun { check.limit } else { self.start };
            let until = (since + limit).min(self.deadline);
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => break Fate::Hung(since.elapsed()),
                Err(RecvTimeoutError::Disconnected) => break Fate::Ended,
                Ok(line) => match serde_json::from_slice(&line) {
                    Ok(Message::Begin { name }) if name == check.name && !begun => {
                        (begun, since) = (true, Instant::now())
                    }
                    Ok(Message::End { row }) if row.name == check.name && begun => {
                        report(row);
                        (done, begun, since) = (done + 1, false, Instant::now());
                    }
                    _ => {}
                },
            }
        };
        let status = match fate {
            Fate::Hung(_) => end(&mut child, Duration::ZERO),
            Fate::Done | Fate::Ended => end(&mut child, END),
        };
        let mut failed = |text: String| {
            let row = checks[done].row(Status::Failed, text);
            report(Row { seconds: since.elapsed().as_secs_f64(), ..row });
            done + 1
        };
        match fate {
            Fate::Hung(after) => failed(format!("no end after {:.1} s; its process was stopped", after.as_secs_f64())),
            // A process ends after a failure that it cannot go on from; the next one takes up the rest.
            Fate::Ended if begun || done == 0 => {
                let complaint = complaints.recv_timeout(END).unwrap_or_default();
                let colon = if complaint.is_empty() { "" } else { ": " };
                failed(format!("its process {}{colon}{complaint}", how(status)))
            }
            Fate::Done | Fate::Ended => done,
        }
    }
}

/// Lines as they come; a last one that does not end counts too.
fn lines_of(output: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    // Bounded, so that a process that writes without end waits.
    let (sender, receiver) = sync_channel(64);
    thread::spawn(move || {
        let mut reader = BufReader::new(output?);
        loop {
            let mut line = Vec::new();
            let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
            // Nobody listens any more, or nothing more comes.
            if !read.is_ok_and(|bytes| bytes > 0) || sender.send(line).is_err() {
                return Some(());
            }
        }
    });
    receiver
}

/// The last line that says something, once the output has ended.
fn last_line_of(output: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    let lines = lines_of(output);
    thread::spawn(move || {
        let said =
            |line: Vec<u8>| Some(String::from_utf8_lossy(&line).trim().to_owned()).filter(|line| !line.is_empty());
        // A panic's place and message come first, and a hint about backtraces last.
        let telling = |line: &String| !line.starts_with("note: ");
        let last = lines.into_iter().filter_map(said).filter(telling).last().unwrap_or_default();
        // The process may be of no interest by now.
        let _ = sender.send(last.chars().take(300).collect());
    });
    receiver
}

/// Waits so long for the process to end by itself, then ends it; `None` where even that takes too long.
fn end(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let wait = |child: &mut Child, patience: Duration| {
        let until = Instant::now() + patience;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    };
    wait(child, patience).or_else(|| {
        // An error means that it has ended.
        let _ = child.kill();
        wait(child, END)
    })
}

/// How a process ended, as the end of a sentence.
fn how(status: Option<ExitStatus>) -> String {
    let Some(status) = status else { return "cannot be ended".into() };
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = match signal {
            4 => " (SIGILL)",
            6 => " (SIGABRT)",
            7 => " (SIGBUS)",
            8 => " (SIGFPE)",
            9 => " (SIGKILL)",
            11 => " (SIGSEGV)",
            15 => " (SIGTERM)",
            _ => "",
        };
        return format!("was ended by signal {signal}{name}");
    }
    match status.code() {
        Some(code) => format!("ended with status {code} before it had reported"),
        None => "ended before it had reported".into(),
    }
}

/// The part of a child: runs the checks, which name a device that `open` makes where they need one, and writes what
/// [`Children::run`] reads. It returns after a failure that the device does not survive; the caller starts another process.
///
/// Errors: what was written reached nobody.
pub(super) fn work(checks: &[&Check], open: impl Fn(&Check) -> Result<Device>, out: &mut dyn Write) -> io::Result<()> {
    // Where the parent is gone, nobody else ends this process.
    let all: Duration = checks.iter().map(|check| check.limit).sum();
    thread::spawn(move || {
        thread::sleep(all + END);
        abort()
    });
    let mut write = |message: &Message| {
        serde_json::to_writer(&mut *out, message)?;
        writeln!(out).and_then(|()| out.flush())
    };
    let mut opened: Option<Device> = None;
    for check in checks {
        write(&Message::Begin { name: check.name.clone() })?;
        let (row, device) = check.run_on(|| opened.clone().map_or_else(|| open(check), Ok));
        let failed = row.status == Status::Failed;
        write(&Message::End { row })?;
        opened = device;
        if failed && opened.as_ref().is_none_or(|device| device.synchronize().is_err()) {
            return Ok(());
        }
    }
    Ok(())
}

/// The checks of these names.
pub(super) fn named<'a>(checks: &'a [Check], names: &[String]) -> Result<Vec<&'a Check>> {
    let find = |name: &String| {
        let found = checks.iter().find(|check| check.name == *name);
        found.ok_or_else(|| {
            Error::Config(format!("there is no check {name:?}; see trainer doctor --json for their names"))
        })
    };
    names.iter().map(find).collect()
}
