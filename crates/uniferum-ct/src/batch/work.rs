//! Several scans at a time, as many as threads and free memory allow.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// How many scans to have in work at once: one a thread, as long as each has a GiB of free memory; two where
/// the system does not tell its memory.
pub fn scans_at_once(threads: usize) -> usize {
    threads.min(free_gib().unwrap_or(2)).max(1)
}

fn free_gib() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kib >> 20)
}

/// What `run` makes of each item, in their order, with [`scans_at_once`] of them in work: for work that holds
/// a whole scan, where a parallel iterator would hold one a thread.
///
/// ```
/// let lengths = uniferum_ct::batch::map_scans(&["a.nii", "bc.nii"], |name| name.len());
/// assert_eq!(lengths, [5, 6]);
/// ```
pub fn map_scans<T: Sync, R: Send>(items: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let numbered: Vec<(usize, &T)> = items.iter().enumerate().collect();
    let mut done: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let run = |&(place, item): &(usize, &T)| (place, run(item));
    let workers = scans_at_once(rayon::current_num_threads());
    let finished = work(&numbered, workers, run, &mut |(place, result)| {
        done[place] = Some(result);
        Ok::<(), Infallible>(())
    });
    match finished {
        Ok(()) => done.into_iter().flatten().collect(),
        Err(never) => match never {},
    }
}

/// Hands items to `workers` threads and what they make of them to `finish`, which may stop the work by an
/// error.
///
/// The threads only wait for the pool in which all numerics run; their number bounds the memory.
pub(super) fn work<T: Sync, R: Send, E>(
    items: &[T],
    workers: usize,
    run: impl Fn(&T) -> R + Sync,
    finish: &mut dyn FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, receiver) = sync_channel(1);
    std::thread::scope(|scope| {
        for _ in 0..workers.clamp(1, items.len().max(1)) {
            let sender = sender.clone();
            let (next, stop, run) = (&next, &stop, &run);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed)
                    && let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    if sender.send(run(item)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let outcome = receiver.iter().try_for_each(finish);
        stop.store(true, Ordering::Relaxed);
        drop(receiver);
        outcome
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_more_items_are_in_work_than_workers() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let items: Vec<usize> = (0..40).collect();
        let mut sum = 0;
        let run = |item: &usize| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
            now.fetch_sub(1, Ordering::SeqCst);
            *item
        };
        let finished = work(&items, 3, run, &mut |item| {
            sum += item;
            Ok::<(), Infallible>(())
        });
        assert!(finished.is_ok() && sum == 780);
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
        let stopped = work(&items, 3, run, &mut |_| Err("enough"));
        assert_eq!(stopped, Err("enough"));
    }

    #[test]
    fn results_keep_the_order_of_the_items() {
        let slow_first = |n: &u64| {
            std::thread::sleep(Duration::from_millis(10 - n));
            *n
        };
        assert_eq!(map_scans(&[1, 5, 9], slow_first), [1, 5, 9]);
        assert!(map_scans(&[], slow_first).is_empty());
        assert!(scans_at_once(2) <= 2 && scans_at_once(0) == 1);
    }
}
