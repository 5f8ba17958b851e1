//! Directories that cannot be written to, or hold no image.

use super::*;

#[test]
fn that_is_not_empty() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    io(fs::create_dir(scratch.images()))?;
    io(fs::write(scratch.images().join("letter.txt"), "dear"))?;
    let done = scratch.dump(target.pid()).run()?;
    done.expect_failure("not empty: letter.txt")?;
    assert_eq!(
        io(fs::read_to_string(scratch.images().join("letter.txt")))?,
        "dear"
    );
    target.alive()
}

#[test]
fn that_holds_an_image() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    scratch.dump(target.pid()).arg("-R").succeed()?;
    let manifest = io(fs::read(scratch.images().join("manifest")))?;
    let again = scratch.dump(target.pid()).arg("-R").run()?;
    again.expect_failure("there is an image already")?;
    assert_eq!(io(fs::read(scratch.images().join("manifest")))?, manifest);
    target.alive()
}

#[test]
fn whose_parent_is_missing() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    let pid = target.pid().to_string();
    let dump = Icecore::new(scratch.path(), "dump").args(["-t", &pid]);
    let done = dump.arg("-D").arg(scratch.path().join("no/such")).run()?;
    done.expect_failure("create directory")?;
    target.alive()
}

#[test]
fn that_is_a_file() -> Result {
    let (scratch, mut target) = (Scratch::new()?, sleeper()?);
    io(fs::write(scratch.images(), ""))?;
    scratch
        .dump(target.pid())
        .run()?
        .expect_failure("error: ")?;
    target.alive()
}

#[test]
fn without_an_image() -> Result {
    let scratch = Scratch::new()?;
    scratch.restore().run()?.expect_failure("read image")?;
    io(fs::create_dir(scratch.images()))?;
    scratch.restore().run()?.expect_failure("no manifest")?;
    Ok(())
}
