//! Scans kept in memory, bounded in bytes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Example;

/// Examples by scan; the oldest are given up first.
///
/// Nobody waits for another's read: that could deadlock where reads run on a thread pool. Two threads that
/// want the same scan at the same moment read it twice.
#[derive(Debug)]
pub(super) struct Cache {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    examples: HashMap<usize, Arc<Example>>,
    order: VecDeque<usize>,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Cache {
            limit,
            state: Mutex::default(),
        }
    }

    /// Bytes of voxels held now.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The example of a scan, from memory or by `read`; the flag says whether it was in memory.
    pub(super) fn get<E>(
        &self,
        scan: usize,
        read: impl FnOnce() -> Result<Example, E>,
    ) -> Result<(Arc<Example>, bool), E> {
        if let Some(example) = self.lock().examples.get(&scan) {
            return Ok((Arc::clone(example), true));
        }
        let example = Arc::new(read()?);
        self.lock().insert(self.limit, scan, &example);
        Ok((example, false))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between statements, also where a reader panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, limit: usize, scan: usize, example: &Arc<Example>) {
        let size = example.bytes();
        if size > limit || self.examples.contains_key(&scan) {
            return;
        }
        while self.bytes + size > limit {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            self.bytes -= self.examples.remove(&oldest).map_or(0, |e| e.bytes());
        }
        self.examples.insert(scan, Arc::clone(example));
        self.order.push_back(scan);
        self.bytes += size;
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;
    use uniferum_ct::{Affine, Volume};

    use super::*;

    fn example() -> Example {
        Example {
            volume: Volume::new(Array3::zeros((5, 5, 2)), Affine::IDENTITY),
            mask: None,
            nodules: None,
        }
    }

    #[test]
    fn the_cache_never_holds_more_than_its_bytes() {
        let cache = Cache::new(250);
        for scan in 0..10 {
            cache.get(scan, || Ok::<_, ()>(example())).unwrap();
            assert!(cache.bytes() <= 250);
        }
        assert_eq!(cache.bytes(), 200);
        assert!(cache.get(9, || Err(())).unwrap().1);
        assert!(cache.get(0, || Err(())).is_err());
        let tiny = Cache::new(10);
        assert!(!tiny.get(0, || Ok::<_, ()>(example())).unwrap().1);
        assert_eq!(tiny.bytes(), 0);
    }
}
