//! `/proc/TID/status`, as bytes: a comm need not be UTF-8.

use std::io;

use super::proc_text::{self, field, hex, malformed, number, words};

/// The part of a thread's status that icecore uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// One letter: R, S, D, T, t, Z, X …
    pub(crate) state: u8,
    /// Thread-group id.
    pub(crate) tgid: u32,
    /// Parent's pid.
    pub(crate) ppid: u32,
    /// Who traces it; 0: nobody.
    pub(crate) tracer: u32,
    /// Real, effective, saved, filesystem uid.
    pub(crate) uids: [u32; 4],
    /// Real, effective, saved, filesystem gid.
    pub(crate) gids: [u32; 4],
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Thread-group ids in nested pid namespaces, innermost last.
    pub(crate) ns_tgids: Vec<u32>,
    /// Thread ids in nested pid namespaces, innermost last.
    pub(crate) ns_tids: Vec<u32>,
    /// Signals pending for the thread (bit 0: signal 1).
    pub(crate) pending: u64,
    /// Signals pending for the whole task.
    pub(crate) shared_pending: u64,
    /// CapInh, CapPrm, CapEff, CapBnd, CapAmb.
    pub(crate) caps: [u64; 5],
    /// NoNewPrivs.
    pub(crate) no_new_privs: bool,
    /// 0: none, 1: strict, 2: filter.
    pub(crate) seccomp: u32,
    /// `x86_Thread_features`: `shstk`, `wrss`; empty where the kernel has none.
    pub(crate) thread_features: String,
}

impl Status {
    /// Reads the status of any live thread.
    pub(crate) fn read(tid: u32) -> io::Result<Self> {
        Self::parse(&proc_text::read(tid, "status")?)
    }

    fn parse(text: &[u8]) -> io::Result<Self> {
        let one = |key: &'static str| field(text, key).ok_or_else(|| malformed(key));
        let id = |key: &'static str| number(one(key)?).ok_or_else(|| malformed(key));
        let mask = |key: &'static str| hex(one(key)?).ok_or_else(|| malformed(key));
        let list = |key| field(text, key).map(numbers).unwrap_or_default();
        Ok(Self {
            state: *one("State")?.first().ok_or_else(|| malformed("State"))?,
            tgid: id("Tgid")?,
            ppid: id("PPid")?,
            tracer: id("TracerPid")?,
            uids: four(one("Uid")?).ok_or_else(|| malformed("Uid"))?,
            gids: four(one("Gid")?).ok_or_else(|| malformed("Gid"))?,
            groups: list("Groups"),
            ns_tgids: list("NStgid"),
            ns_tids: list("NSpid"),
            pending: mask("SigPnd")?,
            shared_pending: mask("ShdPnd")?,
            caps: [
                mask("CapInh")?,
                mask("CapPrm")?,
                mask("CapEff")?,
                mask("CapBnd")?,
                mask("CapAmb")?,
            ],
            no_new_privs: id("NoNewPrivs")? != 0,
            // Absent in a kernel without seccomp.
            seccomp: field(text, "Seccomp").and_then(number).unwrap_or(0),
            thread_features: field(text, "x86_Thread_features")
                .map(|v| String::from_utf8_lossy(v).into_owned())
                .unwrap_or_default(),
        })
    }
}

fn numbers(value: &[u8]) -> Vec<u32> {
    words(value).filter_map(number).collect()
}

fn four(value: &[u8]) -> Option<[u32; 4]> {
    numbers(value).try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] =
        b"Name:\t\xff\xfe)\nUmask:\t0022\nState:\tT (stopped)\nTgid:\t42\nNgid:\t0\n\
        Pid:\t43\nPPid:\t1\nTracerPid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t4294967295\n\
        Groups:\t10 20 \nNStgid:\t42\t1\nNSpid:\t43\t2\nNSpgid:\t42\t1\nThreads:\t2\n\
        SigQ:\t1/96365\nSigPnd:\t0000000000000200\nShdPnd:\t8000000000000000\n\
        SigBlk:\t0000000000000000\nCapInh:\t0000000000000001\nCapPrm:\t0000000000000003\n\
        CapEff:\t0000000000000002\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000001\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\nx86_Thread_features:\tshstk \n";

    #[test]
    fn reads_every_field() -> io::Result<()> {
        let status = Status::parse(TEXT)?;
        assert_eq!((status.state, status.tgid, status.ppid), (b'T', 42, 1));
        assert_eq!(status.tracer, 7);
        assert_eq!(status.gids, [5, 6, 7, u32::MAX]);
        assert_eq!(status.groups, [10, 20]);
        assert_eq!(
            (status.ns_tgids, status.ns_tids),
            (vec![42, 1], vec![43, 2])
        );
        assert_eq!((status.pending, status.shared_pending), (0x200, 1 << 63));
        assert_eq!(status.caps, [1, 3, 2, 0x1ff_ffff_ffff, 1]);
        assert!(status.no_new_privs);
        assert_eq!(status.seccomp, 2);
        assert_eq!(status.thread_features, "shstk");
        Ok(())
    }

    #[test]
    fn what_is_missing_is_named() {
        let Err(error) = Status::parse(b"State:\tR\n") else {
            unreachable!("a status without ids must be refused")
        };
        assert!(error.to_string().contains("Tgid"), "{error}");
    }

    #[test]
    fn reads_our_own() -> io::Result<()> {
        let status = Status::read(std::process::id())?;
        assert_eq!(status.tgid, std::process::id());
        Ok(())
    }
}
