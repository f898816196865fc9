//! One run of QEMU: from the files the firmware model fetched to the end of the process.
//!
//! A guest cannot outlive its supervisor: `setpriv --pdeathsig` has the kernel kill QEMU when the thread that started it
//! ends, however it ends; dropping a [`Guest`] kills it too. It is in a process group of its own, so that Ctrl-C on the
//! terminal reaches the supervisor alone.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::command_line::{Boot, Hardware, arguments};
use super::console::Console;
use super::qmp::{Qmp, QmpError};
use crate::firmware::BootFiles;
use crate::run_dir::RunDir;

/// QEMU connects before it loads the kernel; this is for a host that is swapping.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// After a kill the kernel only has to take the process down.
const CONSOLE_DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// A running QEMU.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    qmp: Qmp,
    console: JoinHandle<()>,
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The system switched the machine off.
    PoweredOff,
    /// The system, or the watchdog, asked for a reset.
    Reset,
    /// QEMU ended for another reason.
    Failed(String),
}

/// Why a guest did not start.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The kernel and initramfs could not be handed over.
    #[error("writing {file}: {source}")]
    Files {
        /// Which one.
        file: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// QEMU could not be started.
    #[error("starting QEMU: {0}")]
    Spawn(#[source] io::Error),
    /// QEMU ended at once.
    #[error("QEMU did not start: {0}")]
    Ended(String),
    /// QEMU started but does not speak.
    #[error(transparent)]
    Qmp(#[from] QmpError),
}

impl Guest {
    /// Starts QEMU with exactly what the firmware model fetched.
    ///
    /// The thread that polls this must live as long as the guest: on a thread pool that is a worker, never a
    /// blocking thread.
    ///
    /// # Errors
    /// When a file cannot be written, or QEMU does not come up.
    pub async fn start(
        qemu: &Path,
        run_dir: &RunDir,
        hardware: &Hardware,
        files: BootFiles,
        console: &Console,
    ) -> Result<Self, GuestError> {
        let folder = run_dir.machine(&hardware.name);
        let has_initramfs = files.initramfs.is_some();
        write(&folder, "kernel", files.kernel).await?;
        write(&folder, "initramfs", files.initramfs.unwrap_or_default()).await?;
        let errors = open(&folder, "qemu.log")?;
        let listener = bind(run_dir, &hardware.name)?;

        let boot = Boot { has_initramfs, command_line: &files.command_line };
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(qemu)
            .args(arguments(hardware, &boot))
            .current_dir(run_dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(GuestError::Spawn)?;
        let output = child.stdout.take();
        let pump = console.clone();
        let pump = tokio::spawn(async move {
            if let Some(output) = output {
                pump.pump(output).await;
            }
        });

        let socket = tokio::select! {
            accepted = timeout(CONNECT_LIMIT, listener.accept()) => match accepted {
                Ok(accepted) => accepted.map_err(QmpError::from)?.0,
                Err(_) => return Err(QmpError::Silent.into()),
            },
            status = child.wait() => return Err(GuestError::Ended(last_words(&folder, status).await)),
        };
        let notes = console.clone();
        let qmp = Qmp::start(socket, move |text| notes.note(&text)).await?;
        Ok(Self { child, qmp, console: pump })
    }

    /// Waits for QEMU to end by itself. May be called again after being cancelled.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Says how an ended QEMU came to its end, after the last of its console has been written down.
    pub async fn into_end(self, folder: &Path, status: io::Result<ExitStatus>) -> End {
        let _ = timeout(CONSOLE_DRAIN_LIMIT, self.console).await;
        match self.qmp.closed().await.as_deref() {
            Some("guest-shutdown") => End::PoweredOff,
            Some("guest-reset") => End::Reset,
            Some(reason) => End::Failed(format!("QEMU ended: {reason}")),
            None => End::Failed(last_words(folder, status).await),
        }
    }

    /// Presses the power button, which the guest sees as KEY_POWER on its gpio-keys.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub async fn press_button(&mut self) -> Result<(), QmpError> {
        self.qmp.execute("system_powerdown", Value::Null).await.map(drop)
    }

    /// Takes the carrier from the guest's cluster interface, or gives it back.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub async fn set_link(&mut self, is_up: bool) -> Result<(), QmpError> {
        self.qmp.execute("set_link", json!({ "name": "nic0", "up": is_up })).await.map(drop)
    }

    /// Pulls the cord.
    pub async fn kill(mut self) {
        // Fails only for a process that has ended already.
        let _ = self.child.kill().await;
        let _ = timeout(CONSOLE_DRAIN_LIMIT, self.console).await;
    }
}

async fn write(folder: &Path, file: &'static str, content: Vec<u8>) -> Result<(), GuestError> {
    let path = folder.join(file);
    tokio::fs::write(path, content).await.map_err(|source| GuestError::Files { file, source })
}

fn open(folder: &Path, file: &'static str) -> Result<File, GuestError> {
    File::create(folder.join(file)).map_err(|source| GuestError::Files { file, source })
}

fn bind(run_dir: &RunDir, name: &str) -> Result<UnixListener, GuestError> {
    let path = run_dir.socket(&format!("{name}/qmp.sock"));
    // Of the boot before; bind makes the error if it is anything worse than not there.
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(path).map_err(|source| GuestError::Files { file: "qmp.sock", source })
}

/// QEMU's last message, or how its process ended.
async fn last_words(folder: &Path, status: io::Result<ExitStatus>) -> String {
    let log = tokio::fs::read(folder.join("qemu.log")).await.unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    match (log.lines().rfind(|line| !line.trim().is_empty()), status) {
        (Some(line), _) => line.trim().to_owned(),
        (None, Ok(status)) => format!("QEMU ended: {status}"),
        (None, Err(error)) => format!("QEMU cannot be waited for: {error}"),
    }
}
