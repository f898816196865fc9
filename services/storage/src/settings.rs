//! Which configuration is in force: the card's when it is right, else the last one that was, else the defaults.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::Context as _;
use config::{CONFIG_MAX_BYTES, Config};

/// File on the boot partition.
const NAME: &str = "bramble.toml";
/// File on the data partition.
const LAST_GOOD: &str = "config/last-good.toml";

/// Where the configuration in force comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `bramble.toml` on the card.
    Card,
    /// The last one that was right.
    LastGood,
    /// There is none that is right.
    Defaults,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Card => NAME,
            Self::LastGood => "the last good ones",
            Self::Defaults => "the defaults",
        })
    }
}

/// Decides, and writes the configuration in force to `target`. `boot` is none when it could not be mounted.
///
/// # Errors
/// When the configuration in force cannot be written. A last good one that cannot be kept is only reported.
pub fn install(boot: Option<&impl AsRef<Path>>, data: &Path, target: &Path) -> anyhow::Result<Source> {
    let last_good = data.join(LAST_GOOD);
    let card = match boot {
        Some(boot) => read(&boot.as_ref().join(NAME)),
        None => Err(io::Error::other("the boot partition is not mounted")),
    };
    let known = read(&last_good).ok().flatten();
    let decision = decide(card, known.as_deref());
    for complaint in &decision.complaints {
        tracing::error!("{complaint}");
    }
    // Read by services of other users.
    write(target, &decision.text).with_context(|| format!("cannot write {}", target.display()))?;
    // For every service's log, see lib/service; before any of them starts.
    let level = Config::parse(&decision.text).unwrap_or_default().log.level.as_str();
    write(&target.with_file_name("log-level"), level).context("cannot write the log level")?;
    if decision.source == Source::Card
        && known.as_ref() != Some(&decision.text)
        && let Err(error) = write(&last_good, &decision.text)
    {
        tracing::error!(%error, "cannot keep the configuration for the day it is needed");
    }
    Ok(decision.source)
}

#[derive(Debug, PartialEq, Eq)]
struct Decision {
    text: String,
    source: Source,
    complaints: Vec<String>,
}

/// `card`: the text, none when there is no such file (which means the defaults, as its owner wants it).
fn decide(card: io::Result<Option<String>>, last_good: Option<&str>) -> Decision {
    let mut complaints = match card.map(Option::unwrap_or_default) {
        Ok(text) => match Config::parse(&text) {
            Ok(_) => return Decision { text, source: Source::Card, complaints: Vec::new() },
            Err(errors) => errors.mistakes.iter().map(ToString::to_string).collect(),
        },
        Err(error) => vec![format!("{NAME} cannot be read: {error}")],
    };
    // Written by an older version, or spoiled: only what is right now counts.
    let (text, source) = match last_good.filter(|text| Config::parse(text).is_ok()) {
        Some(text) => (text.to_owned(), Source::LastGood),
        None => (String::new(), Source::Defaults),
    };
    complaints.push(format!("{NAME} is not used; in force are {source}"));
    Decision { text, source, complaints }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = String::new();
    file.take(CONFIG_MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > CONFIG_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large for a configuration"));
    }
    Ok(Some(text))
}

/// A reader sees the old file or the new one, and so does the next boot after a power cut.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[cluster]\naddress = \"10.78.0.1/16\"\n";
    const BAD: &str = "[cluster]\naddress = 5\ncolour = \"red\"\n";

    #[test]
    fn a_good_file_is_used_and_no_file_means_the_defaults() {
        let decision = decide(Ok(Some(GOOD.to_owned())), None);
        assert_eq!((decision.text.as_str(), decision.source), (GOOD, Source::Card));
        assert!(decision.complaints.is_empty());
        let decision = decide(Ok(None), Some(GOOD));
        assert_eq!((decision.text.as_str(), decision.source), ("", Source::Card), "deleting it is a choice");
    }

    #[test]
    fn each_mistake_is_told_with_its_place_and_the_last_good_one_is_used() {
        let decision = decide(Ok(Some(BAD.to_owned())), Some(GOOD));
        assert_eq!((decision.text.as_str(), decision.source), (GOOD, Source::LastGood));
        assert!(decision.complaints[0].starts_with("bramble.toml:2:"), "{:?}", decision.complaints);
        assert!(decision.complaints[1].starts_with("bramble.toml:3:"), "{:?}", decision.complaints);
        assert!(decision.complaints[2].contains("last good"), "{:?}", decision.complaints);
    }

    #[test]
    fn without_a_last_good_one_that_is_still_right_the_defaults_are_used() {
        for last_good in [None, Some(BAD)] {
            let decision = decide(Err(io::ErrorKind::InvalidData.into()), last_good);
            assert_eq!((decision.text.as_str(), decision.source), ("", Source::Defaults));
            assert_eq!(decision.complaints.len(), 2);
        }
    }

    #[test]
    fn a_good_file_is_kept_for_the_day_it_is_needed() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (boot, data) = (folder.path().join("boot"), folder.path().join("data"));
        let target = folder.path().join("run/config.toml");
        let in_force = || fs::read_to_string(&target).expect("always written");
        fs::create_dir_all(&boot).expect("temporary folder");
        let edit = |text: &[u8]| fs::write(boot.join(NAME), text).expect("temporary file");
        edit(GOOD.as_bytes());
        assert_eq!(install(Some(&boot), &data, &target).expect("writable"), Source::Card);
        assert_eq!(in_force(), GOOD);
        for bad in [BAD.as_bytes(), b"\xff\xfe", "#".repeat(65 * 1024).as_bytes()] {
            edit(bad);
            assert_eq!(install(Some(&boot), &data, &target).expect("writable"), Source::LastGood);
            assert_eq!(in_force(), GOOD);
        }
        assert_eq!(install(None::<&std::path::PathBuf>, &data, &target).expect("writable"), Source::LastGood);
        fs::remove_dir_all(&data).expect("temporary folder");
        assert_eq!(install(Some(&boot), &data, &target).expect("writable"), Source::Defaults);
        assert_eq!(in_force(), "");
    }
}
