//! What a bad cable does to frames: loss, delay and a limited rate, each the same in both directions.
//!
//! Loss is decided by a seeded generator per port and direction, so that a test which loses frames loses the same
//! ones every time. Delay and rate share one first-in-first-out line per direction; it exists only on ports that
//! were ever given one, so that an unimpaired port needs no timer.

use std::time::Duration;

use tokio::time::Instant;

/// A port's impairments. The default is a perfect cable.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Impairment {
    /// Probability, 0.0 to 1.0, that a frame is lost in each direction.
    pub loss: f64,
    /// Extra time each frame takes in each direction.
    pub delay: Duration,
    /// Bits per second in each direction; `None` is as fast as the host can.
    pub rate: Option<u64>,
}

impl Impairment {
    /// Whether frames must wait in a line.
    pub fn needs_line(&self) -> bool {
        !self.delay.is_zero() || self.rate.is_some()
    }
}

/// Frames waiting in one direction of one cable.
///
/// 4096 full-size frames are 6 MiB: 50 ms at 1 Gbit/s. Further ones are dropped and counted.
pub const LINE_FRAMES: usize = 4096;

/// A seeded source of chance (SplitMix64, public domain: Vigna 2015).
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// A generator that always gives the same sequence for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// True with the given probability.
    pub fn happens(&mut self, probability: f64) -> bool {
        if probability <= 0.0 {
            return false;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The upper 53 bits are exactly what a double can hold.
        ((z >> 11) as f64) / ((1_u64 << 53) as f64) < probability
    }
}

/// When the next frame of one direction may leave, given those before it.
#[derive(Debug, Default)]
pub struct Pacer {
    free_at: Option<Instant>,
}

impl Pacer {
    /// The moment a frame of `length` bytes that arrives `now` comes out at the far end.
    pub fn due(&mut self, now: Instant, length: usize, impairment: &Impairment) -> Instant {
        let start = self.free_at.map_or(now, |free_at| free_at.max(now));
        let sending = match impairment.rate {
            Some(rate) => Duration::from_secs_f64(length as f64 * 8.0 / rate.max(1) as f64),
            None => Duration::ZERO,
        };
        let sent = start + sending;
        self.free_at = Some(sent);
        sent + impairment.delay
    }
}
