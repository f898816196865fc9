//! One log format for all services.
//!
//! `<priority>level target: message field=value …`: the sd-daemon(3) priority only under init, which strips it,
//! stamps the time since boot and keeps the line; a clock time only for a person's terminal.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, Uptime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Who reads the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// init, through a pipe.
    Supervised,
    /// A person, on a terminal or in a file.
    Terminal,
}

/// Where `storage` puts the level of the head's configuration.
const LEVEL_FILE: &str = "/run/bramble/log-level";

/// Installs the process-wide subscriber. The level is `BRAMBLE_LOG` (an `EnvFilter` directive); else, when init
/// started us, `bramble.log=` on the kernel command line or the head's configuration; else `info`.
pub(crate) fn start(format: Format) {
    let directive = std::env::var("BRAMBLE_LOG").ok().or_else(|| match format {
        Format::Supervised => std::fs::read_to_string("/proc/cmdline")
            .ok()
            .and_then(|line| level_from_command_line(&line))
            .or_else(|| Some(std::fs::read_to_string(LEVEL_FILE).ok()?.trim().to_owned())),
        Format::Terminal => None,
    });
    let filter = directive
        .and_then(|directive| EnvFilter::try_new(directive).ok())
        .unwrap_or_else(|| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .event_format(Line { format, clock: Uptime::default() })
        .finish();
    // Fails only if a subscriber is installed already, as tests do: theirs is then the one wanted.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// `bramble.log=debug` on the kernel command line.
fn level_from_command_line(line: &str) -> Option<String> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix("bramble.log=")).map(str::to_owned)
}

struct Line {
    format: Format,
    clock: Uptime,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        match self.format {
            Format::Supervised => write!(writer, "<{}>", priority(level))?,
            Format::Terminal => {
                self.clock.format_time(&mut writer)?;
                write!(writer, " ")?;
            }
        }
        write!(writer, "{:<5} {}: ", level, event.metadata().target())?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// syslog(3) priorities, as sd-daemon(3) uses them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_raises_the_level() {
        assert_eq!(level_from_command_line("quiet bramble.log=debug x=y\n"), Some("debug".into()));
        assert_eq!(level_from_command_line("quiet"), None);
    }

    #[test]
    fn errors_have_the_priority_that_reaches_the_console() {
        assert!(priority(Level::ERROR) <= 3);
        assert!(priority(Level::WARN) > 3);
    }
}
