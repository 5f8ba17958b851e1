//! The command line from outside: bad input, each refused with one clear
//! sentence and what to do; what scripts and programs rely on.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::icecore::{Finished, Icecore};
use common::target::Target;
use tempfile::TempDir;

type Result<T = ()> = std::result::Result<T, String>;

/// A directory for one test.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = TempDir::with_prefix("icecore-cli-").map_err(|e| e.to_string())?;
        Ok(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn images(&self) -> PathBuf {
        self.path().join("image")
    }

    fn dump(&self, pid: u32) -> Icecore {
        let dump = Icecore::new(self.path(), "dump").args(["-t", &pid.to_string()]);
        dump.arg("-D").arg(self.images())
    }

    fn restore(&self) -> Icecore {
        Icecore::new(self.path(), "restore")
            .arg("-D")
            .arg(self.images())
    }
}

fn io<T>(result: std::io::Result<T>) -> Result<T> {
    result.map_err(|e| e.to_string())
}

/// A process that sleeps, in a session of its own.
fn sleeper() -> Result<Target> {
    let mut command = Command::new("setsid");
    command.args(["sleep", "300"]);
    quiet(&mut command);
    started(Target::spawn(&mut command)?, "sleep")
}

/// The target, once it has become the program called `name`.
fn started(target: Target, name: &str) -> Result<Target> {
    let comm = PathBuf::from(format!("/proc/{}/comm", target.pid()));
    common::wait::until("the program to start", common::wait::LIMIT, || {
        Ok((common::icecore::lossy(&comm).trim_end() == name).then_some(()))
    })?;
    Ok(target)
}

fn quiet(command: &mut Command) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
}

/// The error is one: a line, its help, nothing else; nothing is left behind.
fn is_one_sentence(done: &Finished, scratch: &Scratch) -> Result {
    let mut lines = done.stderr.lines();
    let first = lines.next().unwrap_or_default();
    let tidy = first.starts_with("error: ") && !first.ends_with('.');
    let rest_helps = lines.all(|line| line.trim_start().starts_with("help: "));
    if !tidy || !rest_helps {
        return Err(done.describe("should have said one sentence and what helps"));
    }
    match scratch.images().exists() {
        true => Err(done.describe("left a directory behind")),
        false => Ok(()),
    }
}

fn dump_is_refused(pid: u32, text: &str) -> Result {
    let scratch = Scratch::new()?;
    let done = scratch.dump(pid).run()?.expect_failure(text)?;
    is_one_sentence(&done, &scratch)
}

mod bad_target {
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
}

mod bad_directory {
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
}

mod options {
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
            "--live",
            "--outside=unix=auto",
            "--ext-unix-sk",
            "--external=mnt[/x]:y",
            "--tcp-established",
            "--tcp-close",
            "--file-locks",
            "--link-remap",
            "--manage-cgroups",
            "--manage-cgroups=soft",
            "--cgroup-root=/x",
            "--parent=x",
            "--prev-images-dir=x",
            "--track-mem",
            "--compress=lz4",
            "--engine=x",
            "--freeze-cgroup=/x",
        ];
        for option in later {
            refused(
                &["dump", "-t", "1", "-D", "x", option],
                "is not supported yet",
            )?;
        }
        for option in ["--outside=close", "--inherit-fd=fd[3]:x", "--pages=lazy"] {
            refused(&["restore", "-D", "x", option], "is not supported yet")?;
        }
        refused(&["pre-dump", "-t", "1"], "pre-dump is not supported yet")?;
        refused(&["keeper", "list", "x"], "keeper is not supported yet")
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
        io(fs::write(&conf, "# habits\nlive\npidfile x\n"))?;
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
        assert!(said.contains("--live is not supported yet"), "{said}");
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
}

mod programs_rely_on {
    use super::*;
    use serde_json::Value;

    fn json(done: &Finished) -> Result<Value> {
        serde_json::from_str(&done.stdout).map_err(|e| done.describe(&format!("no JSON: {e}")))
    }

    #[test]
    fn an_error_as_one_object_on_stdout() -> Result {
        let scratch = Scratch::new()?;
        let done = scratch
            .dump(9_999_999)
            .arg("--json")
            .run()?
            .expect_failure("")?;
        let object = json(&done)?;
        assert_eq!(object["ok"], false);
        let message = object["error"]["message"].as_str().unwrap_or_default();
        let causes = object["error"]["causes"].to_string();
        assert!(
            message.contains("9999999") || causes.contains("9999999"),
            "{object}"
        );
        assert_eq!(done.stderr, "");
        Ok(())
    }

    #[test]
    fn a_usage_error_as_one_object_too() -> Result {
        let scratch = Scratch::new()?;
        let dump = Icecore::new(scratch.path(), "dump").args(["--json", "--frobnicate"]);
        let object = json(&dump.run()?.expect_failure("")?)?;
        assert_eq!(object["ok"], false);
        Ok(())
    }

    #[test]
    fn results_as_one_object() -> Result {
        let (scratch, target) = (Scratch::new()?, sleeper()?);
        let done = scratch
            .dump(target.pid())
            .args(["-R", "--json"])
            .succeed()?;
        let object = json(&done)?;
        assert_eq!(object["ok"], true);
        assert!(
            object["stats"]["bytes_written"].as_u64() > Some(0),
            "{object}"
        );
        assert!(object["stats"]["frozen_us"].as_u64() > Some(0), "{object}");
        assert!(object["notes"].is_array(), "{object}");
        let written = io(fs::read(scratch.images().join("stats.json")))?;
        let written: Value = serde_json::from_slice(&written).map_err(|e| e.to_string())?;
        assert_eq!(written["bytes_written"], object["stats"]["bytes_written"]);
        Ok(())
    }

    #[test]
    fn figures_as_lines() -> Result {
        let (scratch, target) = (Scratch::new()?, sleeper()?);
        let done = scratch
            .dump(target.pid())
            .args(["-R", "--display-stats"])
            .succeed()?;
        let has = |name: &str| done.stdout.lines().any(|line| line.starts_with(name));
        for name in [
            "freezing_us: ",
            "frozen_us: ",
            "total_us: ",
            "pages_written: ",
            "engine: ",
        ] {
            assert!(has(name), "{name} is missing in {}", done.stdout);
        }
        Ok(())
    }

    #[test]
    fn a_pidfile_a_log_file_and_nothing_else() -> Result {
        let (scratch, mut target) = (Scratch::new()?, sleeper()?);
        let dumped = target.dump(&scratch.images(), &["-o", "dump.log", "-v4"])?;
        assert_eq!((dumped.stdout.as_str(), dumped.stderr.as_str()), ("", ""));
        let options = ["--pidfile", "target.pid", "-o", "restore.log", "-v4"];
        target.restore(&scratch.images(), &options)?;
        let read = |name| io(fs::read_to_string(scratch.images().join(name)));
        assert_eq!(read("target.pid")?, target.pid().to_string());
        assert!(!read("dump.log")?.is_empty() && !read("restore.log")?.is_empty());
        Ok(())
    }

    #[test]
    fn a_zero_byte_on_the_status_descriptor() -> Result {
        let (scratch, mut target) = (Scratch::new()?, sleeper()?);
        let (status, target_pid) = (scratch.path().join("status"), target.pid());
        // The file is opened by the shell, as a caller would.
        let script = "exec 7>\"$1\"; shift; exec \"$@\" --status-fd 7";
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script, "sh"])
            .arg(&status)
            .arg(common::icecore::program());
        shell.args([
            "dump",
            "--no-default-config",
            "-R",
            "-t",
            &target_pid.to_string(),
            "-D",
        ]);
        let output = io(shell.arg(scratch.images()).stdin(Stdio::null()).output())?;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(io(fs::read(&status))?, [0]);
        target.alive()
    }

    #[test]
    fn an_interrupt_that_harms_nobody() -> Result {
        for stage in ["pre-dump", "post-dump"] {
            let (scratch, mut target) = (Scratch::new()?, sleeper()?);
            // The script's parent is icecore.
            let body = format!("[ $CRTOOLS_SCRIPT_ACTION != {stage} ] || kill -INT $PPID");
            let script = action_script(&scratch, &body)?;
            let dump = scratch
                .dump(target.pid())
                .arg("--action-script")
                .arg(script);
            let done = dump.run()?.expect_failure("cancelled")?;
            target.alive().map_err(|e| done.describe(&e))?;
            assert!(
                !scratch.images().join("manifest").exists(),
                "{stage}: left an image"
            );
        }
        Ok(())
    }

    #[test]
    fn an_action_script_at_every_stage() -> Result {
        let (scratch, mut target) = (Scratch::new()?, sleeper()?);
        let said = scratch.path().join("said");
        let line = "$CRTOOLS_SCRIPT_ACTION $CRTOOLS_IMAGE_DIR $CRTOOLS_INIT_PID";
        let script = action_script(&scratch, &format!("echo \"{line}\" >>{}", said.display()))?;
        let options = ["--action-script", script.to_str().ok_or("no path")?];
        target.dump(&scratch.images(), &options)?;
        target.restore(&scratch.images(), &options)?;
        let said = io(fs::read_to_string(&said))?;
        let stages: Vec<&str> = said
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        let expected = [
            "pre-dump",
            "post-dump",
            "pre-restore",
            "post-restore",
            "pre-resume",
            "post-resume",
        ];
        assert_eq!(stages, expected);
        let images = scratch.images();
        for line in said.lines() {
            assert!(line.contains(images.to_str().ok_or("no path")?), "{line}");
        }
        let last = said.lines().last().unwrap_or_default();
        assert!(last.ends_with(&format!(" {}", target.pid())), "{last}");
        Ok(())
    }

    #[test]
    fn an_action_script_that_fails_fails_the_dump() -> Result {
        for stage in ["pre-dump", "post-dump"] {
            let (scratch, mut target) = (Scratch::new()?, sleeper()?);
            let body = format!("[ $CRTOOLS_SCRIPT_ACTION != {stage} ]");
            let script = action_script(&scratch, &body)?;
            let dump = scratch
                .dump(target.pid())
                .arg("--action-script")
                .arg(script);
            let done = dump.run()?.expect_failure(stage)?;
            target.alive().map_err(|e| done.describe(&e))?;
            assert!(
                !scratch.images().join("manifest").exists(),
                "{stage}: left an image"
            );
        }
        Ok(())
    }

    #[test]
    fn an_action_script_that_fails_fails_the_restore() -> Result {
        let (scratch, mut target) = (Scratch::new()?, sleeper()?);
        target.dump(&scratch.images(), &[])?;
        for stage in ["pre-restore", "post-restore", "pre-resume"] {
            let body = format!("[ $CRTOOLS_SCRIPT_ACTION != {stage} ]");
            let script = action_script(&scratch, &body)?;
            let restore = scratch
                .restore()
                .arg("-d")
                .arg("--action-script")
                .arg(script);
            let done = restore.run()?.expect_failure(stage)?;
            target.reap_killed().map_err(|e| done.describe(&e))?;
        }
        target.restore(&scratch.images(), &[]).map(drop)
    }

    fn action_script(scratch: &Scratch, body: &str) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let path = scratch.path().join("action.sh");
        io(fs::write(&path, format!("#!/bin/sh\n{body}\n")))?;
        io(fs::set_permissions(
            &path,
            fs::Permissions::from_mode(0o700),
        ))?;
        Ok(path)
    }
}

mod a_restored_process {
    use super::*;
    use rustix::process::Signal;

    fn program(script: &str) -> Result<Target> {
        let mut command = Command::new("setsid");
        quiet(command.args(["/usr/bin/python3", "-c", script]));
        Target::spawn(&mut command)
    }

    /// Waits until the target sleeps in `call`.
    fn asleep(target: &Target) -> Result {
        let syscall = PathBuf::from(format!("/proc/{}/syscall", target.pid()));
        common::wait::until("the target to sleep", common::wait::LIMIT, || {
            let text = common::icecore::lossy(&syscall);
            // clock_nanosleep or pause.
            Ok((text.starts_with("230 ") || text.starts_with("34 ")).then_some(()))
        })
    }

    #[test]
    fn gives_its_exit_status_to_icecore_in_the_foreground() -> Result {
        let mut target = program("import time, sys; time.sleep(1); sys.exit(42)")?;
        asleep(&target)?;
        let scratch = Scratch::new()?;
        target.dump(&scratch.images(), &[])?;
        let done = scratch.restore().run()?;
        match done.status.code() {
            Some(42) => Ok(()),
            _ => Err(done.describe("should have ended with 42")),
        }
    }

    #[test]
    fn gets_the_signals_of_icecore_in_the_foreground() -> Result {
        let mut target = program("import signal; signal.pause()")?;
        asleep(&target)?;
        let scratch = Scratch::new()?;
        target.dump(&scratch.images(), &[])?;
        let restore = scratch.restore().args(["--pidfile", "pidfile"]).start()?;
        let pidfile = scratch.images().join("pidfile");
        common::wait::until("the target to run", common::wait::LIMIT, || {
            Ok(pidfile.exists().then_some(()))
        })?;
        let pid = rustix::process::Pid::from_raw(restore.pid().cast_signed()).ok_or("no pid")?;
        rustix::process::kill_process(pid, Signal::TERM).map_err(|e| e.to_string())?;
        let done = restore.finish()?;
        match done.status.code() {
            Some(143) => Ok(()),
            _ => Err(done.describe("should have ended with 128 + SIGTERM")),
        }
    }

    #[test]
    fn is_a_child_of_icecores_caller_when_asked() -> Result {
        let (scratch, mut target) = (Scratch::new()?, sleeper()?);
        target.dump(&scratch.images(), &[])?;
        target.restore(&scratch.images(), &["-S"])?;
        let status = common::icecore::lossy(Path::new(&format!("/proc/{}/status", target.pid())));
        assert!(
            status.contains(&format!("PPid:\t{}\n", std::process::id())),
            "{status}"
        );
        Ok(())
    }

    #[test]
    fn is_stopped_when_asked() -> Result {
        let (scratch, mut target) = (Scratch::new()?, sleeper()?);
        target.dump(&scratch.images(), &[])?;
        target.restore(&scratch.images(), &["-s"])?;
        let stat = format!("/proc/{}/stat", target.pid());
        common::wait::until("the target to stop", common::wait::LIMIT, || {
            Ok(common::icecore::lossy(Path::new(&stat))
                .contains(") T ")
                .then_some(()))
        })?;
        target.signal(Signal::CONT)?;
        common::wait::until("the target to go on", common::wait::LIMIT, || {
            Ok(common::icecore::lossy(Path::new(&stat))
                .contains(") S ")
                .then_some(()))
        })
    }

    #[test]
    fn is_not_created_by_a_dry_run() -> Result {
        let (scratch, mut target) = (Scratch::new()?, sleeper()?);
        target.dump(&scratch.images(), &[])?;
        scratch.restore().args(["-d", "--dry-run"]).succeed()?;
        assert!(!Path::new(&format!("/proc/{}", target.pid())).exists());
        target.restore(&scratch.images(), &[]).map(drop)
    }

    #[test]
    fn is_refused_while_its_pid_is_taken() -> Result {
        let (scratch, mut target) = (Scratch::new()?, sleeper()?);
        target.dump_running(&scratch.images(), &[])?;
        let done = scratch.restore().arg("-d").run()?;
        done.expect_failure(&format!("pid {}", target.pid()))?;
        target.alive()
    }

    #[test]
    fn joins_our_session_when_it_was_a_shells_job() -> Result {
        let mut command = Command::new("sleep");
        quiet(command.arg("300"));
        let (scratch, target) = (Scratch::new()?, Target::spawn(&mut command)?);
        let mut target = started(target, "sleep")?;
        let done = scratch.dump(target.pid()).run()?;
        done.expect_failure("its session is that of pid")?;
        target.dump(&scratch.images(), &["-j"])?;
        let done = scratch.restore().arg("-d").run()?;
        done.expect_failure("is not in the image")?;
        target.restore(&scratch.images(), &["-j"])?;
        let session = |pid: u32| {
            let stat = common::icecore::lossy(Path::new(&format!("/proc/{pid}/stat")));
            stat.rsplit(") ")
                .next()
                .and_then(|s| s.split(' ').nth(3).map(str::to_owned))
        };
        assert_eq!(session(target.pid()), session(std::process::id()));
        Ok(())
    }

    #[test]
    fn is_left_stopped_by_a_dump_when_asked() -> Result {
        let (scratch, mut target) = (Scratch::new()?, sleeper()?);
        scratch.dump(target.pid()).arg("-s").succeed()?;
        let stat = format!("/proc/{}/stat", target.pid());
        common::wait::until("the target to stop", common::wait::LIMIT, || {
            Ok(common::icecore::lossy(Path::new(&stat))
                .contains(") T ")
                .then_some(()))
        })?;
        target.alive()
    }
}

#[test]
fn the_demo_does_what_it_says() -> Result {
    let scratch = Scratch::new()?;
    let demo = || Icecore::new(scratch.path(), "demo");
    let done = demo().succeed()?;
    for text in [
        "It is put to sleep",
        "it is gone",
        "It wakes up",
        "none is missing",
    ] {
        assert!(done.stdout.contains(text), "{}", done.describe(text));
    }
    let object: serde_json::Value =
        serde_json::from_str(&demo().arg("--json").succeed()?.stdout).map_err(|e| e.to_string())?;
    assert!(
        object["rows_after"].as_u64() > object["rows_before"].as_u64(),
        "{object}"
    );
    Ok(())
}

#[test]
fn check_lists_what_stands_in_the_way_of_a_dump() -> Result {
    let scratch = Scratch::new()?;
    let check = |target: &Target| {
        Icecore::new(scratch.path(), "check")
            .args(["--pid", &target.pid().to_string()])
            .run()
    };
    let mut free = sleeper()?;
    let done = check(&free)?.expect_success()?;
    assert!(
        done.stdout.contains("nothing stands in the way"),
        "{}",
        done.stdout
    );
    free.alive()?;

    let mut command = Command::new("setsid");
    let (_stdout, out) = io(std::io::pipe())?;
    let (_stderr, err) = io(std::io::pipe())?;
    command.args(["sleep", "300"]).stdout(out).stderr(err);
    let mut held = started(Target::spawn(command.stdin(Stdio::null()))?, "sleep")?;
    let done = check(&held)?.expect_failure("2 things cannot be carried over")?;
    let lists = |fd: u32| {
        done.stderr
            .contains(&format!("pid {} fd {fd}: ", held.pid()))
    };
    assert!(lists(1) && lists(2), "{}", done.stderr);
    held.alive()
}

#[test]
fn check_tells_what_is_there() -> Result {
    let scratch = Scratch::new()?;
    let check = |words: &[&str]| Icecore::new(scratch.path(), "check").args(words).run();
    check(&[])?.expect_success()?;
    let all = check(&["--all"])?.expect_success()?;
    assert!(
        all.stdout.contains("pidfd_getfd             yes"),
        "{}",
        all.stdout
    );
    check(&["--feature", "kcmp"])?.expect_success()?;
    check(&["--feature", "no_such"])?.expect_failure("there is no feature no_such")?;
    Ok(())
}
