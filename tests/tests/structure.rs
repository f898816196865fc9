//! The house rules that a machine can check: who may depend on whom, and what may not stand in a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// PID 1 stays small and knowable: nothing else may be linked into it.
const INIT_MAY_USE: [&str; 5] = ["libc", "manifest", "modules", "nix", "sys"];

struct Package {
    folder: String,
    dependencies: BTreeSet<String>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// Packages of the workspace by name; ordinary dependencies only.
fn workspace() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--locked"])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let manifest = text(&package["manifest_path"]);
            let folder = Path::new(&manifest)
                .parent()
                .and_then(|folder| folder.strip_prefix(repository()).ok())
                .expect("a folder of the repository")
                .display()
                .to_string();
            let dependencies = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| text(&dependency["name"]))
                .collect();
            (text(&package["name"]), Package { folder, dependencies })
        })
        .collect()
}

/// The layer of a folder: `services/web` -> `services`.
fn layer(folder: &str) -> &str {
    folder.split('/').next().unwrap_or(folder)
}

#[test]
fn dependencies_point_from_services_to_protocols_and_libraries_only() {
    let packages = workspace();
    let mut wrong = Vec::new();
    for (name, package) in &packages {
        for dependency in &package.dependencies {
            let Some(used) = packages.get(dependency) else { continue };
            let allowed = match (layer(&package.folder), layer(&used.folder)) {
                // Protocols import nothing of ours.
                ("protocols", _) => false,
                ("lib", target) => target == "lib",
                ("services", "services") => package.folder == "services/bramble",
                ("services" | "image" | "qemu" | "tests", target) => {
                    matches!(target, "protocols" | "lib" | "image" | "qemu")
                }
                ("init", target) => target == "lib",
                _ => false,
            };
            let on_board = matches!(layer(&package.folder), "services" | "lib" | "init");
            let workstation_only = matches!(layer(&used.folder), "image" | "qemu" | "tests");
            if !allowed || (on_board && workstation_only) {
                wrong.push(format!("{name} ({}) uses {dependency} ({})", package.folder, used.folder));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn init_uses_what_the_short_list_says_and_nothing_else() {
    let init = workspace().remove("init").expect("init is a package");
    let allowed: BTreeSet<_> = INIT_MAY_USE.iter().map(|name| (*name).to_owned()).collect();
    let more: Vec<_> = init.dependencies.difference(&allowed).collect();
    assert!(more.is_empty(), "init may not use {more:?}");
}

#[test]
fn every_folder_is_named_as_its_crate() {
    for (name, package) in workspace() {
        let folder = package.folder.rsplit('/').next().unwrap_or_default();
        assert_eq!(folder, name, "{}", package.folder);
    }
}

/// Licences that let the image be passed on with nothing but their texts.
const LICENCES: [&str; 8] =
    ["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "Unicode-3.0", "Zlib"];

/// Whether an SPDX expression can be satisfied with [`LICENCES`].
fn is_free(expression: &str) -> bool {
    // "(A OR B) AND C" is the deepest there is; OR binds weaker than AND, as SPDX has it.
    let all = |part: &str| {
        part.split(" AND ").all(|licence| LICENCES.contains(&licence.trim_matches(['(', ')', ' '])))
    };
    match expression.split_once(") AND ") {
        Some((either, and)) => is_free(either.trim_start_matches('(')) && is_free(and),
        None => expression.replace('/', " OR ").split(" OR ").any(all),
    }
}

#[test]
fn everything_on_the_board_has_a_free_licence_and_no_c_in_it() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", "aarch64-unknown-linux-musl"])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let list = |value: &serde_json::Value| value.as_array().expect("a list").clone();
    let by_id = |value: &serde_json::Value| -> BTreeMap<String, serde_json::Value> {
        list(value).into_iter().map(|one| (one["id"].as_str().expect("an id").to_owned(), one)).collect()
    };
    let (packages, nodes) = (by_id(&metadata["packages"]), by_id(&metadata["resolve"]["nodes"]));
    let ours = |package: &serde_json::Value| {
        package["source"].is_null()
            && ["init", "netroot", "bramble"].iter().any(|name| package["name"] == *name)
    };
    let mut waiting: Vec<String> =
        packages.iter().filter(|(_, package)| ours(package)).map(|(id, _)| id.clone()).collect();
    let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
    while let Some(id) = waiting.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        let package = &packages[&id];
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_free(licence) || !package["links"].is_null() {
            wrong.push(format!("{}: licence {licence}, links {}", package["name"], package["links"]));
        }
        // Neither what builds nor what tests a package goes onto the board.
        let linked = |dependency: &&serde_json::Value| {
            list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null())
        };
        let dependencies = list(&nodes[&id]["deps"]);
        let names = dependencies.iter().filter(linked).filter_map(|one| one["pkg"].as_str());
        waiting.extend(names.map(str::to_owned));
    }
    assert!(seen.len() > 50, "only {} packages were looked at", seen.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_choice_of_licences_needs_one_of_them_to_be_free_and_a_sum_all() {
    for free in
        ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0", "ISC AND MIT"]
    {
        assert!(is_free(free), "{free}");
    }
    for other in ["none", "GPL-2.0-only", "MIT AND GPL-2.0-only", "(MIT OR Apache-2.0) AND GPL-3.0"] {
        assert!(!is_free(other), "{other}");
    }
}

/// Text files that git tracks, with their content.
fn sources() -> Vec<(String, String)> {
    let output =
        Command::new("git").args(["ls-files", "-z"]).current_dir(repository()).output().expect("git runs");
    String::from_utf8_lossy(&output.stdout)
        .split('\0')
        .filter_map(|name| Some((name.to_owned(), std::fs::read_to_string(repository().join(name)).ok()?)))
        .collect()
}

#[test]
fn unsafe_code_stands_in_lib_sys_alone() {
    let word = concat!("uns", "afe {");
    let offenders: Vec<_> = sources()
        .into_iter()
        .filter(|(name, text)| name.ends_with(".rs") && !name.starts_with("lib/sys/") && text.contains(word))
        .map(|(name, _)| name)
        .collect();
    assert!(offenders.is_empty(), "{offenders:?}");
}

#[test]
fn no_large_file_and_no_binary_is_kept_in_the_repository() {
    let output =
        Command::new("git").args(["ls-files", "-z"]).current_dir(repository()).output().expect("git runs");
    for name in String::from_utf8_lossy(&output.stdout).split('\0').filter(|name| !name.is_empty()) {
        let Ok(metadata) = std::fs::symlink_metadata(repository().join(name)) else { continue };
        assert!(metadata.len() <= 512 * 1024, "{name} has {} bytes", metadata.len());
    }
}
