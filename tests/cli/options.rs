//! Options: of later versions, contradictory, unknown, from default files.

use super::*;

fn refused(words: &[&str], text: &str) -> Result {
    let scratch = Scratch::new()?;
    let done = Icecore::new(scratch.path(), words[0])
        .args(&words[1..])
        .run()?;
    done.expect_failure(text).map(drop)
}

#[test]
fn of_later_versions_are_refused_by_name() -> Result {
    let later = [
        "--link-remap",
        "--parent=x",
        "--prev-images-dir=x",
        "--track-mem",
        "--compress=lz4",
        "--engine=x",
    ];
    for option in later {
        refused(
            &["dump", "-t", "1", "-D", "x", option],
            "is not supported yet",
        )?;
    }
    refused(
        &["restore", "-D", "x", "--pages=lazy"],
        "is not supported yet",
    )?;
    refused(&["pre-dump", "-t", "1"], "pre-dump is not supported yet")
}

#[test]
fn about_connections_are_refused_where_they_make_no_sense() -> Result {
    let dump = |option| ["dump", "-t", "1", "-D", "x", option];
    refused(&dump("--outside=x11=keep"), "there is no kind \"x11\"")?;
    refused(&dump("--outside=stay"), "there is no policy \"stay\"")?;
    refused(
        &dump("--external=mnt[/x]:y"),
        "external resources of type \"mnt\" are not supported",
    )?;
    refused(&dump("--keep-for=1w"), "not a duration")
}

#[test]
fn that_contradict_each_other_are_refused() -> Result {
    refused(
        &["dump", "-t", "1", "-D", "x", "-R", "-s"],
        "cannot be used with",
    )
}

#[test]
fn that_are_unknown_or_missing_are_errors() -> Result {
    refused(
        &["dump", "-t", "1", "-D", "x", "--frobnicate"],
        "--frobnicate",
    )?;
    refused(&["dump", "-t", "1"], "--images-dir")?;
    refused(&["dump", "-D", "x"], "--tree")?;
    refused(&["dump", "-t", "0", "-D", "x"], "0 is not in")?;
    refused(&["restore", "-D", "x", "--pids", "odd"], "odd")?;
    refused(&["frobnicate"], "frobnicate")
}

#[test]
fn in_a_default_file_count_unless_it_is_left_out() -> Result {
    let scratch = Scratch::new()?;
    let conf = scratch.path().join(".icecore/default.conf");
    io(fs::create_dir(scratch.path().join(".icecore")))?;
    io(fs::write(&conf, "# habits\ntrack-mem\npidfile x\n"))?;
    let run = |words: &[&str]| {
        let mut icecore = Command::new(common::icecore::program());
        icecore
            .args(words)
            .env("HOME", scratch.path())
            .stdin(Stdio::null());
        io(icecore.output()).map(|o| String::from_utf8_lossy(&o.stderr).into_owned())
    };
    let dump = ["dump", "-t", "9999999", "-D", "x"];
    let said = run(&dump)?;
    assert!(said.contains("--track-mem is not supported yet"), "{said}");
    let said = run(&[&dump[..], &["--no-default-config"]].concat())?;
    assert!(said.contains("no such process"), "{said}");
    io(fs::write(&conf, "gohst-limit 4M\n"))?;
    let said = run(&dump)?;
    assert!(
        said.contains("default.conf:1: there is no option gohst-limit"),
        "{said}"
    );
    Ok(())
}
