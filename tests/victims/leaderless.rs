//! A task whose first thread has ended long ago: everything that is the task's
//! is read through another thread.

use std::process::exit;

use crate::harness::{Stage, Victim};
use crate::sys::{at, call, same, to};

pub(crate) fn victims() -> Vec<Victim> {
    // What is left of the first thread has the mask of the next one then.
    vec![Victim::new("leaderless-state", leaderless).allow("*SigBlk")]
}

fn leaderless(stage: &mut Stage) -> Result<(), String> {
    std::thread::scope(|scope| {
        scope.spawn(|| match without_leader(stage) {
            Ok(()) => exit(0),
            Err(e) => {
                eprintln!("victim leaderless-state: {e}");
                exit(1)
            }
        });
        // The thread alone; its stack stays.
        call("exit", libc::SYS_exit, &[0]).map(drop)
    })
}

const SIGNALS: [u64; 3] = [40, 41, 42];
const SET: u64 = 1 << 39 | 1 << 40 | 1 << 41;

fn until_the_leader_ended() -> Result<(), String> {
    let stat = format!("/proc/self/task/{}/stat", std::process::id());
    for _ in 0..5000 {
        let text = std::fs::read_to_string(&stat).map_err(|e| e.to_string())?;
        if text.contains(") Z ") {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Err("the leader does not end".to_owned())
}

fn without_leader(stage: &mut Stage) -> Result<(), String> {
    until_the_leader_ended()?;
    call("block", libc::SYS_rt_sigprocmask, &[0, at(&SET), 0, 8])?;
    queue()?;
    while stage.next()? {
        for signal in SIGNALS {
            let (mut info, none) = ([0_u32; 32], [0_u64; 2]);
            let args = [at(&SET), to(&mut info), at(&none), 8];
            call("rt_sigtimedwait", libc::SYS_rt_sigtimedwait, &args)?;
            let told = (u64::from(info[0]), info[2] as i32);
            let code = if signal == 42 {
                libc::SI_TIMER
            } else {
                libc::SI_QUEUE
            };
            same("signal and code", &told, &(signal, code))?;
        }
        queue()?;
    }
    Ok(())
}

/// Two signals from us, one from a timer.
fn queue() -> Result<(), String> {
    for signal in &SIGNALS[..2] {
        let mut info = [0_u32; 32];
        (info[0], info[2], info[6]) = (*signal as u32, libc::SI_QUEUE as u32, 99);
        let pid = std::process::id().into();
        call(
            "queue",
            libc::SYS_rt_sigqueueinfo,
            &[pid, *signal, at(&info)],
        )?;
    }
    let (mut event, mut id) = ([0_u32; 16], 0_u32);
    event[2] = 42;
    call(
        "timer_create",
        libc::SYS_timer_create,
        &[1, at(&event), to(&mut id)],
    )?;
    let soon = [0_u64, 0, 0, 1];
    let args = [id.into(), 0, at(&soon), 0];
    call("timer_settime", libc::SYS_timer_settime, &args)?;
    let mut pending = 0_u64;
    while pending & SET != SET {
        call(
            "rt_sigpending",
            libc::SYS_rt_sigpending,
            &[to(&mut pending), 8],
        )?;
    }
    Ok(())
}
