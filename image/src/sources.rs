//! Finds Debian's main archive among the package sources of this computer.
//!
//! Understands both formats of sources.list(5): one line per source, and deb822 stanzas. The builder
//! takes only the address from there, so a local mirror or cache the host is set up with is used.
//! Not supported: `cdrom:` sources.

/// The address of Debian's main archive, taken from the first source among `files` (name and text) that is one.
pub fn main_archive(files: &[(String, String)]) -> Option<String> {
    files.iter().find_map(
        |(name, text)| {
            if name.ends_with(".sources") { deb822(text) } else { one_line(text) }
        },
    )
}

fn one_line(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.split('#').next()?.trim().strip_prefix("deb ")?.trim_start();
        // Options may hold spaces: "deb [arch=arm64 signed-by=/x] http://…".
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        (is_archive(uri) && is_release(suite) && words.any(|word| word == "main")).then(|| uri.to_owned())
    })
}

fn deb822(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.split(|line| line.trim().is_empty()).find_map(|stanza| {
        if field(stanza, "enabled").is_some_and(|value| matches!(value.trim(), "no" | "false" | "0")) {
            return None;
        }
        let has = |name, wanted: fn(&str) -> bool| {
            field(stanza, name).is_some_and(|value| value.split_whitespace().any(wanted))
        };
        let fits = has("types", |word| word == "deb")
            && has("suites", is_release)
            && has("components", |word| word == "main");
        let uris = field(stanza, "uris")?;
        let uri = uris.split_whitespace().find(|uri| is_archive(uri))?;
        fits.then(|| uri.to_owned())
    })
}

/// The value of the field `name`, continuation lines included.
fn field(stanza: &[&str], name: &str) -> Option<String> {
    let mut lines = stanza
        .iter()
        .skip_while(|line| line.split_once(':').is_none_or(|(key, _)| !key.eq_ignore_ascii_case(name)));
    let mut value = lines.next()?.split_once(':')?.1.to_owned();
    for line in lines.take_while(|line| line.starts_with([' ', '\t'])) {
        value.push(' ');
        value.push_str(line.trim());
    }
    Some(value)
}

fn is_archive(uri: &str) -> bool {
    !uri.starts_with("cdrom:") && uri.contains(':') && !uri.contains("debian-security")
}

/// Whether `suite` is a Debian release by name. Derivatives have other names, and their archives no Debian
/// kernels; `-security`, `-updates` and the like live beside the main archive or elsewhere.
fn is_release(suite: &str) -> bool {
    matches!(
        suite,
        "bullseye"
            | "bookworm"
            | "trixie"
            | "forky"
            | "duke"
            | "sid"
            | "oldoldstable"
            | "oldstable"
            | "stable"
            | "testing"
            | "unstable"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> Option<String> {
        main_archive(&[(name.to_owned(), text.to_owned())])
    }

    #[test]
    fn the_archive_is_found_in_every_way_people_write_sources() {
        let cases = [
            ("sources.list", "deb http://a/debian trixie main\n", Some("http://a/debian")),
            ("sources.list", "# deb http://a/debian trixie main\n", None),
            ("sources.list", "deb-src http://a/debian trixie main\n", None),
            (
                "x.list",
                "deb [arch=amd64 signed-by=/k.gpg] https://b/ sid contrib main # x\n",
                Some("https://b/"),
            ),
            ("x.list", "deb http://c/debian-security trixie main\n", None),
            ("x.list", "deb http://c/ubuntu noble main\n", None),
            ("x.list", "deb http://c/debian trixie-updates main\n", None),
            ("x.list", "deb cdrom:[Debian]/ trixie main\n", None),
            (
                "a.sources",
                "Types: deb\nURIs: http://d/debian\nSuites: trixie trixie-updates\nComponents: main\n",
                Some("http://d/debian"),
            ),
            (
                "a.sources",
                "Types: deb\n# note\nURIs:\n http://e/debian\nSuites:\n bookworm\nComponents: contrib\n main\n",
                Some("http://e/debian"),
            ),
            (
                "a.sources",
                "Enabled: no\nTypes: deb\nURIs: http://d/debian\nSuites: trixie\nComponents: main\n",
                None,
            ),
            (
                "a.sources",
                "types: deb deb-src\nuris: mirror+file:/etc/apt/mirrors/debian.list\nsuites: stable\ncomponents: main\n",
                Some("mirror+file:/etc/apt/mirrors/debian.list"),
            ),
            (
                "a.sources",
                "Types: deb\nURIs: http://v/debian-security\nSuites: trixie-security\nComponents: main\n\nTypes: deb\nURIs: http://m/debian\nSuites: trixie\nComponents: main\n",
                Some("http://m/debian"),
            ),
            ("a.sources", ":::\n\n:", None),
        ];
        for (name, text, expected) in cases {
            assert_eq!(found(name, text).as_deref(), expected, "{name}: {text}");
        }
    }
}
