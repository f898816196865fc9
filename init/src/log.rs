//! What a service says: bytes from a pipe -> lines -> a ring that outlives the service.
//!
//! Limits, per row: a line has at most [`LINE_MAX`] bytes (the rest of it is dropped and marked), the ring at most
//! [`RING_BYTES`] (the oldest lines go first), and the console gets at most [`CONSOLE_LINES`] lines in
//! [`CONSOLE_WINDOW`] (the rest is counted). A service that writes faster than init reads finds its pipe full and
//! waits: it slows itself down, not PID 1.

use std::collections::VecDeque;
use std::time::Duration;

use crate::supervisor::Moment;

/// The longest line kept, in bytes: more than a screen line, less than what one line may push out of the ring.
pub const LINE_MAX: usize = 1000;

/// Size of one ring. Times thirteen rows this is a tenth of what PID 1 may use.
pub const RING_BYTES: usize = 16 * 1024;

/// What an entry costs besides its text.
const ENTRY_BYTES: usize = 40;

/// A burst of errors that fits on a screen...
pub const CONSOLE_LINES: u16 = 20;

/// ...once in so long; a serial console passes on about 100 lines a second and holds up the kernel meanwhile.
pub const CONSOLE_WINDOW: Duration = Duration::from_secs(10);

/// Priority of a line that says none: info.
const DEFAULT_PRIORITY: u8 = 6;

/// Cuts a stream of bytes into lines.
#[derive(Debug)]
pub struct Splitter {
    limit: usize,
    partial: Vec<u8>,
    overlong: bool,
}

impl Splitter {
    /// For lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, partial: Vec::new(), overlong: false }
    }

    /// Takes bytes in, hands out each line that is complete now, without its end.
    pub fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(Entry)) {
        for &byte in bytes {
            match byte {
                b'\n' => self.flush(&mut line),
                _ if self.partial.len() < self.limit => self.partial.push(byte),
                _ => self.overlong = true,
            }
        }
    }

    /// Hands out what there is of a line that was never ended.
    pub fn flush(&mut self, mut line: impl FnMut(Entry)) {
        if !self.partial.is_empty() {
            line(Entry::parse(&self.partial, self.overlong));
        }
        self.overlong = false;
        // Most services are silent most of the time: their buffer goes, too.
        self.partial = Vec::new();
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 0 (emergency) to 7 (debug), from sd-daemon(3)'s `<N>`, or 6.
    pub priority: u8,
    /// Printable text.
    pub text: Box<str>,
}

impl Entry {
    /// An entry of the given priority, made printable.
    pub fn new(priority: u8, text: &str) -> Self {
        Self { priority, text: printable(text).into() }
    }

    fn parse(line: &[u8], overlong: bool) -> Self {
        let (priority, text) = match line {
            [b'<', digit @ b'0'..=b'7', b'>', rest @ ..] => (digit - b'0', rest),
            _ => (DEFAULT_PRIORITY, line),
        };
        let mut text = printable(&String::from_utf8_lossy(text));
        if overlong {
            text.push_str(" [cut]");
        }
        Self { priority, text: text.into() }
    }
}

/// A console obeys control characters, and our own formats use tabs and line ends.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// The last lines of one row.
#[derive(Debug, Default)]
pub struct Ring {
    entries: VecDeque<(Moment, Entry)>,
    bytes: usize,
}

impl Ring {
    /// Keeps a line, at the cost of the oldest.
    pub fn push(&mut self, entry: Entry, now: Moment) {
        self.bytes = self.bytes.saturating_add(cost(&entry));
        self.entries.push_back((now, entry));
        while self.bytes > RING_BYTES {
            let Some((_, oldest)) = self.entries.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(cost(&oldest));
        }
    }

    /// All there is, oldest first: `<priority> <microseconds since boot> <text>` per line.
    pub fn print(&self) -> String {
        let line = |(time, Entry { priority, text }): &(Moment, Entry)| {
            format!("{priority} {} {text}\n", time.as_micros())
        };
        self.entries.iter().map(line).collect()
    }
}

fn cost(entry: &Entry) -> usize {
    entry.text.len().saturating_add(ENTRY_BYTES)
}

/// How many lines a row may still put on the console.
#[derive(Debug, Default)]
pub struct ConsoleBudget {
    window: Option<Moment>,
    used: u16,
    withheld: u32,
}

/// What to do with an error line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Show it, and say first that so many were withheld.
    Yes {
        /// Lines withheld since the last one shown.
        withheld: u32,
    },
    /// Keep it in the ring only.
    No,
}

impl ConsoleBudget {
    /// Decides about one line.
    pub fn ask(&mut self, now: Moment) -> Show {
        let open = self.window.is_some_and(|begin| now.saturating_sub(begin) < CONSOLE_WINDOW);
        if !open {
            self.window = Some(now);
            self.used = 0;
        }
        if self.used >= CONSOLE_LINES {
            self.withheld = self.withheld.saturating_add(1);
            return Show::No;
        }
        self.used = self.used.saturating_add(1);
        Show::Yes { withheld: std::mem::take(&mut self.withheld) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(splitter: &mut Splitter, bytes: &[u8]) -> Vec<(u8, String)> {
        let mut lines = Vec::new();
        splitter.feed(bytes, |entry| lines.push((entry.priority, entry.text.into())));
        lines
    }

    #[test]
    fn a_line_may_come_in_pieces_and_carries_its_priority() {
        let mut splitter = Splitter::new(LINE_MAX);
        assert_eq!(lines(&mut splitter, b"<3>no "), []);
        assert_eq!(
            lines(&mut splitter, b"disk\nplain\n\n<9>x\n<4"),
            [(3, "no disk".into()), (6, "plain".into()), (6, "<9>x".into())]
        );
        let mut rest = Vec::new();
        splitter.flush(|entry| rest.push(entry));
        assert_eq!(rest, [Entry::new(6, "<4")]);
    }

    #[test]
    fn an_overlong_line_is_cut_and_the_next_is_whole() {
        let mut splitter = Splitter::new(5);
        assert_eq!(lines(&mut splitter, b"123456789\nabc\n"), [(6, "12345 [cut]".into()), (6, "abc".into())]);
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        let mut splitter = Splitter::new(LINE_MAX);
        assert_eq!(lines(&mut splitter, b"a\x1b[2Jb\tc\r\n"), [(6, "a [2Jb c ".into())]);
    }

    #[test]
    fn the_ring_forgets_the_oldest_and_prints_in_order() {
        let mut ring = Ring::default();
        for number in 0..10_000_u64 {
            ring.push(Entry::new(6, &format!("line {number}")), Moment::from_micros(number));
        }
        let text = ring.print();
        assert!(text.ends_with("6 9999 line 9999\n"));
        assert!(!text.contains("line 9000\n") && text.contains("line 9900\n"));
    }

    #[test]
    fn a_flood_of_errors_is_withheld_and_counted() {
        let mut budget = ConsoleBudget::default();
        let shown = (0..500).filter(|_| budget.ask(Moment::from_secs(5)) != Show::No).count();
        assert_eq!(shown, CONSOLE_LINES.into());
        assert_eq!(budget.ask(Moment::from_secs(16)), Show::Yes { withheld: 480 });
        assert_eq!(budget.ask(Moment::from_secs(16)), Show::Yes { withheld: 0 });
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_stay_within_the_limits(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40),
        ) {
            let (mut splitter, mut ring) = (Splitter::new(LINE_MAX), Ring::default());
            for piece in pieces {
                splitter.feed(&piece, |entry| ring.push(entry, Moment::ZERO));
                prop_assert!(splitter.partial.len() <= LINE_MAX);
                prop_assert!(ring.bytes <= RING_BYTES);
            }
            for line in ring.print().lines() {
                prop_assert!(!line.chars().any(char::is_control));
            }
        }
    }
}
