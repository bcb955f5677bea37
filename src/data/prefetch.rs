//! An ordered parallel map over 0, 1, 2, ...: threads prepare values ahead of the one that takes them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::{Error, Result};

type Make<T> = dyn Fn(u64, &AtomicBool) -> Result<T> + Send + Sync;

/// Values of `make` in order. Dropping it ends the threads after the value they are at (`make` may look at the flag and
/// end earlier).
pub(super) struct Prefetcher<T> {
    make: Arc<Make<T>>,
    position: u64,
    threads: Option<Threads<T>>,
    stop: Arc<AtomicBool>,
}

struct Threads<T> {
    /// Positions to prepare. As many are out as the prefetch depth, so the channels need no bound of their own.
    tickets: Sender<u64>,
    results: Receiver<(u64, Result<T>)>,
    /// Arrived before their turn.
    early: HashMap<u64, Result<T>>,
    next_ticket: u64,
    handles: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetcher<T> {
    /// Starts at `position`; `threads` = 0 makes each value when it is asked for. At most `depth` values (at least one per
    /// thread) are in the making or waiting.
    pub(super) fn new(
        position: u64,
        threads: usize,
        depth: usize,
        make: impl Fn(u64, &AtomicBool) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        let make: Arc<Make<T>> = Arc::new(make);
        let stop = Arc::new(AtomicBool::new(false));
        // Built first and filled step by step: an error on the way drops it, which ends the threads already running.
        let mut prefetcher = Self { make, position, threads: None, stop };
        if threads > 0 {
            prefetcher.spawn(threads, depth.max(threads) as u64)?;
        }
        Ok(prefetcher)
    }

    fn spawn(&mut self, count: usize, depth: u64) -> Result<()> {
        let (tickets, ticket_queue) = unbounded::<u64>();
        let (result_queue, results) = unbounded();
        let next_ticket = self.position + depth;
        for position in self.position..next_ticket {
            // The receiver is alive: this function holds it.
            let _ = tickets.send(position);
        }
        let threads =
            self.threads.insert(Threads { tickets, results, early: HashMap::new(), next_ticket, handles: Vec::new() });
        for number in 0..count {
            let (queue, out) = (ticket_queue.clone(), result_queue.clone());
            let (make, stop) = (self.make.clone(), self.stop.clone());
            let work = move || {
                for position in queue {
                    if stop.load(Ordering::Relaxed) || out.send((position, guarded(&*make, position, &stop))).is_err() {
                        break;
                    }
                }
            };
            let spawned = std::thread::Builder::new().name(format!("data-{number}")).spawn(work);
            threads.handles.push(
                spawned.map_err(|e| Error::Config(format!("cannot start data thread {number}: {e}; use fewer")))?,
            );
        }
        Ok(())
    }

    /// The position of the next value.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next value. After an error the position stays: another call tries the same value again.
    pub(super) fn next(&mut self) -> Result<T> {
        let position = self.position;
        let result = match &mut self.threads {
            None => guarded(&*self.make, position, &self.stop),
            Some(threads) => threads.take(position),
        };
        match &result {
            Ok(_) => {
                self.position += 1;
                if let Some(threads) = &mut self.threads {
                    let _ = threads.tickets.send(threads.next_ticket);
                    threads.next_ticket += 1;
                }
            }
            Err(_) => {
                if let Some(threads) = &self.threads {
                    let _ = threads.tickets.send(position);
                }
            }
        }
        result
    }
}

impl<T> Threads<T> {
    fn take(&mut self, position: u64) -> Result<T> {
        loop {
            if let Some(result) = self.early.remove(&position) {
                return result;
            }
            let Ok((arrived, result)) = self.results.recv() else {
                return Err(Error::Internal("the data threads have ended".into()));
            };
            self.early.insert(arrived, result);
        }
    }
}

/// A panic in a thread must reach the caller, who would wait for ever otherwise.
fn guarded<T>(make: &Make<T>, position: u64, stop: &AtomicBool) -> Result<T> {
    catch_unwind(AssertUnwindSafe(|| make(position, stop))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Error::Internal(format!("panic in the data pipeline at position {position}: {text}")))
    })
}

impl<T> Drop for Prefetcher<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Threads { tickets, results, handles, .. }) = self.threads.take() {
            drop(tickets);
            drop(results);
            for handle in handles {
                let _ = handle.join();
            }
        }
    }
}
