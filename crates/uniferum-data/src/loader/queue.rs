//! Threads that prepare scans, and the passes that wait to be handed out in order.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use candle_core::Device;
use uniferum_ct::transform::AugmentDraw;
use uniferum_kernels::Augmenter;

use super::dataset::Prepared;
use super::device;
use super::statistics::Tally;
use super::stream::{Notice, OnError, StreamOptions};
use super::{Dataset, LoaderStatistics, Pass};
use crate::collate::Batch;
use crate::error::{Error, Result};
use crate::sampler::Question;

/// What has to be prepared for a pass.
#[derive(Debug)]
pub(super) struct Job {
    /// The pass, without its batch.
    pub(super) pass: Pass,
    pub(super) groups: Vec<Vec<Question>>,
    pub(super) draws: Option<Vec<AugmentDraw>>,
}

/// A pass whose scans are being prepared.
#[derive(Debug)]
struct Open {
    /// Its place in the stream.
    place: u64,
    job: Arc<Job>,
    handed_out: usize,
    finished: usize,
    scans: Vec<Option<Result<Prepared>>>,
}

#[derive(Default)]
struct State {
    open: VecDeque<Open>,
    ready: BTreeMap<u64, Result<Pass>>,
    /// Passes that were opened, and of them those that were handed out.
    opened: u64,
    given: u64,
    exhausted: bool,
    closed: bool,
    /// What each thread reads, and since when.
    reading: BTreeMap<usize, (usize, Instant)>,
    tally: Tally,
}

type Jobs = Box<dyn Iterator<Item = Job> + Send>;

/// The work of a stream: jobs in, passes out in order, never more than `ahead` in between.
pub(super) struct Queue {
    dataset: Arc<Dataset>,
    device: Device,
    /// Resamples where the device is a GPU.
    augmenter: Option<Augmenter>,
    options: StreamOptions,
    jobs: Mutex<Jobs>,
    state: Mutex<State>,
    /// Signals room for work, or that there is none any more.
    work: Condvar,
    /// Signals a finished pass.
    done: Condvar,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Queue {
    pub(super) fn start(
        dataset: Arc<Dataset>,
        device: Device,
        options: StreamOptions,
        jobs: impl Iterator<Item = Job> + Send + 'static,
    ) -> Result<Arc<Self>> {
        let threads = match options.threads {
            0 => rayon::current_num_threads(),
            n => n,
        };
        let queue = Arc::new(Queue {
            dataset,
            augmenter: Augmenter::of(&device, device::BUFFERS)?,
            device,
            options,
            jobs: Mutex::new(Box::new(jobs)),
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        for thread in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || queue.serve(thread));
        }
        Ok(queue)
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
        self.done.notify_all();
    }

    pub(super) fn statistics(&self) -> LoaderStatistics {
        self.lock().tally.statistics(self.dataset.cached_bytes())
    }

    /// The next pass in order; `None` after the last.
    pub(super) fn next(&self) -> Option<Result<Pass>> {
        let began = Instant::now();
        let mut notices = 1;
        let mut state = self.lock();
        loop {
            let place = state.given;
            if let Some(pass) = state.ready.remove(&place) {
                state.given += 1;
                state.tally.sums.batches += u64::from(pass.is_ok());
                state.tally.sums.seconds_waited += began.elapsed().as_secs_f64();
                self.work.notify_all();
                return Some(pass);
            }
            if state.closed || (state.exhausted && state.given == state.opened) {
                return None;
            }
            let patience = self.options.patience * notices;
            let left = patience.saturating_sub(began.elapsed());
            let waited = self.done.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if began.elapsed() >= patience {
                notices += 1;
                let notice = self.slowest(&state);
                drop(state);
                self.options.tell(&notice);
                state = self.lock();
            }
        }
    }

    fn slowest(&self, state: &State) -> Notice {
        let oldest = state.reading.values().min_by_key(|(_, since)| *since);
        Notice::Waiting {
            scan: oldest.map(|(scan, _)| self.name(*scan)),
            seconds: oldest.map_or(0.0, |(_, since)| since.elapsed().as_secs_f64()),
        }
    }

    fn name(&self, scan: usize) -> String {
        self.dataset.manifest.scans[scan].path.display().to_string()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each statement leaves the state consistent, also where a thread panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn serve(&self, thread: usize) {
        while let Some((place, job, index)) = self.take(thread) {
            let began = Instant::now();
            let group = &job.groups[index];
            let draw = job.draws.as_ref().map(|d| &d[index]);
            let prepared = self.prepare(group, draw);
            let seconds = began.elapsed().as_secs_f64();
            let scan = group.first().map_or(0, |q| q.scan);
            self.finish(thread, place, scan, index, prepared, seconds);
        }
    }

    /// A panic in here would leave the receiver waiting for ever: it becomes the scan's error.
    fn prepare(&self, group: &[Question], draw: Option<&AugmentDraw>) -> Result<Prepared> {
        let augmenter = self.augmenter.as_ref();
        let prepare = || self.dataset.prepare(group, draw, augmenter);
        let caught = catch_unwind(AssertUnwindSafe(prepare));
        caught.unwrap_or_else(|panic| {
            let what = panic.downcast_ref::<String>().map(String::as_str);
            let what = what.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Error::Panic {
                scan: group.first().map_or(String::new(), |q| self.name(q.scan)),
                what: what.unwrap_or("no message").to_owned(),
            })
        })
    }

    /// The next scan to prepare; waits for room, `None` when there is nothing left.
    fn take(&self, thread: usize) -> Option<(u64, Arc<Job>, usize)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(open) = state.open.iter_mut().find(|o| o.handed_out < o.scans.len()) {
                let (place, job, index) = (open.place, Arc::clone(&open.job), open.handed_out);
                open.handed_out += 1;
                let scan = job.groups[index].first().map_or(0, |q| q.scan);
                state.reading.insert(thread, (scan, Instant::now()));
                return Some((place, job, index));
            }
            if state.exhausted {
                return None;
            }
            if state.opened - state.given < self.options.ahead as u64 {
                self.open_next(&mut state);
            } else {
                let woken = self.work.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Opens the next pass. Drawing an epoch under the lock keeps the order.
    fn open_next(&self, state: &mut State) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        match jobs.next() {
            Some(job) => {
                let place = state.opened;
                state.opened += 1;
                if job.groups.is_empty() {
                    // Another process has all of the step's scans.
                    state.ready.insert(place, Ok(job.pass));
                    self.done.notify_all();
                    return;
                }
                state.open.push_back(Open {
                    place,
                    scans: job.groups.iter().map(|_| None).collect(),
                    job: Arc::new(job),
                    handed_out: 0,
                    finished: 0,
                });
            }
            None => state.exhausted = true,
        }
        self.work.notify_all();
        self.done.notify_all();
    }

    fn finish(
        &self,
        thread: usize,
        place: u64,
        scan: usize,
        index: usize,
        prepared: Result<Prepared>,
        seconds: f64,
    ) {
        let mut state = self.lock();
        state.reading.remove(&thread);
        if let Ok(prepared) = &prepared {
            let name = self.name(scan);
            state.tally.prepared(&name, prepared.cached, seconds);
        }
        let Some(at) = state.open.iter().position(|o| o.place == place) else {
            return;
        };
        let open = &mut state.open[at];
        // All scans before a failed one are handed out already: the first error is the same without the rest.
        let stop = prepared.is_err() && self.options.on_error == OnError::Stop;
        open.scans[index] = Some(prepared);
        open.finished += 1;
        if stop {
            open.scans.truncate(open.handed_out);
        }
        if open.finished < open.scans.len() {
            return;
        }
        let Some(open) = state.open.remove(at) else {
            return;
        };
        drop(state);
        let mut pass = open.job.pass.clone();
        let filled = self.assemble(open).map(|batch| {
            pass.batch = batch;
            pass
        });
        self.lock().ready.insert(place, filled);
        self.done.notify_all();
    }

    /// The batch; `None` where none of its scans can be used, but other passes of the step may have some.
    fn assemble(&self, open: Open) -> Result<Option<Batch>> {
        let mut prepared = Vec::with_capacity(open.scans.len());
        let mut last = None;
        for (group, scan) in open.job.groups.iter().zip(open.scans) {
            match scan {
                Some(Ok(scan)) => prepared.push(scan),
                Some(Err(error)) if self.options.on_error == OnError::Stop => return Err(error),
                Some(Err(error)) => {
                    let name = group.first().map_or(String::new(), |q| self.name(q.scan));
                    let reason = match &error {
                        Error::Tensor(error) => format!("scan {name}: {error}"),
                        error => error.to_string(),
                    };
                    if self.lock().tally.skip(&name, &reason) {
                        let scan = name.clone();
                        self.options.tell(&Notice::Skipped { scan, reason });
                    }
                    last = Some(error);
                }
                None => {}
            }
        }
        match last {
            Some(_) if prepared.is_empty() && open.job.pass.passes > 1 => Ok(None),
            Some(error) if prepared.is_empty() => Err(Error::Step {
                step: open.job.pass.step,
                source: Box::new(error),
            }),
            _ => self.dataset.assemble(prepared, &self.device).map(Some),
        }
    }
}
