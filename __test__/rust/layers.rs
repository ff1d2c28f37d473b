//! A file imports only from the layers to its left, and only `node` names napi.
//!
//! Reads the `use` lines and paths of every file in `src/`, so that a shortcut fails here and not in a review.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Left to right. Modules of one layer may use each other where the layer says so.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["units"],
    &["crew", "handle", "limits", "stats", "suballoc"],
    &["profile"],
    &["books"],
    &["abi"],
    &["sys"],
    &["backend"],
    &["device"],
    &["block"],
    &["memory"],
    &["pool"],
    &["replay"],
    &["body"],
    &["allocation"],
    &["manager", "open"],
    &["node"],
];

/// Pure data and arithmetic: no descriptor, no pointer, no binding.
const PURE: &[&str] = &["books", "limits", "profile", "replay", "stats", "suballoc"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(sources(&path)),
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
    files
}

/// The top-level module that a file belongs to: `backend/simulated.rs` is of `backend`.
fn module(src: &Path, file: &Path) -> String {
    let first = file.strip_prefix(src).unwrap().components().next().unwrap();
    Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned()
}

/// Code without comments and without its tests, which may reach anywhere.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end].lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Every `crate::name` in `code`, those inside `use crate::{a, b::c}` included.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for letter in list.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    name.push(letter);
                }
            }
            found.extend(name.split(',').filter_map(first_word));
        } else {
            found.extend(first_word(rest));
        }
    }
    found
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// What `module` may not import of `imported`, in words.
fn violation(module: &str, imported: &str) -> Option<String> {
    let (Some(own), Some(other)) = (rank(module), rank(imported)) else {
        return Some(format!("{module} or {imported} is in no layer"));
    };
    (module != imported && other >= own).then(|| format!("{module} may not import {imported}"))
}

#[test]
fn a_file_imports_only_from_its_left() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut violations = Vec::new();
    let mut edges = 0;
    for file in sources(&src) {
        let own = module(&src, &file);
        if own == "lib" {
            continue;
        }
        for imported in imports(&code(&file)) {
            edges += 1;
            violations.extend(violation(&own, &imported).map(|words| format!("{}: {words}", file.display())));
        }
    }
    assert!(edges > 20, "only {edges} imports were found: is this test still reading the right files?");
    assert_eq!(violations, Vec::<String>::new());
}

#[test]
fn only_the_binding_names_napi() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in sources(&src) {
        let words = code(&file);
        let named = words.contains("napi::") || words.contains("napi_");
        assert!(module(&src, &file) == "node" || !named, "{} names napi", file.display());
    }
}

#[test]
fn the_pure_layers_know_no_descriptor_and_no_pointer() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in sources(&src).iter().filter(|file| PURE.contains(&module(&src, file).as_str())) {
        let words = code(file);
        // What a module's root forbids is forbidden in all of it.
        let root = src.join(module(&src, file)).join("mod.rs");
        let forbidding = if root.exists() { code(&root) } else { code(file) };
        assert!(forbidding.contains("#![forbid(unsafe_code)]"), "{} does not forbid unsafe code", file.display());
        for word in ["std::os::fd", "libc::", "nix::", "*mut ", "*const ", "std::fs"] {
            assert!(!words.contains(word), "{} names {word}", file.display());
        }
    }
}

#[test]
fn a_violation_would_be_seen() {
    assert!(violation("sys", "backend").is_some());
    assert!(violation("stats", "limits").is_some(), "neighbours of one layer do not know each other");
    assert!(violation("sys", "somewhere").is_some());
    assert_eq!(violation("manager", "sys"), None);
    let found = imports("use crate::{error::{Error, Result}, units, node::api};\nlet x = crate::device::block::Block;");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["block", "error", "node", "units"]);
}
