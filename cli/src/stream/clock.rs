//! The time between rows.

use crate::args::Columns;
use crate::session::Meta;
use anyhow::{Context, Result, ensure};
use sarit_core::MAX_INTERVAL;

/// Time from row to row, in intervals of training.
pub(crate) struct Clock {
    /// Seconds from one frame to the next in training; none without a time column.
    trained: Option<f64>,
    last: Option<f64>,
}

/// Whether so many seconds can lie between two frames.
pub(crate) fn is_interval(seconds: f64) -> bool {
    seconds > 0.0 && seconds.is_finite()
}

impl Clock {
    pub(crate) fn new(columns: &Columns, meta: &Meta) -> Result<Self> {
        let trained = match columns.time_column {
            None => None,
            Some(_) => {
                let stated = columns.frame_interval.or(meta.frame_interval_s);
                let stated = stated.context("it states no interval between frames; give --frame-interval")?;
                ensure!(
                    is_interval(stated),
                    "it states {stated} s from frame to frame; give --frame-interval"
                );
                Some(stated)
            }
        };
        Ok(Self { trained, last: None })
    }

    /// The interval before a row at `time`; 1 before the first row and without times.
    pub(crate) fn interval(&mut self, time: Option<f64>) -> Result<f32> {
        let (Some(trained), Some(time)) = (self.trained, time) else { return Ok(1.0) };
        let interval = match self.last {
            None => 1.0,
            Some(last) => {
                ensure!(time > last, "a time later than {last} was expected, but there is {time}");
                ((time - last) / trained) as f32
            }
        };
        ensure!(
            interval > 0.0 && interval <= MAX_INTERVAL,
            "the time since the row before is {interval} intervals of training; it must be above 0 and at most \
             {MAX_INTERVAL}"
        );
        self.last = Some(time);
        Ok(interval)
    }

    /// A new series begins: its first row has none before it.
    pub(crate) fn restart(&mut self) {
        self.last = None;
    }
}
