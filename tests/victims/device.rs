//! Character devices without state.

use std::fs::File;
use std::io::{Read, Write};

use crate::harness::{Stage, Victim};
use crate::regular::text;
use crate::sys::same;

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("device", device),
        Victim::refused("device-terminal", "terminal /dev/", terminal),
        Victim::refused("device-other", "character device /dev/", other),
    ]
}

fn device(stage: &mut Stage) -> Result<(), String> {
    let open = |name: &str| {
        let path = format!("/dev/{name}");
        File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(text(&path))
    };
    let (mut null, mut zero, mut full) = (open("null")?, open("zero")?, open("full")?);
    let mut random = [open("random")?, open("urandom")?];
    while stage.next()? {
        let mut bytes = [1; 16];
        same(
            "bytes of null",
            &null.read(&mut bytes).map_err(text("null"))?,
            &0,
        )?;
        null.write_all(&bytes).map_err(text("null"))?;
        zero.read_exact(&mut bytes).map_err(text("zero"))?;
        same("bytes of zero", &bytes, &[0; 16])?;
        let error = full.write(&bytes).map_err(|e| e.raw_os_error());
        same("writing to full", &error, &Err(Some(libc::ENOSPC)))?;
        for file in &mut random {
            file.read_exact(&mut bytes).map_err(text("random"))?;
            same("all zero", &(bytes == [0; 16]), &false)?;
        }
    }
    Ok(())
}

fn terminal(stage: &mut Stage) -> Result<(), String> {
    let master = File::options().read(true).write(true).open("/dev/ptmx");
    let master = master.map_err(text("/dev/ptmx"))?;
    while stage.next()? {
        master.metadata().map_err(text("stat"))?;
    }
    Ok(())
}

fn other(stage: &mut Stage) -> Result<(), String> {
    let device = File::open("/dev/kmsg").or_else(|_| File::open("/dev/loop-control"));
    let device = device.map_err(text("/dev/kmsg"))?;
    while stage.next()? {
        device.metadata().map_err(text("stat"))?;
    }
    Ok(())
}
