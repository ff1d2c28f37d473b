//! Checks the imports between the rooms of `src/`, and that no files form a circle.
//!
//! A room is a folder of `src/`; the files beside the folders are one room, `root`. An import counts between its two
//! files: a name that a `mod.rs` re-exports counts for the file that defines it. This prints the numbers:
//! `cargo test --no-default-features --test layers -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Left to right: a room imports only from those before it. Rooms of one line do not import each other.
const ROOMS: &[&[&str]] = &[
    &["root"],
    &["abi", "arena", "profile", "suballoc"],
    &["accounting"],
    &["sys"],
    &["backend", "session"],
    &["device"],
    &["pool"],
    &["allocation"],
    &["manager"],
    &["node"],
];

/// Rooms and files of pure data and arithmetic: no descriptor, no pointer, no binding.
const PURE: &[&str] = &["accounting", "arena", "pool::chunk_set", "pool::replay", "profile", "suballoc"];

/// A module's path below the crate: `backend::simulated`, `""` for `lib.rs`.
type Name = String;

struct Source {
    path: PathBuf,
    /// Code without comments and without its tests, which may import from any room.
    code: String,
}

/// Every file of `src/` by its module's name.
fn sources() -> BTreeMap<Name, Source> {
    fn visit(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => visit(&path, found),
                false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
                false => {}
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    visit(&src, &mut files);
    let module = |path: PathBuf| {
        let relative = path.strip_prefix(&src).unwrap().with_extension("");
        let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
        let name = parts.join("::").trim_end_matches("mod").trim_end_matches("::").to_owned();
        let name = if name == "lib" { String::new() } else { name };
        let code = without_comments_and_tests(&fs::read_to_string(&path).unwrap());
        (name, Source { path, code })
    };
    files.into_iter().map(module).collect()
}

fn without_comments_and_tests(text: &str) -> String {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end].lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The room of a module.
fn room(modules: &BTreeSet<Name>, module: &str) -> String {
    let first = module.split("::").next().unwrap();
    let is_folder = modules.iter().any(|other| other.starts_with(&format!("{first}::")));
    if is_folder { first } else { "root" }.to_owned()
}

/// Splits a use tree, `a::{b, c::{d, e as f}}`, into its paths; drops renames.
fn expand(tree: &str, prefix: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap().trim();
        if !path.is_empty() {
            found.push(format!("{prefix}{path}").trim_end_matches("::self").to_owned());
        }
        return;
    };
    let prefix = format!("{prefix}{}", &tree[..open]);
    let (mut depth, mut start) = (0, open + 1);
    for (at, letter) in tree.char_indices().skip_while(|(at, _)| *at <= open) {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                expand(&tree[start..at], &prefix, found);
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Paths that `code` re-exports, and those that it uses itself.
fn paths(code: &str) -> (Vec<String>, Vec<String>) {
    let (mut exported, mut named) = (Vec::new(), Vec::new());
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        let line_start = |at: usize| statement[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let uses = statement.rmatch_indices("use ").map(|(at, _)| at).find(|at| {
            let before = statement[line_start(*at)..*at].trim();
            before.is_empty() || (before.starts_with("pub") && !before.contains(' '))
        });
        let Some(at) = uses else {
            rest.push_str(statement);
            continue;
        };
        rest.push_str(&statement[..line_start(at)]);
        let public = statement[line_start(at)..at].trim().starts_with("pub");
        let tree = statement[at + "use ".len()..].trim_end_matches(';').replace('\n', " ");
        expand(&tree, "", if public { &mut exported } else { &mut named });
    }
    for root in ["crate::", "super::"] {
        for (at, _) in rest.match_indices(root) {
            let inside = rest[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
            let path: String = rest[at..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
            if !inside {
                named.push(path.trim_end_matches(':').to_owned());
            }
        }
    }
    let words: BTreeSet<&str> = rest.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let used = |path: &&String| path.rsplit("::").next().is_some_and(|name| words.contains(name));
    named.extend(exported.iter().filter(used).cloned());
    (exported, named)
}

fn join(parent: &str, child: &str) -> Name {
    if parent.is_empty() {
        child.to_owned()
    } else {
        format!("{parent}::{child}")
    }
}

/// Resolves `path` in `module` to a path from the crate. Returns `None` for a path to another crate.
fn absolute(modules: &BTreeSet<Name>, module: &str, path: &str) -> Option<String> {
    let (first, rest) = path.split_once("::").unwrap_or((path, ""));
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    match first {
        "crate" => Some(rest.to_owned()),
        "self" => Some(join(module, rest)),
        "super" if rest.starts_with("super") => absolute(modules, parent, rest),
        "super" => Some(join(parent, rest)),
        child if modules.contains(&join(module, child)) => Some(join(module, path)),
        _ => None,
    }
}

/// Returns the module that defines the item at `path`, from the crate; follows re-exports.
fn definer(modules: &BTreeSet<Name>, exports: &BTreeMap<Name, Vec<String>>, path: &str) -> Name {
    let mut module = String::new();
    let mut rest = path;
    loop {
        let (first, after) = rest.split_once("::").unwrap_or((rest, ""));
        let next = join(&module, first);
        if first.is_empty() || !modules.contains(&next) {
            let exported = exports.get(&module).into_iter().flatten();
            let mut meant = exported.filter(|export| export.rsplit("::").next() == Some(first));
            return match meant.next() {
                Some(export) if export != path => definer(modules, exports, export),
                _ => module,
            };
        }
        (module, rest) = (next, after);
    }
}

/// Returns the imports of each file.
fn imports(sources: &BTreeMap<Name, String>) -> BTreeMap<Name, BTreeSet<Name>> {
    let modules: BTreeSet<Name> = sources.keys().cloned().collect();
    let parsed: BTreeMap<_, _> = sources.iter().map(|(module, code)| (module.clone(), paths(code))).collect();
    let resolve = |module: &str, paths: &[String]| -> Vec<String> {
        paths.iter().filter_map(|path| absolute(&modules, module, path)).collect()
    };
    let exports = parsed.iter().map(|(module, (exported, _))| (module.clone(), resolve(module, exported))).collect();
    let of = |(module, (_, named)): (&Name, &(Vec<String>, Vec<String>))| {
        let targets = resolve(module, named).into_iter().map(|path| definer(&modules, &exports, &path));
        (module.clone(), targets.filter(|target| target != module && !target.is_empty()).collect())
    };
    parsed.iter().filter(|(module, _)| !module.is_empty()).map(of).collect()
}

/// Groups of files that import each other, directly or through others.
fn circles(imports: &BTreeMap<Name, BTreeSet<Name>>) -> Vec<BTreeSet<Name>> {
    let reached = |from: &Name| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(module) = open.pop() {
            for next in imports.get(module).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let reach: BTreeMap<_, _> = imports.keys().map(|module| (module, reached(module))).collect();
    let together = |a: &Name| -> BTreeSet<Name> {
        reach[a].iter().filter(|b| reach.get(b).is_some_and(|back| back.contains(a))).cloned().collect()
    };
    let groups: BTreeSet<_> = imports.keys().map(together).filter(|group| !group.is_empty()).collect();
    groups.into_iter().collect()
}

/// Returns the reason why room `own` may not import from room `other`, if there is one.
fn violation(own: &str, other: &str) -> Option<String> {
    let place = |room: &str| ROOMS.iter().position(|line| line.contains(&room));
    let (Some(from), Some(to)) = (place(own), place(other)) else {
        return Some(format!("{own} or {other} has no place in ROOMS"));
    };
    (own != other && to >= from).then(|| format!("{own} may not import from {other}"))
}

fn code_of_src() -> BTreeMap<Name, String> {
    sources().into_iter().map(|(module, source)| (module, source.code)).collect()
}

#[test]
fn a_room_imports_only_from_its_left_and_files_make_no_circle() {
    let code = code_of_src();
    let modules: BTreeSet<Name> = code.keys().cloned().collect();
    let imports = imports(&code);
    let mut arrows = BTreeSet::new();
    let mut back = Vec::new();
    for (module, targets) in &imports {
        let own = room(&modules, module);
        for target in targets {
            let other = room(&modules, target);
            back.extend(violation(&own, &other).map(|words| format!("{module}: {words} ({target})")));
            arrows.insert((own.clone(), other));
        }
    }
    let circles = circles(&imports);
    let edges: usize = imports.values().map(BTreeSet::len).sum();
    arrows.retain(|(from, to)| from != to);
    let rooms: BTreeSet<_> = modules.iter().filter(|module| !module.is_empty()).map(|m| room(&modules, m)).collect();
    println!(
        "{} files in {} rooms; {edges} imports from file to file, {} from room to room; back edges: {}; circles: {}",
        imports.len(),
        rooms.len(),
        arrows.len(),
        back.len(),
        circles.len()
    );
    for circle in &circles {
        println!("circle: {}", circle.iter().cloned().collect::<Vec<_>>().join(", "));
    }
    assert!(edges > 100, "only {edges} imports were found: is this test still reading the right files?");
    assert_eq!(rooms, ROOMS.concat().into_iter().map(str::to_owned).collect());
    assert_eq!(back, Vec::<String>::new());
    assert_eq!(circles, Vec::<BTreeSet<Name>>::new());
}

#[test]
fn only_the_binding_names_napi() {
    for (module, code) in code_of_src() {
        let named = code.contains("napi::") || code.contains("napi_");
        assert!(module.split("::").next() == Some("node") || !named, "{module} names napi");
    }
}

#[test]
fn the_pure_layers_know_no_descriptor_and_no_pointer() {
    let sources = sources();
    let pure = |module: &str| PURE.iter().find(|pure| module == **pure || module.starts_with(&format!("{pure}::")));
    for (module, source) in &sources {
        let Some(root) = pure(module) else { continue };
        // A room's mod.rs forbids `unsafe` for the whole room.
        let forbids = |name: &str| sources[name].code.contains("#![forbid(unsafe_code)]");
        assert!(forbids(root) || forbids(module), "{} does not forbid unsafe code", source.path.display());
        for word in ["std::os::fd", "libc::", "nix::", "*mut ", "*const ", "std::fs"] {
            assert!(!source.code.contains(word), "{} names {word}", source.path.display());
        }
    }
}

#[test]
fn the_files_with_unsafe_code_are_those_of_safety_md() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/design/safety.md")).unwrap();
    let section = page.split_once("## 5. Unsafe code").unwrap().1.split_once("\n## ").unwrap().0;
    let mut listed = BTreeSet::new();
    // Rows: | `room/` | `file`, `file` | purpose |
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<Vec<_>> = row.split('|').map(|cell| cell.split('`').skip(1).step_by(2).collect()).collect();
        listed.extend(cells[2].iter().map(|file| root.join("src").join(cells[1][0]).join(file)));
    }
    let sources = sources();
    let with_unsafe = sources.values().filter(|source| source.code.contains("allow(unsafe_code)"));
    assert_eq!(listed, with_unsafe.map(|source| source.path.clone()).collect());
}

#[test]
fn the_checks_find_violations() {
    assert!(violation("sys", "backend").is_some());
    assert!(violation("suballoc", "profile").is_some(), "neighbours of one line do not know each other");
    assert!(violation("sys", "somewhere").is_some());
    assert_eq!(violation("manager", "sys"), None);

    let code = |text: &str| without_comments_and_tests(text);
    let files = [
        ("", "pub mod error; pub mod pool; pub mod sys;"),
        ("error", ""),
        ("pool", "mod chunk;\nmod growth;\n\npub use chunk::Chunk;\nuse growth::{Growth as G,\n    Step};\n"),
        ("pool::chunk", "use crate::{error::{Error, Result}, sys};\n// use super::growth::Commented;"),
        ("pool::growth", "use super::Chunk;\nlet x = super::Pool::new();\n#[cfg(test)]\nuse crate::manager::Any;"),
        ("sys", "pub(crate) fn f(x: crate::pool::Chunk) {}"),
    ];
    let files = files.into_iter().map(|(name, text)| (name.to_owned(), code(text))).collect();
    let imports = imports(&files);
    let of = |module: &str| imports[module].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("pool::chunk"), ["error", "sys"]);
    assert_eq!(of("pool::growth"), ["pool", "pool::chunk"], "a re-export counts for the file that defines it");
    assert_eq!(of("pool"), ["pool::growth"], "a re-export alone is no import");
    assert_eq!(of("sys"), ["pool::chunk"]);
    let circles: Vec<Vec<_>> = circles(&imports).into_iter().map(|circle| circle.into_iter().collect()).collect();
    assert_eq!(circles, [["pool", "pool::growth"], ["pool::chunk", "sys"]]);
}
