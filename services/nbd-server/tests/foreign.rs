//! Clients that others wrote. A test whose tool is missing says "skipped: needs X" and passes.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

fn is_missing(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        eprintln!("skipped: needs {tool}");
    }
    found.is_err()
}

fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout").arg("60").arg(tool).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

struct Served {
    dir: tempfile::TempDir,
    content: Vec<u8>,
    server: SocketAddr,
}

/// `image`, read-only, and `scratch` of the same length, writable.
fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let content = support::pattern(8 << 20);
    std::fs::write(dir.path().join("image"), &content).unwrap();
    std::fs::write(dir.path().join("scratch"), vec![7; content.len()]).unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let definitions = [format!("image={}", at("image")), format!("scratch={},rw", at("scratch"))];
    let server = support::serve_files(&definitions);
    Served { dir, content, server }
}

impl Served {
    fn url(&self, export: &str) -> String {
        format!("nbd://{}/{export}", self.server)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn is_copy(&self, path: &str) -> bool {
        std::fs::read(Path::new(path)).unwrap() == self.content
    }
}

#[test]
fn qemu_img_reads_and_writes() {
    if is_missing("qemu-img") {
        return;
    }
    let served = serve();
    let info = run("qemu-img", &["info", "--output=json", &served.url("image")]);
    assert!(info.contains(&format!("\"virtual-size\": {}", served.content.len())), "{info}");
    let copy = served.path("copy");
    run("qemu-img", &["convert", "-O", "raw", &served.url("image"), &copy]);
    assert!(served.is_copy(&copy));
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &copy, &served.url("scratch")]);
    assert!(served.is_copy(&served.path("scratch")));
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &served.url("image"), &served.url("scratch")]);
}

#[test]
fn nbdinfo_lists_exports_and_knows_what_they_can_do() {
    if is_missing("nbdinfo") {
        return;
    }
    let served = serve();
    let list = run("nbdinfo", &["--list", &served.url("")]);
    assert!(list.contains("export=\"image\"") && list.contains("export=\"scratch\""), "{list}");
    let info = run("nbdinfo", &[&served.url("image")]);
    for line in ["is_read_only: true", "can_multi_conn: true", "block_size_maximum: 33554432"] {
        assert!(info.contains(line), "{line} in {info}");
    }
    let info = run("nbdinfo", &[&served.url("scratch")]);
    for line in ["is_read_only: false", "can_fua: true", "can_trim: true", "can_zero: true"] {
        assert!(info.contains(line), "{line} in {info}");
    }
}

#[test]
fn nbdcopy_reads_and_writes_over_several_connections() {
    if is_missing("nbdcopy") {
        return;
    }
    let served = serve();
    let copy = served.path("copy");
    run("nbdcopy", &["--connections=4", &served.url("image"), &copy]);
    assert!(served.is_copy(&copy));
    run("nbdcopy", &["--connections=4", "--flush", &copy, &served.url("scratch")]);
    assert!(served.is_copy(&served.path("scratch")));
}
