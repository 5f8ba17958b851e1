//! Images from the command line: what inspect and verify show, and the one
//! clear sentence for each way an image can be none.

#![allow(clippy::print_stdout)] // a skipped test says why

#[path = "../images/tests/sample/mod.rs"]
mod sample;

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::icecore::Icecore;
use common::target::Target;
use icecore_images::{ImageWriter, WriteError};
use serde_json::Value;
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The subcommands that read an image.
const READERS: [&str; 2] = ["inspect", "verify"];

/// A sample image, and room beside it.
fn image() -> Result<(TempDir, PathBuf), std::io::Error> {
    let base = tempfile::tempdir()?;
    let dir = base.path().join("image");
    sample::write(&dir);
    Ok((base, dir))
}

fn icecore(base: &TempDir, subcommand: &str, dir: &Path) -> Icecore {
    Icecore::new(base.path(), subcommand).arg("-D").arg(dir)
}

/// Every reader fails with this sentence and this help, and says nothing else.
fn all_say(base: &TempDir, dir: &Path, sentence: &str, help: &str) -> Outcome {
    let shown = dir.display().to_string();
    let expected = format!("error: {sentence}\nhelp: {help}\n").replace("DIR", &shown);
    for reader in READERS {
        let failed = icecore(base, reader, dir).run()?;
        let failed = failed.expect_failure("error: ")?;
        assert_eq!(failed.stderr, expected, "{reader}");
        assert_eq!(failed.stdout, "", "{reader}");
    }
    Ok(())
}

const DAMAGED: &str =
    "the image is damaged: take it from a copy; `icecore verify` lists what is wrong";

#[test]
fn inspect_shows_people_what_is_there() -> Outcome {
    let (base, dir) = image()?;
    let shown = icecore(&base, "inspect", &dir).succeed()?.stdout;
    let expected = include_str!("golden/inspect.txt");
    let masked: Vec<String> = shown.lines().map(|line| mask(line, &dir)).collect();
    let shown = masked.join("\n") + "\n";
    if std::env::var_os("ICECORE_BLESS").is_some() {
        fs::write("tests/golden/inspect.txt", &shown)?;
    }
    assert_eq!(shown, expected, "ICECORE_BLESS=1 accepts what is shown");
    Ok(())
}

/// What differs from run to run, or with every field added to the format.
fn mask(line: &str, dir: &Path) -> String {
    match (line.split_once(", id "), line.split_once("of pages, ")) {
        (Some((start, _)), _) => format!("{start}, id ID"),
        (_, Some(_)) => "  size     SIZE".to_owned(),
        _ => line.replace(&dir.display().to_string(), "DIR"),
    }
}

#[test]
fn inspect_tells_programs_every_field() -> Outcome {
    let (base, dir) = image()?;
    let shown = icecore(&base, "inspect", &dir).arg("--json").succeed()?;
    let value: Value = serde_json::from_str(&shown.stdout)?;
    assert_eq!(value["ok"], true);
    assert_eq!(value["format"], "1.0");
    let checkpoint = &value["checkpoint"];
    assert_eq!(checkpoint["tasks"][0]["threads"][1]["tid"], 1235);
    assert_eq!(checkpoint["mms"][0]["vmas"][0]["start"], 0x40_0000);
    assert_eq!(checkpoint["mms"][0]["fields"]["auxv"], "00".repeat(16));
    assert_eq!(checkpoint["ghosts"][0]["path"], "/tmp/gone");
    let expected = serde_json::to_value(sample::checkpoint())?;
    assert_eq!(*checkpoint, expected);
    Ok(())
}

#[test]
fn verify_says_what_is_sound() -> Outcome {
    let (base, dir) = image()?;
    let verified = icecore(&base, "verify", &dir).succeed()?;
    assert!(verified.stdout.contains("is sound: 3 files, "));
    let verified = icecore(&base, "verify", &dir).arg("--json").succeed()?;
    let value: Value = serde_json::from_str(&verified.stdout)?;
    assert_eq!(value["files"], 3);
    Ok(())
}

#[test]
fn verify_lists_all_damage_at_once() -> Outcome {
    let base = tempfile::tempdir()?;
    let dir = base.path().join("image");
    let chunk = icecore_images::pages::CHUNK_SIZE as usize;
    let mut bytes = vec![7; 3 * chunk];
    let mut checkpoint = sample::checkpoint();
    checkpoint.page_files = vec![sample::page_file(&bytes)];
    sample::write_as(&dir, &checkpoint, &bytes);
    bytes[5] = 0;
    bytes[2 * chunk + 5] = 0;
    fs::write(dir.join("pages-0"), bytes)?;

    let failed = icecore(&base, "verify", &dir).run()?;
    let failed = failed.expect_failure("2 places damaged")?;
    let lines: Vec<&str> = failed.stderr.lines().collect();
    assert_eq!(lines.len(), 4, "{}", failed.stderr);
    assert!(lines[1].ends_with("pages-0: bytes 0 to 1048576: checksum does not match"));
    assert!(lines[2].ends_with("pages-0: bytes 2097152 to 3145728: checksum does not match"));
    assert!(lines[3].starts_with("help: "));

    let failed = icecore(&base, "verify", &dir).arg("--json").run()?;
    let value: Value = serde_json::from_str(&failed.stdout)?;
    assert_eq!(value["ok"], false);
    assert_eq!(value["error"]["items"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[test]
fn a_missing_directory() -> Outcome {
    let base = tempfile::tempdir()?;
    all_say(
        &base,
        &base.path().join("nowhere"),
        "read image DIR: No such file or directory (os error 2)",
        "give the directory that the dump wrote",
    )
}

#[test]
fn a_directory_without_a_manifest() -> Outcome {
    let (base, dir) = image()?;
    fs::remove_file(dir.join("manifest"))?;
    all_say(
        &base,
        &dir,
        "read image DIR: no manifest, so this is no complete image",
        "a dump writes the manifest last: this one failed, was interrupted, or is not finished; \
         dump again, or give another directory",
    )
}

#[test]
fn an_image_of_another_version() -> Outcome {
    let (base, dir) = image()?;
    patch(&dir.join("manifest"), 8, &9_u16.to_le_bytes())?;
    all_say(
        &base,
        &dir,
        "read DIR/manifest: image format 9.0 is not supported (this icecore reads 1.x)",
        "restore it with the icecore that made it, or dump again with this one",
    )
}

#[test]
fn an_image_of_another_architecture() -> Outcome {
    let (base, dir) = image()?;
    patch(&dir.join("manifest"), 14, &183_u16.to_le_bytes())?;
    all_say(
        &base,
        &dir,
        "read DIR/manifest: made on aarch64, this icecore restores x86_64",
        "restore it on such a machine",
    )
}

#[test]
fn files_of_two_images() -> Outcome {
    let (base, dir) = image()?;
    let other = base.path().join("other");
    sample::write(&other);
    fs::copy(other.join("objects"), dir.join("objects"))?;
    all_say(
        &base,
        &dir,
        "read DIR/objects: belongs to another image",
        "files of two images were mixed; put back the file this image was made with",
    )
}

#[test]
fn a_truncated_page_file() -> Outcome {
    let (base, dir) = image()?;
    fs::File::options()
        .write(true)
        .open(dir.join("pages-0"))?
        .set_len(100)?;
    all_say(
        &base,
        &dir,
        "read DIR/pages-0: 100 bytes long, the manifest says 16384",
        DAMAGED,
    )
}

#[test]
fn a_damaged_objects_file() -> Outcome {
    let (base, dir) = image()?;
    patch(&dir.join("objects"), 100, b"damage")?;
    all_say(
        &base,
        &dir,
        "read DIR/objects: checksum does not match: the file is damaged",
        DAMAGED,
    )
}

#[test]
fn a_fifo_in_place_of_a_file() -> Outcome {
    let (base, dir) = image()?;
    let path = dir.join("objects");
    fs::remove_file(&path)?;
    let made = Command::new("mkfifo").arg(&path).status()?;
    assert!(made.success());
    all_say(&base, &dir, "read DIR/objects: not a regular file", DAMAGED)
}

#[test]
fn a_directory_one_may_not_read() -> Outcome {
    let base = tempfile::tempdir()?;
    let dir = base.path().join("image");
    sample::write(&dir);
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755))?;
    let failed = as_nobody(&["verify", &dir.display().to_string()])?;
    let expected = format!(
        "error: read image {}: Permission denied (os error 13)\n\
         help: images are readable by their owner only: run as that user or as root\n",
        dir.display()
    );
    assert_eq!(failed, expected);
    Ok(())
}

/// A file system of its own for a test, of a few KiB.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None`, said aloud, where file systems cannot be mounted.
    fn of(size: &str) -> Result<Option<Self>, std::io::Error> {
        let dir = tempfile::tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        if mount.arg(dir.path()).status()?.success() {
            return Ok(Some(Self(dir)));
        }
        println!("skipped: file systems cannot be mounted here");
        Ok(None)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_dump_that_has_no_room_leaves_nothing_and_no_harm() -> Outcome {
    let Some(disk) = SmallDisk::of("64k")? else {
        return Ok(());
    };
    let base = tempfile::tempdir()?;
    let mut target = Target::sleeper()?;

    let image = disk.0.path().join("image");
    let pid = target.pid().to_string();
    let dump = Icecore::new(base.path(), "dump").args(["-t", &pid]);
    let failed = dump.arg("-D").arg(&image).run()?;
    let failed = failed.expect_failure("has no room for the image: ")?;
    let help = "help: free space there, or give another directory\n";
    assert!(failed.stderr.ends_with(help), "{}", failed.stderr);
    assert_eq!(fs::read_dir(disk.0.path())?.count(), 0);
    target.alive()?;
    Ok(())
}

/// Where nobody could know beforehand, and at every step of writing: another
/// page of disk each time, until there is enough.
#[test]
fn a_disk_that_fills_up_leaves_nothing() -> Outcome {
    let mut full = 0;
    for pages in 1.. {
        let Some(disk) = SmallDisk::of(&format!("{}k", pages * 4))? else {
            return Ok(());
        };
        let dir = disk.0.path().join("image");
        let written = write_sample(&dir);
        match written {
            Ok(()) => break,
            Err(WriteError::Io { what, source, .. }) => {
                assert_eq!(source.kind(), std::io::ErrorKind::StorageFull, "{what}");
                full += 1;
            }
            Err(e) => return Err(e.into()),
        }
        assert_eq!(fs::read_dir(disk.0.path())?.count(), 0, "{pages} pages");
    }
    assert!(full > 2, "only {full} of these disks were full");
    Ok(())
}

fn write_sample(dir: &Path) -> Result<(), WriteError> {
    let mut writer = ImageWriter::create(dir)?;
    let mut file = writer.page_file(0)?;
    let written = file.write_all(&sample::page_bytes());
    written.map_err(|source| WriteError::Io {
        what: "write",
        path: dir.join("pages-0"),
        source,
    })?;
    writer.commit(&sample::checkpoint()).map(drop)
}

/// What icecore says on stderr when another user than the tests' runs it.
fn as_nobody(args: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    use std::os::unix::process::CommandExt;
    // The program under test may lie where nobody may look.
    let room = tempfile::tempdir()?;
    fs::set_permissions(room.path(), fs::Permissions::from_mode(0o755))?;
    let program = room.path().join("icecore");
    fs::copy(common::icecore::program(), &program)?;
    let output = Command::new(program)
        .args(args)
        .arg("--no-default-config")
        .uid(65534)
        .gid(65534)
        .output()?;
    assert!(!output.status.success());
    Ok(String::from_utf8(output.stderr)?)
}

fn patch(path: &Path, at: usize, bytes: &[u8]) -> Result<(), std::io::Error> {
    let mut contents = fs::read(path)?;
    contents[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(path, contents)
}
