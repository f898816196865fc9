//! The answers as text. No I/O but the clock of the machine, read by [`Facts::now`].

use std::fmt::Write;
use std::time::Duration;

use crate::Identity;

/// What changes between two answers.
pub(crate) struct Facts {
    pub(crate) uptime: Option<Duration>,
}

impl Facts {
    /// Reads the time since start of the machine; unknown where there is no procfs.
    pub(crate) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        Self { uptime: parse_uptime(&text) }
    }
}

/// proc_uptime(5): seconds with two decimals, then the idle time.
fn parse_uptime(text: &str) -> Option<Duration> {
    let seconds: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The lines of the page: label and value, only those that are known.
fn lines(identity: &Identity, facts: &Facts) -> Vec<(&'static str, String)> {
    let known = |label, value: &Option<String>| value.as_ref().map(|value| (label, value.clone()));
    [
        Some(("node", identity.name.clone())),
        known("serial", &identity.serial),
        known("address", &identity.address),
        known("image", &identity.image),
        known("kernel", &identity.kernel),
        facts.uptime.map(|uptime| ("uptime", duration(uptime))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The page for curl: one `label value` per line.
pub(crate) fn text(identity: &Identity, facts: &Facts) -> String {
    let mut page = String::new();
    for (label, value) in lines(identity, facts) {
        let _ = writeln!(page, "{label:<8}{value}");
    }
    page
}

/// The page for a browser: needs nothing from anywhere else, works without scripts.
pub(crate) fn html(identity: &Identity, facts: &Facts) -> String {
    let mut rows = String::new();
    for (label, value) in lines(identity, facts) {
        let _ = write!(rows, "<tr><th>{label}<td>{}", escape(&value));
    }
    let name = escape(&identity.name);
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\"><title>{name}</title>\
         <style>{STYLE}</style><h1>{name}</h1><p>This page was served by one board of a Bramble cluster. \
         Load it again and another may answer.<table>{rows}</table>\n"
    )
}

/// The answer to `/healthz`.
pub(crate) fn health(identity: &Identity) -> String {
    format!("ok {} {}\n", identity.name, env!("CARGO_PKG_VERSION"))
}

/// `3 d 04 h`, `2 h 07 min`, `5 min 09 s`, `42 s`: two units are enough to tell boards apart.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {:02} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes:02} min"),
        _ => format!("{days} d {hours:02} h"),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

const STYLE: &str = "body{font:1.1em system-ui,sans-serif;margin:3em auto;max-width:36em;padding:0 1em;\
    color:#222;background:#fafafa}h1{color:#8a1c4a}th{text-align:left;padding-right:1.5em;font-weight:600}\
    td{font-family:ui-monospace,monospace}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}\
    h1{color:#e27aa5}}";

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            name: "node-1".into(),
            serial: Some("0a1b2c3d".into()),
            address: Some("10.77.0.11".into()),
            image: Some("3f9c0a1b2c3d".into()),
            kernel: Some("7.2.0<&>".into()),
        }
    }

    #[test]
    fn text_has_one_line_per_known_fact() {
        let page = text(&identity(), &Facts { uptime: Some(Duration::from_secs(309)) });
        assert_eq!(
            page,
            "node    node-1\nserial  0a1b2c3d\naddress 10.77.0.11\nimage   3f9c0a1b2c3d\nkernel  7.2.0<&>\nuptime  5 min 09 s\n"
        );
        let host = Identity { serial: None, address: None, image: None, kernel: None, ..identity() };
        assert_eq!(text(&host, &Facts { uptime: None }), "node    node-1\n");
    }

    #[test]
    fn html_escapes_what_the_machine_says() {
        let page = html(&identity(), &Facts { uptime: None });
        assert!(page.contains("<th>kernel<td>7.2.0&lt;&amp;&gt;"), "{page}");
        assert!(!page.contains("uptime"));
    }

    #[test]
    fn durations_read_well_at_every_size() {
        for (seconds, expected) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (7_620, "2 h 07 min"), (273_600, "3 d 04 h")]
        {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn an_uptime_that_is_no_number_is_unknown() {
        assert_eq!(parse_uptime("12.50 99.0\n"), Some(Duration::from_millis(12_500)));
        for text in ["", "x", "-1 2", "NaN", "1e300"] {
            assert_eq!(parse_uptime(text), None, "{text}");
        }
    }
}
