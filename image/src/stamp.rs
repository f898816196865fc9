//! Skips a step whose inputs have not changed.
//!
//! A stamp file per step holds the hash of the step's inputs and, for its result, size, time and SHA-256. A step is skipped when
//! the inputs hash the same and the result still has that size and time.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::file;

/// One file made by a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefact {
    /// Where it is.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// What a step was made from, and what it made.
#[derive(Debug, Serialize, Deserialize)]
struct Stamp {
    inputs: String,
    mtime: (i64, i64),
    artefact: Artefact,
}

/// Inputs of a step, hashed.
#[derive(Debug, Clone, Default)]
pub struct Inputs(Sha256);

impl Inputs {
    /// No inputs but the builder itself: a step made by another builder is made again.
    pub fn new() -> Self {
        let mut inputs = Self::default();
        if let Ok(builder) = std::env::current_exe().and_then(fs::metadata) {
            for number in
                [builder.size(), builder.mtime().unsigned_abs(), builder.mtime_nsec().unsigned_abs()]
            {
                inputs.0.update(number.to_le_bytes());
            }
        }
        inputs
    }

    /// The hash, in hexadecimal.
    pub fn id(self) -> String {
        format!("{:x}", self.0.finalize())
    }

    /// Adds one input.
    #[must_use]
    pub fn with(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }
}

/// Runs `make` unless `path` is there already, made from the same `inputs`. `make` must leave its result at `path`.
/// Returns the result and whether it had to be made.
///
/// # Errors
/// Those of `make`, and if the result or the stamp cannot be read or written.
pub fn step(
    folder: &Path,
    path: &Path,
    inputs: Inputs,
    make: impl FnOnce() -> Result<()>,
) -> Result<(Artefact, bool)> {
    let inputs = inputs.id();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stamp_path = folder.join(format!("{name}.json"));
    let earlier = fs::read(&stamp_path).ok().and_then(|text| serde_json::from_slice::<Stamp>(&text).ok());
    if let Some(stamp) = earlier {
        let unchanged = fs::metadata(path).is_ok_and(|now| {
            (now.mtime(), now.mtime_nsec()) == stamp.mtime && now.size() == stamp.artefact.bytes
        });
        if unchanged && stamp.inputs == inputs && stamp.artefact.path == path {
            return Ok((stamp.artefact, false));
        }
    }
    make()?;
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    let artefact = Artefact { path: path.to_owned(), bytes: metadata.size(), sha256: file::sha256(path)? };
    let stamp = Stamp { inputs, mtime: (metadata.mtime(), metadata.mtime_nsec()), artefact };
    file::write(&stamp_path, &serde_json::to_vec_pretty(&stamp)?)?;
    Ok((stamp.artefact, true))
}
