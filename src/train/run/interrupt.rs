//! Ctrl-C: finish the step, save, end with status 0.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{Error, Result};

/// Whether the user has asked the run to end.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// One that Ctrl-C, SIGTERM and SIGHUP set. A second one ends the process at once.
    pub fn install() -> Result<Self> {
        let interrupt = Self::default();
        let flag = interrupt.0.clone();
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            // What is under way may take a while to come to a place where the run can stop.
            let _ = writeln!(
                std::io::stderr(),
                "\nstopping at the next safe place; Ctrl-C again ends at once, without saving"
            );
        })
        .map_err(|error| Error::Internal(format!("cannot catch Ctrl-C: {error}")))?;
        Ok(interrupt)
    }

    /// Asks the run to end, as Ctrl-C does.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
