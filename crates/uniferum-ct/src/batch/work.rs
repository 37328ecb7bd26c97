//! Several scans at a time, as many as threads and free memory allow.

use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// How many scans to have in work at once: one a thread, as long as each has a GiB of free memory; two where
/// the system does not tell its memory.
pub fn scans_at_once(threads: usize) -> usize {
    threads.min(free_gib().unwrap_or(2)).max(1)
}

fn free_gib() -> Option<usize> {
    let free = of_machine().into_iter().chain(of_group()).min()?;
    Some((free >> 30) as usize)
}

/// Bytes that the machine has left.
fn of_machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// Bytes that the control groups of this process, as of a batch job or a container, leave it.
fn of_group() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().filter_map(|line| {
        let (kind, path) = line.split_once(':')?.1.split_once(':')?;
        match kind {
            "" => Some(("/sys/fs/cgroup", path, &VERSION_2)),
            "memory" => Some(("/sys/fs/cgroup/memory", path, &VERSION_1)),
            _ => None,
        }
    });
    own.flat_map(|(root, path, files)| {
        let root = Path::new(root);
        // The groups above limit this one, too.
        let group = root.join(path.trim_start_matches('/'));
        let above: Vec<_> = group.ancestors().map(Path::to_owned).collect();
        let above = above.into_iter().take_while(|p| p.starts_with(root));
        above
            .filter_map(|group| left_in(&group, files))
            .collect::<Vec<_>>()
    })
    .min()
}

/// Limit, use, and what in `memory.stat` of the use is files that are given up when memory is short.
const VERSION_2: [&str; 3] = ["memory.max", "memory.current", "inactive_file"];
const VERSION_1: [&str; 3] = [
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
];

/// What a control group leaves of its limit, if it has one.
fn left_in(group: &Path, [limit, used, files]: &[&str; 3]) -> Option<u64> {
    let number = |name: &str| {
        let text = std::fs::read_to_string(group.join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let files = stat.lines().find_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        (name == *files).then(|| bytes.parse::<u64>().ok())?
    });
    let used = number(used)?.saturating_sub(files.unwrap_or(0));
    Some(number(limit)?.saturating_sub(used))
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
    fn a_control_group_leaves_its_limit_without_what_is_used() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(group.path().join(name), text).unwrap();
        };
        write("memory.current", "5000\n");
        write("memory.stat", "anon 3000\ninactive_file 2000\n");
        write("memory.max", "max\n");
        assert_eq!(left_in(group.path(), &VERSION_2), None);
        write("memory.max", "7000\n");
        assert_eq!(left_in(group.path(), &VERSION_2), Some(4000));
        assert_eq!(left_in(group.path(), &VERSION_1), None);
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
