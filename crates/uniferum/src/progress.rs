//! Progress bars on a terminal; now and then a line where standard error is a file.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

/// What a bar shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// How many, and the time left at the recent pace.
    Count,
    /// How many; the time left is in the message.
    Steps,
    /// Bytes, and the time left.
    Bytes,
}

/// What to call after each of a number of things that becomes known with the first.
pub(crate) fn counted(bar: &ProgressBar) -> impl Fn(usize) + Sync {
    |all| {
        bar.set_length(all as u64);
        bar.inc(1);
    }
}

impl Show {
    fn on_terminal(self) -> &'static str {
        match self {
            Show::Count => {
                "{prefix:>12} [{bar:30}] {pos}/{len} {elapsed_precise} ETA {eta_precise} {msg}"
            }
            Show::Steps => "{prefix:>12} [{bar:30}] {pos}/{len} {elapsed_precise} {msg}",
            Show::Bytes => {
                "{prefix:>12} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}"
            }
        }
    }

    fn in_file(self) -> &'static str {
        match self {
            Show::Count => "{prefix}: {pos} of {len} in {elapsed_precise}, ETA {eta_precise} {msg}",
            Show::Steps => "{prefix}: {pos} of {len} in {elapsed_precise}, {msg}",
            Show::Bytes => "{prefix}: {bytes} of {total_bytes}, {bytes_per_sec}, ETA {eta}",
        }
    }
}

/// A bar on a terminal, lines in a file.
pub(crate) fn bar(length: Option<u64>, what: &str, show: Show, terminal: bool) -> ProgressBar {
    let (target, template) = if terminal {
        (ProgressDrawTarget::stderr(), show.on_terminal())
    } else {
        let lines = Lines::new(EVERY, |line| eprintln!("{line}"));
        // The lines come far more rarely than they are offered.
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(lines), 1);
        (target, show.in_file())
    };
    let bar = ProgressBar::with_draw_target(length, target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// The time left, for the message of [`Show::Steps`].
pub(crate) fn time_left(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    format!("ETA {}", FormattedDuration(seconds))
}

/// How often a file gets a line.
const EVERY: Duration = Duration::from_secs(30);

/// A bar's drawings, of which one in a while is written as a line.
struct Lines<W> {
    every: Duration,
    write: W,
    state: Mutex<Drawing>,
}

#[derive(Debug)]
struct Drawing {
    text: String,
    written: Instant,
}

impl<W: Fn(&str)> Lines<W> {
    fn new(every: Duration, write: W) -> Self {
        let state = Drawing {
            text: String::new(),
            written: Instant::now(),
        };
        Self {
            every,
            write,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Drawing> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> std::fmt::Debug for Lines<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut lines = f.debug_struct("Lines");
        lines.field("every", &self.every).finish_non_exhaustive()
    }
}

impl<W: Fn(&str) + Send + Sync> TermLike for Lines<W> {
    fn width(&self) -> u16 {
        // Wide enough that no line is broken.
        1000
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.state().text.push_str(text);
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.state().text.clear();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        let text = std::mem::take(&mut state.text);
        // A bar that has no message yet ends in the comma before it.
        let line = text.trim().trim_end_matches(',');
        if !line.is_empty() && state.written.elapsed() >= self.every {
            state.written = Instant::now();
            (self.write)(line);
        }
        Ok(())
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What a bar of three drawings leaves.
    fn lines(every: Duration) -> Vec<String> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::new(every, {
            let written = Arc::clone(&written);
            move |line: &str| written.lock().unwrap().push(line.to_owned())
        });
        let target = ProgressDrawTarget::term_like(Box::new(lines));
        let bar = ProgressBar::with_draw_target(Some(3), target);
        bar.set_style(ProgressStyle::with_template("{prefix}: {pos} of {len}, {msg}").unwrap());
        bar.set_prefix("train");
        for step in 1..=3 {
            bar.set_message(time_left(3600.0 / f64::from(step)));
            bar.set_position(u64::from(step as u8));
            bar.force_draw();
        }
        bar.finish_and_clear();
        written.lock().unwrap().clone()
    }

    #[test]
    fn a_file_gets_whole_lines_and_not_each_of_them() {
        let all = lines(Duration::ZERO);
        assert!(
            all.contains(&"train: 2 of 3, ETA 00:30:00".to_owned()),
            "{all:?}"
        );
        assert!(
            all.iter().all(|line| line.starts_with("train: ")),
            "{all:?}"
        );
        assert!(lines(Duration::MAX).is_empty());
    }

    #[test]
    fn a_time_that_is_not_known_is_no_panic() {
        assert_eq!(time_left(90061.0), "ETA 1d 01:01:01");
        assert!(time_left(f64::NAN).starts_with("ETA"));
    }
}
