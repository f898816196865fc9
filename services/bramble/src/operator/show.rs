//! Tables for people.

use std::time::Duration;

/// The machines, a line each.
pub fn nodes(nodes: &[api::Node]) -> String {
    let rows = nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.state.clone(),
            age(node.state_since_s),
            node.address.clone(),
            node.serial.clone(),
            node.mac.clone(),
            node.root.clone(),
            node.image.chars().take(12).collect(),
            node.detail.clone(),
        ]
    });
    table(&["NAME", "STATE", "FOR", "ADDRESS", "SERIAL", "MAC", "ROOT", "IMAGE", ""], rows.collect())
}

/// The boot of each machine, step by step.
pub fn timelines(nodes: &[api::Node]) -> String {
    let mut text = String::new();
    for node in nodes {
        let rows = node.timeline.iter().map(|step| {
            let took = if step.duration_us > 0 {
                format!("{:.0} ms", step.duration_us as f64 / 1e3)
            } else {
                String::new()
            };
            let bytes = if step.bytes > 0 { format!("{} bytes", step.bytes) } else { String::new() };
            vec![
                format!("{:9.3} s", step.at_us as f64 / 1e6),
                step.step.clone(),
                took,
                bytes,
                step.detail.clone(),
            ]
        });
        text.push_str(&format!("{} ({}), boot {}\n", node.name, node.state, node.boots));
        text.push_str(&table(&["AT", "STEP", "TOOK", "SIZE", ""], rows.collect()));
        text.push('\n');
    }
    text
}

/// Rows of a service table as init writes them: `key=value` fields with tabs between.
pub fn services(answer: &str) -> String {
    let rows = answer.lines().map(|line| {
        let field = |key: &str| {
            let value = line.split('\t').find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
            value.unwrap_or("").to_owned()
        };
        let memory = field("memory_bytes").parse::<f64>().unwrap_or(0.0) / (1024.0 * 1024.0);
        let since = field("since_us").parse::<f64>().unwrap_or(0.0) / 1e6;
        let memory = format!("{memory:.1} MiB");
        vec![
            field("name"),
            field("state"),
            field("pid"),
            field("restarts"),
            format!("{since:.3} s"),
            memory,
            field("status"),
        ]
    });
    table(&["SERVICE", "STATE", "PID", "RESTARTS", "AT", "MEMORY", "STATUS"], rows.collect())
}

/// Kept output: `<priority> <microseconds since boot> <text>` a line.
pub fn logs(answer: &str) -> String {
    let mut text = String::new();
    for line in answer.lines() {
        let mut words = line.splitn(3, ' ');
        let parsed = (words.next(), words.next().and_then(|us| us.parse::<u64>().ok()), words.next());
        match parsed {
            (Some(_), Some(us), Some(message)) => {
                text.push_str(&format!("{:12.6} {message}\n", Duration::from_micros(us).as_secs_f64()));
            }
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    text
}

fn age(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// Columns as wide as their widest cell. Control characters never reach a terminal.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head)
        .chain(rows)
        .map(|row| row.into_iter().map(|cell| cell.replace(|c: char| c.is_control(), "?")).collect())
        .collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_a_table_whatever_init_adds_later() {
        let shown = services(
            "name=web\tstate=ready\tpid=7\trestarts=0\tsince_us=1500000\tmemory_bytes=1048576\tnew=1\tstatus=all well\n",
        );
        assert_eq!(
            shown,
            "SERVICE  STATE  PID  RESTARTS  AT       MEMORY   STATUS\nweb      ready  7    0         1.500 s  1.0 MiB  all well\n"
        );
    }

    #[test]
    fn a_log_line_cannot_move_the_cursor_through_a_table() {
        assert!(!table(&["A"], vec![vec!["x\u{1b}[2J".into()]]).contains('\u{1b}'));
    }
}
