//! Targets that cannot be dumped.

use super::*;

#[test]
fn that_does_not_exist() -> Result {
    // The largest a kernel can give is 1 << 22.
    dump_is_refused(9_999_999, "no such process")
}

#[test]
fn that_is_a_kernel_thread() -> Result {
    let comm = common::icecore::lossy(Path::new("/proc/2/comm"));
    assert_eq!(
        comm, "kthreadd\n",
        "pid 2 is no kernel thread: run this in the host"
    );
    dump_is_refused(2, "kernel thread")
}

#[test]
fn that_is_a_zombie() -> Result {
    let mut child = io(Command::new("true").spawn())?;
    let stat = format!("/proc/{}/stat", child.id());
    common::wait::until("a zombie", common::wait::LIMIT, || {
        let stat = common::icecore::lossy(Path::new(&stat));
        Ok(stat.contains(") Z ").then_some(()))
    })?;
    let refused = dump_is_refused(child.id(), "has ended");
    io(child.wait())?;
    refused
}

#[test]
fn that_is_icecore_itself_or_its_parent() -> Result {
    // The parent is this very test.
    dump_is_refused(std::process::id(), "ancestor of icecore")?;
    let scratch = Scratch::new()?;
    let script = "exec \"$0\" dump --no-default-config -t $$ -D \"$1\"";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, common::icecore::program()])
        .arg(scratch.images());
    let output = io(shell.stdin(Stdio::null()).output())?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("icecore itself"),
        "{text}"
    );
    Ok(())
}

#[test]
fn that_is_a_thread() -> Result {
    let (told, tid) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let tid = rustix::thread::gettid().as_raw_pid().unsigned_abs();
        told.send(tid).is_ok() && ended.recv().is_err()
    });
    let tid = tid.recv().map_err(|e| e.to_string())?;
    let refused = dump_is_refused(tid, "is a thread of pid");
    drop(end);
    assert!(thread.join().unwrap_or(false));
    refused
}

#[test]
fn that_is_traced() -> Result {
    let target = sleeper()?;
    let pid = nix::unistd::Pid::from_raw(target.pid().cast_signed());
    let options = nix::sys::ptrace::Options::empty();
    nix::sys::ptrace::seize(pid, options).map_err(|e| e.to_string())?;
    dump_is_refused(target.pid(), "already traced by pid")
}

#[test]
fn that_is_a_32_bit_program() -> Result {
    let scratch = Scratch::new()?;
    let program = scratch.path().join("program");
    io(fs::write(&program, program_of_32_bits()))?;
    use std::os::unix::fs::PermissionsExt;
    io(fs::set_permissions(
        &program,
        fs::Permissions::from_mode(0o700),
    ))?;
    let mut command = Command::new("setsid");
    quiet(command.arg(&program));
    let target = started(Target::spawn(&mut command)?, "program")?;
    dump_is_refused(target.pid(), "32-bit")
}

/// An ELF file for the i386 that sleeps for ever: pause() in a loop.
fn program_of_32_bits() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let code = [0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7];
    let size = HEADERS + 9;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [2_u16, 3] {
        elf.extend(half.to_le_bytes());
    }
    for word in [1, BASE + HEADERS, 52, 0, 0] {
        elf.extend(word.to_le_bytes());
    }
    for half in [52_u16, 32, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for word in [1, 0, BASE, BASE, size, size, 5, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}
