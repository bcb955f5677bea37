//! A caching pool of memory blocks: a training step asks for the same sizes again and again, and both `cudaMalloc`
//! and the page faults of fresh host memory cost more than the kernels that fill it.

use std::{collections::BTreeMap, sync::Mutex};

/// Free blocks by size class. The pool holds addresses only; who fills it frees them.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: BTreeMap<usize, Vec<usize>>,
    held: usize,
    in_use: usize,
    peak: usize,
}

/// The class that serves `bytes`: eight classes to each power of two, so that at most 1/8 is wasted.
pub(super) fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(512);
    let step = (bytes.next_power_of_two() / 16).max(64);
    bytes.div_ceil(step) * step
}

impl Pool {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic while the lock is held leaves at worst a block unlisted, which is only a leak.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A free block of exactly `class` bytes; the caller allocates one where there is none.
    pub fn take(&self, class: usize) -> Option<usize> {
        let mut state = self.state();
        state.in_use += class;
        state.peak = state.peak.max(state.in_use);
        let address = state.free.get_mut(&class).and_then(Vec::pop)?;
        state.held -= class;
        Some(address)
    }

    /// Takes a block back; `Some` is a block beyond `limit` held bytes, which the caller must free.
    pub fn give(&self, class: usize, address: usize, limit: usize) -> Option<usize> {
        let mut state = self.state();
        state.in_use = state.in_use.saturating_sub(class);
        if state.held + class > limit {
            return Some(address);
        }
        state.held += class;
        state.free.entry(class).or_default().push(address);
        None
    }

    /// Notes that an allocation for which [`Pool::take`] found no block has failed.
    pub fn abandon(&self, class: usize) {
        let mut state = self.state();
        state.in_use = state.in_use.saturating_sub(class);
    }

    /// Empties the pool; the caller frees what comes out.
    pub fn drain(&self) -> Vec<(usize, usize)> {
        let mut state = self.state();
        state.held = 0;
        let free = std::mem::take(&mut state.free);
        free.into_iter().flat_map(|(class, list)| list.into_iter().map(move |address| (class, address))).collect()
    }

    /// The most bytes in use at one time.
    pub fn peak(&self) -> usize {
        self.state().peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_at_most_an_eighth() {
        for bytes in (1..100_000).step_by(37).chain([1 << 30, (1 << 30) + 1]) {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(64));
            assert!(bytes < 512 || class - bytes <= bytes / 8, "{bytes} -> {class}");
        }
    }

    #[test]
    fn blocks_come_back() {
        let pool = Pool::default();
        assert_eq!(pool.take(512), None);
        assert_eq!(pool.give(512, 77, 1024), None);
        assert_eq!(pool.take(512), Some(77));
        assert_eq!(pool.give(512, 77, 100), Some(77), "beyond the limit the caller frees");
        assert_eq!(pool.peak(), 512);
    }
}
