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

    /// The example of a scan, from memory where that is `enough`, or by `read` from what is known; the flag
    /// says whether it was in memory.
    pub(super) fn get<E>(
        &self,
        scan: usize,
        enough: impl FnOnce(&Example) -> bool,
        read: impl FnOnce(Option<&Example>) -> Result<Example, E>,
    ) -> Result<(Arc<Example>, bool), E> {
        let known = self.lock().examples.get(&scan).map(Arc::clone);
        if let Some(example) = known.as_ref().filter(|e| enough(e)) {
            return Ok((Arc::clone(example), true));
        }
        let example = Arc::new(read(known.as_deref())?);
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
        if size > limit {
            return;
        }
        if let Some(lesser) = self.examples.remove(&scan) {
            self.bytes -= lesser.bytes();
            self.order.retain(|other| *other != scan);
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
            volume: Arc::new(Volume::new(Array3::zeros((5, 5, 2)), Affine::IDENTITY)),
            mask: None,
            nodules: None,
        }
    }

    #[test]
    fn the_cache_never_holds_more_than_its_bytes() {
        let cache = Cache::new(250);
        let any = |_: &Example| true;
        for scan in 0..10 {
            cache.get(scan, any, |_| Ok::<_, ()>(example())).unwrap();
            assert!(cache.bytes() <= 250);
        }
        assert_eq!(cache.bytes(), 200);
        assert!(cache.get(9, any, |_| Err(())).unwrap().1);
        assert!(cache.get(0, any, |_| Err(())).is_err());
        let tiny = Cache::new(10);
        assert!(!tiny.get(0, any, |_| Ok::<_, ()>(example())).unwrap().1);
        assert_eq!(tiny.bytes(), 0);
    }

    #[test]
    fn what_is_known_of_a_scan_is_added_to() {
        let cache = Cache::new(250);
        let get = |whole: bool, read: &dyn Fn(Option<&Example>) -> Example| {
            let enough = |e: &Example| e.mask.is_some() || !whole;
            cache
                .get(3, enough, |known| Ok::<_, ()>(read(known)))
                .unwrap()
        };
        let (first, cached) = get(false, &|known| {
            assert!(known.is_none());
            example()
        });
        assert!(!cached && cache.bytes() == 100);
        let (second, cached) = get(true, &|known| Example {
            mask: Some(Arc::new(Volume::new(
                Array3::zeros((5, 5, 2)),
                Affine::IDENTITY,
            ))),
            ..known.unwrap().clone()
        });
        assert!(!cached && Arc::ptr_eq(&first.volume, &second.volume));
        assert_eq!(cache.bytes(), 150);
        assert!(get(true, &|_| unreachable!()).1 && get(false, &|_| unreachable!()).1);
    }
}
