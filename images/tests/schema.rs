//! `docs/format-types.md` lists every type that a section encodes, field by
//! field. It is made from the sources here, so that a change of layout shows up
//! as a change of the documented format.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// A `pub struct` or `pub enum` with its fields or variants.
#[derive(Debug, Default)]
struct Type {
    name: String,
    doc: String,
    rows: Vec<Row>,
}

#[derive(Debug, Default)]
struct Row {
    what: String,
    doc: String,
}

const HEADING: &str = "# The types of the image format\n\n\
    Generated from `images/src/` by `images/tests/schema.rs`; fields in the order in which they \
    are encoded, variants counted from 0. [format.md](format.md) says how.\n";

#[test]
fn the_documented_types_are_those_of_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("../docs/format-types.md");
    let text = document(&root.join("src"));
    if std::env::var_os("ICECORE_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let documented = fs::read_to_string(path).unwrap();
    assert_eq!(
        documented, text,
        "docs/format-types.md is not what the sources say: ICECORE_BLESS=1 cargo test -p \
         icecore-images writes it anew (a change of fields or variants is a change of the \
         format: docs/format.md says what that takes)"
    );
}

fn document(sources: &Path) -> String {
    let mut names: Vec<_> = fs::read_dir(sources)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    names.sort();
    let mut text = HEADING.to_owned();
    for path in names {
        let types = types_in(&fs::read_to_string(&path).unwrap());
        if types.is_empty() {
            continue;
        }
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        writeln!(text, "\n## {stem}").unwrap();
        types.iter().for_each(|t| show(&mut text, t));
    }
    text
}

fn show(text: &mut String, t: &Type) {
    writeln!(text, "\n**{}**: {}\n", t.name, t.doc).unwrap();
    writeln!(text, "| | |\n|---|---|").unwrap();
    for row in &t.rows {
        writeln!(text, "| `{}` | {} |", row.what, row.doc).unwrap();
    }
}

/// The types of a file that are serialized. The sources are formatted by
/// rustfmt, which is all the grammar this needs.
fn types_in(source: &str) -> Vec<Type> {
    let mut types = Vec::new();
    let mut doc = String::new();
    let mut encoded = false;
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if let Some(words) = line.strip_prefix("/// ") {
            doc = doc + words + " ";
        } else if line.starts_with("#[") || line.starts_with("    Debug") {
            encoded |= line.contains("Serialize");
        } else if let Some(name) = type_name(line) {
            if encoded && line.ends_with('{') {
                types.push(Type {
                    name: name.to_owned(),
                    doc: doc.trim().to_owned(),
                    rows: rows(&mut lines, line.starts_with("pub enum")),
                });
            }
            (doc, encoded) = (String::new(), false);
        } else if line.is_empty() {
            (doc, encoded) = (String::new(), false);
        }
    }
    types
}

fn type_name(line: &str) -> Option<&str> {
    let rest = line
        .strip_prefix("pub struct ")
        .or_else(|| line.strip_prefix("pub enum "))?;
    rest.split([' ', '(', '{', ';']).next()
}

/// Fields or variants up to the closing brace.
fn rows<'a>(lines: &mut impl Iterator<Item = &'a str>, variants: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut doc = String::new();
    let mut place = 0;
    for line in lines.take_while(|line| *line != "}") {
        let (depth, line) = ((line.len() - line.trim_start().len()) / 4, line.trim());
        if let Some(words) = line.strip_prefix("/// ") {
            doc = doc + words + " ";
        } else if !line.is_empty() && !line.starts_with("#[") && !line.starts_with('}') {
            let line = line.trim_end_matches([',', '{', ' ']);
            let line = line.trim_start_matches("pub ");
            let what = match (variants, depth) {
                (true, 1) => {
                    place += 1;
                    format!("{} {line}", place - 1)
                }
                (true, _) => format!("… {line}"),
                (false, _) => line.to_owned(),
            };
            let doc = std::mem::take(&mut doc).trim().replace('|', "\\|");
            rows.push(Row { what, doc });
        }
    }
    rows
}
