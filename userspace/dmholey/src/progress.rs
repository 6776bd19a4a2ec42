// SPDX-License-Identifier: GPL-2.0-or-later

//! How far long work is: a bar on a terminal, a line now and then elsewhere, JSON for programs.

use crate::output::Output;
use crate::signals;
use crate::units::human;
use crate::units::percent;
use dmholey_cow::Progress;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use serde::Serialize;
use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

/// Time between two lines of text.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time between two lines of JSON.
const JSON_EVERY: Duration = Duration::from_millis(200);

/// One line of JSON progress.
#[derive(Debug, Serialize)]
struct Event<'a> {
    event: &'static str,
    what: &'a str,
    done_bytes: u64,
    total_bytes: u64,
    percent: f64,
}

/// Where progress is shown.
#[derive(Debug)]
enum Sink {
    Bar(ProgressBar),
    Lines(Pace),
    Json(Pace),
    Nowhere,
}

/// When something was shown last, and what.
#[derive(Debug)]
struct Pace {
    every: Duration,
    last: Mutex<Option<(Instant, u64)>>,
}

impl Pace {
    /// Shows the first thing at once.
    fn new(every: Duration) -> Self {
        Self {
            every,
            last: Mutex::new(None),
        }
    }

    /// Shows the first thing after a pause: what is done by then needs no progress.
    fn after_pause(every: Duration) -> Self {
        Self {
            every,
            last: Mutex::new(Some((Instant::now(), 0))),
        }
    }

    /// Whether `done` is worth showing now.
    fn due(&self, done: u64) -> bool {
        let Ok(mut last) = self.last.lock() else {
            return false;
        };
        if last.is_some_and(|(at, shown)| shown == done || at.elapsed() < self.every) {
            return false;
        }
        *last = Some((Instant::now(), done));
        true
    }
}

/// Shows the progress of one piece of work, until it is dropped.
#[derive(Debug)]
pub struct Meter {
    what: String,
    sink: Sink,
}

impl Meter {
    /// For work called `what`. Results are printed afterwards, so progress is for people only.
    pub fn new(what: impl Into<String>, output: Output) -> Self {
        let what = what.into();
        let sink = if output.quiet {
            Sink::Nowhere
        } else if io::stderr().is_terminal() {
            Sink::Bar(bar(&what))
        } else if output.json {
            Sink::Nowhere
        } else {
            Sink::Lines(Pace::after_pause(LINE_EVERY))
        };
        Self { what, sink }
    }

    /// The same, but JSON output shows progress too, as lines of their own.
    pub fn with_events(what: impl Into<String>, output: Output) -> Self {
        if !output.json || output.quiet {
            return Self::new(what, output);
        }
        Self {
            what: what.into(),
            sink: Sink::Json(Pace::new(JSON_EVERY)),
        }
    }

    fn text(&self, done: u64, total: u64) -> String {
        format!(
            "{}: {:.1} % ({} of {})",
            self.what,
            percent(done, total),
            human(done),
            human(total)
        )
    }

    fn json(&self, done: u64, total: u64) {
        let event = Event {
            event: "progress",
            what: &self.what,
            done_bytes: done,
            total_bytes: total,
            percent: percent(done, total),
        };
        if let Ok(text) = serde_json::to_string(&event) {
            // A reader who went away must not stop the work.
            let _ = writeln!(io::stdout(), "{text}");
        }
    }
}

impl Progress for Meter {
    fn update(&self, done: u64, total: u64) {
        if total == 0 {
            return;
        }
        match &self.sink {
            Sink::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Sink::Lines(pace) if pace.due(done) => {
                // As above: progress is a remark, not a result.
                let _ = writeln!(io::stderr(), "{}", self.text(done, total));
            }
            Sink::Json(pace) if pace.due(done) => self.json(done, total),
            _ => {}
        }
    }

    fn stop(&self) -> bool {
        signals::stopped()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Sink::Bar(bar) = &self.sink {
            bar.finish_and_clear();
        }
    }
}

/// Shows the progress of each part of a long work.
pub fn watch(output: Output) -> impl Fn(&str) -> Box<dyn Progress> {
    move |what| Box::new(Meter::new(what, output))
}

fn bar(what: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = "{msg} [{bar:30}] {percent}% {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept() {
        let pace = Pace::new(Duration::from_secs(3600));
        assert!(pace.due(0));
        assert!(!pace.due(0));
        assert!(!pace.due(1));
        assert!(!Pace::after_pause(Duration::from_secs(3600)).due(1));
        let pace = Pace::new(Duration::ZERO);
        assert!(pace.due(1) && !pace.due(1) && pace.due(2));
    }

    #[test]
    fn text_has_percent_and_sizes() {
        let meter = Meter {
            what: "merging x".to_owned(),
            sink: Sink::Nowhere,
        };
        assert_eq!(
            meter.text(1 << 20, 4 << 20),
            "merging x: 25.0 % (1 MiB of 4 MiB)"
        );
    }
}
