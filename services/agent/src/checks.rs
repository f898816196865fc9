//! Things that an operator has a machine try out: its root, its network, its memory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use api::Check;
use config::Machine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The file that `root-write` writes. It is gone after a reboot, since `/` is a layer in RAM.
const WRITTEN: &str = "/bramble-check";

/// One read: the size that block devices like best, and a multiple of every block size.
const READ_BYTES: usize = 256 * 1024;

/// Nobody needs more of a page to know that it came.
const FETCH_MAX_BYTES: u64 = 16 * 1024;

const FETCH_TIME_OUT: Duration = Duration::from_secs(10);

/// Runs one check. `Err` holds a reason for people.
pub async fn run(check: Check, machine: &Machine) -> Result<String, String> {
    let device = machine.root_device.clone();
    match check {
        Check::Fetch { url } => fetch(&url).await,
        Check::RootInfo => blocking(move || root_info(&device)).await,
        Check::RootRead { mebibytes, pause_ms } => {
            blocking(move || root_read(&device, mebibytes, pause_ms)).await
        }
        Check::RootWrite => blocking(root_write).await,
        Check::RootWritten => blocking(root_written).await,
        Check::Memory => blocking(memory).await,
    }
}

async fn blocking(work: impl FnOnce() -> Result<String, String> + Send + 'static) -> Result<String, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> String + '_ {
    move |error| format!("{what}: {error}")
}

fn root_info(device: &str) -> Result<String, String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(failed("/proc/self/mounts"))?;
    let root =
        mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).unwrap_or("(not in the mount table)");
    Ok(format!("device {device}\nmount {root}\n"))
}

/// Reads parts of the root's device past the page cache, spread evenly, never the same twice.
fn root_read(device: &str, mebibytes: u64, pause_ms: u64) -> Result<String, String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_DIRECT)
        .open(device)
        .map_err(failed(device))?;
    let size = (&file).seek_end().map_err(failed(device))?;
    let chunks = size / READ_BYTES as u64;
    let wanted = (mebibytes.saturating_mul(1024 * 1024) / READ_BYTES as u64).clamp(1, chunks.max(1));
    // O_DIRECT wants memory aligned to the device's block size; a page is enough for all of them.
    let mut memory = vec![0_u8; READ_BYTES + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let buffer = memory.get_mut(start..start + READ_BYTES).ok_or("no aligned memory")?;
    let (mut bytes, mut errors, mut first_error) = (0_u64, 0_u64, String::new());
    let mut slowest = Duration::ZERO;
    // A step that shares no factor with the number of chunks visits each exactly once, in no sequential order.
    let step = (chunks / 3..).find(|step| gcd(*step, chunks.max(1)) == 1).unwrap_or(1);
    for index in 0..wanted {
        let chunk = (index * step) % chunks.max(1);
        let began = Instant::now();
        match file.read_at(buffer, chunk * READ_BYTES as u64) {
            Ok(count) => bytes += count as u64,
            Err(error) => {
                errors += 1;
                if first_error.is_empty() {
                    first_error = format!("first_error {error} at byte {}\n", chunk * READ_BYTES as u64);
                }
            }
        }
        slowest = slowest.max(began.elapsed());
        std::thread::sleep(Duration::from_millis(pause_ms.min(1000)));
    }
    let slowest_ms = slowest.as_millis();
    let text =
        format!("device {device}\nbytes {bytes}\nerrors {errors}\nslowest_ms {slowest_ms}\n{first_error}");
    if errors == 0 { Ok(text) } else { Err(text) }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Sizes of block devices are where their end is.
trait SeekEnd {
    fn seek_end(self) -> std::io::Result<u64>;
}

impl SeekEnd for &File {
    fn seek_end(mut self) -> std::io::Result<u64> {
        std::io::Seek::seek(&mut self, std::io::SeekFrom::End(0))
    }
}

fn root_write() -> Result<String, String> {
    let text = format!("written {} us after the start\n", bus::event::boottime_us());
    let mut file = File::create(WRITTEN).map_err(failed(WRITTEN))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed(WRITTEN))?;
    let read = std::fs::read_to_string(WRITTEN).map_err(failed(WRITTEN))?;
    if read == text { Ok(format!("{WRITTEN}: {text}")) } else { Err(format!("{WRITTEN} does not read back")) }
}

fn root_written() -> Result<String, String> {
    match std::fs::read_to_string(WRITTEN) {
        Ok(text) => Ok(format!("present: {text}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok("absent\n".to_owned()),
        Err(error) => Err(failed(WRITTEN)(error)),
    }
}

/// Fetches a page the simplest way there is, so that nothing but the network is tried.
async fn fetch(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").ok_or("a URL begins with http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if url.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Err("a URL has no blanks".to_owned());
    }
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(&address).await?;
        let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: bramble\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(FETCH_MAX_BYTES).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(FETCH_TIME_OUT, exchange)
        .await
        .map_err(|_| format!("{address} did not answer within {} s", FETCH_TIME_OUT.as_secs()))?
        .map_err(failed(&address))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The proportional set size of every process: what userland costs, shared pages counted once.
fn memory() -> Result<String, String> {
    let mut rows = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(failed("/proc"))?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let mut rollup = String::new();
        let read = File::open(format!("/proc/{pid}/smaps_rollup"))
            .and_then(|mut file| file.read_to_string(&mut rollup));
        // A process that has just ended, or a kernel thread.
        if read.is_err() || rollup.is_empty() {
            continue;
        }
        let figure = |key: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = command.split('\0').take(2).collect();
        rows.push((figure("Pss:"), figure("Rss:"), pid, words.join(" ")));
    }
    rows.sort_unstable_by(|a, b| b.cmp(a));
    let total: u64 = rows.iter().map(|row| row.0).sum();
    let mut text = format!("pss_total_kib {total}\n");
    for (pss, rss, pid, command) in rows {
        text.push_str(&format!("pss_kib {pss}\trss_kib {rss}\tpid {pid}\t{command}\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_at_every_place_once_and_figures_are_told() {
        let folder =
            tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder on a real file system");
        let path = folder.path().join("device");
        std::fs::write(&path, vec![7; 4 * READ_BYTES]).expect("the file is written");
        let text = root_read(path.to_str().expect("UTF-8"), 64, 0).expect("no read fails");
        assert!(text.contains("bytes 1048576\nerrors 0\n"), "{text}");
    }

    #[tokio::test]
    async fn a_url_that_is_not_plain_http_is_refused_before_anything_is_sent() {
        assert!(fetch("https://127.0.0.1/").await.is_err());
        assert!(fetch("http://127.0.0.1/ HTTP/1.1\r\nX: y").await.is_err());
    }

    #[test]
    fn memory_of_this_process_is_in_the_list() {
        let text = memory().expect("/proc is there");
        assert!(text.contains(&format!("pid {}\t", std::process::id())), "{text}");
    }
}
