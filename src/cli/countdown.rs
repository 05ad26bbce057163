//! The progress of work that the cluster does: what is left is asked for again and again.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::client::Common;
use super::output::shown;

/// How often it is asked what is left.
pub const EVERY: Duration = Duration::from_secs(1);

/// Shows how what is left grows less: a bar on a terminal, elsewhere a line when it waits.
pub struct Countdown {
    bar: Option<ProgressBar>,
    is_quiet: bool,
    most: u64,
    waited_for: Option<String>,
}

impl Countdown {
    /// `unit` is what is counted: `bytes`, or anything else as it is called.
    pub fn new(common: &Common, unit: &str) -> Countdown {
        Countdown::of(common.quiet, unit)
    }

    /// The same, for a program without the client's flags.
    pub fn of(is_quiet: bool, unit: &str) -> Countdown {
        let bar = (!is_quiet && stderr().is_terminal()).then(|| bar(unit));
        Countdown { bar, is_quiet, most: 0, waited_for: None }
    }

    /// For work of which it is not known how much it is.
    pub fn spinner(common: &Common) -> Countdown {
        let mut countdown = Countdown::new(common, "");
        if let Some(bar) = &mut countdown.bar
            && let Ok(style) = ProgressStyle::with_template("{spinner} {msg}")
        {
            bar.set_style(style);
        }
        countdown
    }

    /// How far it is, in words, where there is a terminal to say it on.
    pub fn say(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_string());
        }
    }

    /// So much is left, and goes on unless it waits for something.
    pub fn left(&mut self, left: u64, waits_for: Option<&str>) {
        self.most = self.most.max(left);
        let is_new = self.waited_for.as_deref() != waits_for;
        if is_new {
            self.waited_for = waits_for.map(str::to_string);
        }
        match (&self.bar, waits_for) {
            (Some(bar), _) => {
                bar.set_length(self.most);
                bar.set_position(self.most - left);
                bar.set_message(
                    waits_for.map_or(String::new(), |why| format!("waiting: {}", shown(why))),
                );
            }
            (None, Some(why)) if is_new && !self.is_quiet => eprintln!("waiting: {}", shown(why)),
            (None, _) => {}
        }
    }
}

impl Drop for Countdown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(unit: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(4));
    let template = match unit {
        "bytes" => {
            "{wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left {msg}".to_string()
        }
        unit => format!("{{wide_bar}} {{pos}}/{{len}} {unit}  {{eta}} left {{msg}}"),
    };
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
