//! Files below `/proc` and `/sys`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;

use crate::harness::{Stage, Victim};
use crate::regular::{open_at, text};
use crate::sys::{same, tid};

pub(crate) fn victims() -> Vec<Victim> {
    vec![
        Victim::new("proc-file", proc_file),
        Victim::refused("proc-file-of-another", "is about pid 1 (", another),
    ]
}

/// Of the task, of its threads, of the machine.
fn proc_file(stage: &mut Stage) -> Result<(), String> {
    let mut status = File::open("/proc/self/status").map_err(text("status"))?;
    let mut name = [0; 5];
    status.read_exact(&mut name).map_err(text("read"))?;
    let own = open_at("/proc/self/".as_ref(), OFlags::RDONLY | OFlags::DIRECTORY)?;
    let comm = format!("/proc/self/task/{}/comm", tid());
    let comm = File::open(comm).map_err(text("comm"))?;
    let (asked, answers) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel());
    let (ask, answer) = (asked.1, answers.0);
    std::thread::spawn(move || {
        let _ = answer.send(tid());
        let _ = ask.recv();
    });
    let thread = answers.1.recv().map_err(text("thread"))?;
    let thread = File::open(format!("/proc/self/task/{thread}/stat")).map_err(text("stat"))?;
    let memory = File::open("/proc/meminfo").map_err(text("meminfo"))?;
    let sys = File::open("/sys/kernel/mm/transparent_hugepage/enabled").map_err(text("sys"))?;
    while stage.next()? {
        same(
            "position",
            &status.stream_position().map_err(text("tell"))?,
            &5,
        )?;
        let mut all = String::new();
        status.rewind().map_err(text("rewind"))?;
        status.read_to_string(&mut all).map_err(text("read"))?;
        let pid = std::process::id();
        same(
            "its own pid",
            &all.contains(&format!("\nPid:\t{pid}\n")),
            &true,
        )?;
        status.seek(SeekFrom::Start(5)).map_err(text("seek"))?;
        let at = rustix::fs::openat(&own, "stat", OFlags::RDONLY, rustix::fs::Mode::empty());
        at.map_err(text("stat below /proc/self"))?;
        let mut bytes = [0; 4];
        for file in [&comm, &thread, &memory, &sys] {
            file.read_at(&mut bytes, 0).map_err(text("read"))?;
            same("contents", &(bytes == [0; 4]), &false)?;
        }
    }
    drop(asked.0);
    Ok(())
}

fn another(stage: &mut Stage) -> Result<(), String> {
    let file = File::open("/proc/1/status").map_err(text("status"))?;
    while stage.next()? {
        file.metadata().map_err(text("stat"))?;
    }
    Ok(())
}
