// SPDX-License-Identifier: GPL-2.0-or-later

//! The clock by which others are found silent.

use std::time::Duration;
use std::time::Instant;

/// Time during which this process has run.
///
/// Who was stopped, or waited for a processor, has heard nobody, and that is no reason to have anybody fenced. So what
/// goes by between two looks counts only up to a limit.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// When it was looked at last, and how much of that does not count.
    looked: Duration,
    absent: Duration,
    most: Duration,
}

impl Clock {
    /// A clock that is looked at so often that there is never more than `most` between two looks, unless the process
    /// does not run.
    pub(crate) fn new(most: Duration) -> Self {
        Self {
            started: Instant::now(),
            looked: Duration::ZERO,
            absent: Duration::ZERO,
            most,
        }
    }

    /// Since it was made.
    pub(crate) fn now(&mut self) -> Duration {
        let real = self.started.elapsed();
        self.look(real)
    }

    fn look(&mut self, real: Duration) -> Duration {
        let gap = real.saturating_sub(self.looked);
        self.absent += gap.saturating_sub(self.most);
        self.looked = real;
        real.saturating_sub(self.absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn time_that_is_looked_at_often_counts() {
        let mut clock = Clock::new(ms(50));
        for now in [0, 10, 60, 110, 111] {
            assert_eq!(clock.look(ms(now)), ms(now));
        }
    }

    #[test]
    fn a_stop_counts_up_to_the_limit() {
        let mut clock = Clock::new(ms(50));
        assert_eq!(clock.look(ms(20)), ms(20));
        assert_eq!(clock.look(ms(10_000)), ms(70));
        assert_eq!(clock.look(ms(10_030)), ms(100));
        assert_eq!(clock.look(ms(20_000)), ms(150));
    }
}
