//! What makes no sense is named: one change to a sound image at a time, and
//! what the check says to it.
#![allow(clippy::unwrap_used)]

mod sample;

use icecore_images::Checkpoint;
use icecore_images::bytes::ByteString;
use icecore_images::connection::{ConnectionEnd, ConnectionPolicy};
use icecore_images::files::FileKind;
use icecore_images::ids::*;
use icecore_images::inet::InetRole;
use icecore_images::lock::LockKind;
use icecore_images::mm::Backing;
use icecore_images::pages::{PageExtent, PageSource};
use icecore_images::seccomp::SeccompState;
use icecore_images::task::RunState;
use icecore_images::thread::XComponent;
use icecore_images::unix::UnixPeer;

type Change = fn(&mut Checkpoint);

fn says(change: Change) -> String {
    let mut checkpoint = sample::checkpoint();
    change(&mut checkpoint);
    match checkpoint.check() {
        Ok(()) => "nothing".to_owned(),
        Err(e) => e.to_string(),
    }
}

fn all(changes: &[(Change, &str)]) {
    for (change, expected) in changes {
        assert_eq!(says(*change), *expected);
    }
}

#[test]
fn the_sample_makes_sense() {
    assert_eq!(says(|_| {}), "nothing");
}

#[test]
fn page_files_and_extents() {
    all(&[
        (
            |c| c.page_files[0].length += 1,
            "page file 0: length 0x4001 is not a multiple of 4096",
        ),
        (
            |c| c.page_files[0].chunks.push(0),
            "page file 0: its length asks for another number of chunk checksums",
        ),
        (
            |c| c.mms[0].pages[0].count = 0,
            "address space 0: pages of an extent 0 is not within 1 to 4503599627370495",
        ),
        (
            |c| c.mms[0].pages[0].count = u64::MAX,
            "image: stored pages 18446744073709551615 is not within 0 to 4294967296",
        ),
        (
            |c| c.mms[0].pages[0].start = u64::MAX - 0xfff,
            "address space 0: page extent 0xfffffffffffff000-0xffffffffffffffff reaches beyond \
             the last address",
        ),
        (
            |c| c.mms[0].pages.swap(0, 1),
            "address space 0: page extent 0x5ff000 is out of order, overlaps another or occurs \
             twice",
        ),
        (
            |c| c.mms[0].pages[0].source = PageSource::Parent,
            "address space 0: pages are said to be in a parent image, and there is none",
        ),
        (
            |c| c.mms[0].pages[0].source = PageSource::File { file: 9, offset: 0 },
            "address space 0: refers to page file 9, which is not in the image",
        ),
        (
            |c| {
                let offset = 3 * 4096;
                c.mms[0].pages[0].source = PageSource::File { file: 0, offset };
            },
            "address space 0: stored pages 0x3000-0x5000 reaches beyond the page file",
        ),
        (
            |c| c.mms[0].pages[0].start = 0x70_0000,
            "address space 0: page extent 0x603000 is out of order, overlaps another or occurs \
             twice",
        ),
        (
            |c| c.mms[0].pages[1].start = 0x70_0000,
            "address space 0: page extent 0x700000-0x701000 reaches beyond the areas that have \
             pages of their own",
        ),
        (
            |c| c.mms[0].pages[1].count = 20,
            "address space 0: page extent 0x603000-0x617000 reaches beyond the areas that have \
             pages of their own",
        ),
        (
            |c| c.ghosts[0].pages[0].start = 4096,
            "deleted file 0: page extent 0x1000-0x2000 reaches beyond the object",
        ),
        (
            |c| {
                let extent = c.shmems[0].pages[0];
                c.shmems[0].pages.push(PageExtent { count: 1, ..extent });
            },
            "shared memory object 0: page extent 0x0 is out of order, overlaps another or occurs \
             twice",
        ),
    ]);
}

#[test]
fn what_a_restore_would_trip_over() {
    all(&[
        (
            |c| {
                c.page_files[0].length = 1 << 40;
                c.page_files[0].chunks = vec![0; 1 << 20];
                let count = (1 << 32) + 1;
                c.mms[0].pages[0].count = count;
            },
            "image: stored pages 4294967299 is not within 0 to 4294967296",
        ),
        (
            |c| c.mms[0].vmas[6].end = 1 << 50,
            "address space 0, area at 0x7ffff1004000: length 985162670129152 is not within \
             4096 to 1048576",
        ),
        (
            |c| c.clocks.monotonic_ns = i64::MAX,
            "clocks: CLOCK_MONOTONIC 9223372036854775807 is not within 0 to \
             4611686018427387903",
        ),
        (
            |c| c.ghosts[0].uid = u32::MAX,
            "deleted file 0: user or group id 4294967295 is not within 0 to 4294967294",
        ),
        (
            |c| c.tasks[0].threads[0].creds.uids[2] = u32::MAX,
            "thread 1234: user or group id 4294967295 is not within 0 to 4294967294",
        ),
        (
            |c| c.files[2].flags |= 0o1_000,
            "open file description 2: flags has the unknown value 0x200",
        ),
        (
            |c| {
                let mut timer = c.tasks[0].posix_timers[0];
                timer.id = 0;
                c.tasks[0].posix_timers.push(timer);
            },
            "task 1234: timer 0x0 is out of order, overlaps another or occurs twice",
        ),
        (
            |c| {
                let (number, offset, size) = (1, u32::MAX, 64);
                let component = XComponent {
                    number,
                    offset,
                    size,
                };
                c.tasks[0].threads[0].xstate.layout.push(component);
            },
            "thread 1234: component of extended state 0xffffffff-0x10000003f reaches beyond the \
             area",
        ),
    ]);
}

#[test]
fn areas() {
    all(&[
        (
            |c| c.mms[0].vmas.swap(0, 1),
            "address space 0, area at 0x400000: area 0x400000 is out of order, overlaps another \
             or occurs twice",
        ),
        (
            |c| c.mms[0].vmas[0].end = 0x60_1000,
            "address space 0, area at 0x5ff000: area 0x5ff000 is out of order, overlaps another \
             or occurs twice",
        ),
        (
            |c| c.mms[0].vmas[0].end = c.mms[0].vmas[0].start,
            "address space 0, area at 0x400000: it ends before it starts",
        ),
        (
            |c| c.mms[0].vmas[4].end = 1 << 60,
            "address space 0, area at 0x7ffff0000000: area 0x7ffff0000000-0x1000000000000000 \
             reaches beyond the address space",
        ),
        (
            |c| c.mms[0].vmas[0].prot = 8,
            "address space 0, area at 0x400000: protection 8 is not within 0 to 7",
        ),
        (
            |c| c.mms[0].vmas[2].shared = true,
            "address space 0, area at 0x600000: it is shared, by what backs it is not",
        ),
        (
            |c| c.mms[0].vmas[5].backing = Backing::Vdso,
            "address space 0: area of the kernel's 0x7ffff1004000 is out of order, overlaps \
             another or occurs twice",
        ),
        (
            |c| {
                let (id, offset) = (ShmemId(7), 0);
                c.mms[0].vmas[3].backing = Backing::Shmem {
                    id,
                    offset,
                    writable: true,
                    sealed: false,
                };
            },
            "address space 0, area at 0x700000: refers to shared memory object 7, which is not \
             in the image",
        ),
        (
            |c| c.mms[0].vmas[2].guards[0].1 += 4096,
            "address space 0, area at 0x600000: guard region 0x60f000-0x611000 reaches beyond \
             its area or the next guard region",
        ),
        (
            |c| c.mms[0].vmas[2].backing = Backing::AnonymousHuge { page_size: 3 },
            "address space 0, area at 0x600000: huge page size has the unknown value 0x3",
        ),
        (
            |c| c.mms[0].exe.path.0[0] = b'x',
            "address space 0: the program is not an absolute path of at most 4095 bytes",
        ),
        (
            |c| c.mms[0].exe.mode = 0o040_755,
            "address space 0: the program is a directory",
        ),
        (
            |c| c.mms[0].id = MmId(1),
            "address space 1: id 1 at place 0 of its table",
        ),
    ]);
}

#[test]
fn descriptors() {
    all(&[
        (
            |c| c.fd_tables[0].entries[1].fd = 0,
            "descriptor table 0: descriptor 0x0 is out of order, overlaps another or occurs \
             twice",
        ),
        (
            |c| c.fd_tables[0].entries[7].fd = u32::MAX,
            "descriptor table 0: descriptor 4294967295 is not within 0 to 1073741823",
        ),
        (
            |c| c.fd_tables[0].entries[0].description = DescriptionId(99),
            "descriptor table 0: refers to open file description 99, which is not in the image",
        ),
        (
            |c| c.files[0].flags |= 0o2_000_000,
            "open file description 0: flags has the unknown value 0x80000",
        ),
        (
            |c| c.files[2].position = u64::MAX,
            "open file description 2: position 18446744073709551615 is not within 0 to \
             9223372036854775807",
        ),
        (
            |c| c.files[2].locks[1].start = 15,
            "open file description 2: first byte of a lock 15 is not within 0 to 14",
        ),
        (
            |c| c.files[2].locks[1].end = 1 << 63,
            "open file description 2: last byte of a lock 9223372036854775808 is not within 0 \
             to 9223372036854775807",
        ),
        (
            |c| c.files[2].locks[1].table = None,
            "open file description 2: a POSIX lock has no owner",
        ),
        (
            |c| c.files[2].locks[1].table = Some(FdTableId(9)),
            "open file description 2: refers to owner of a lock 9, which is not in the image",
        ),
        (
            |c| c.files[2].locks[0].table = Some(FdTableId(0)),
            "open file description 2: a lock of a description has a table as its owner",
        ),
        (
            |c| {
                c.files[2].locks[0].kind = LockKind::Lease;
                c.files[2].locks[0].end = 5;
            },
            "open file description 2: a lease is of a part of a file",
        ),
        (
            |c| c.files[2].locks[0].end = 5,
            "open file description 2: flock locks a part of a file",
        ),
        (
            |c| c.files[2].flags |= 0o10_000_000,
            "open file description 2: a file opened with O_PATH is locked",
        ),
        (
            |c| c.files[5].kind = FileKind::MemFd(ShmemId(3)),
            "open file description 5: refers to shared memory object 3, which is not in the \
             image",
        ),
        (
            |c| {
                if let FileKind::Epoll(epoll) = &mut c.files[5].kind {
                    epoll.targets[0].description = DescriptionId(5);
                }
            },
            "open file description 5: an epoll instance watches itself",
        ),
        (
            |c| {
                if let FileKind::Unix(socket) = &mut c.files[8].kind {
                    socket.peer = UnixPeer::Open(DescriptionId(7));
                }
            },
            "open file description 8: its other end is no socket",
        ),
        (
            |c| {
                if let FileKind::Unix(socket) = &mut c.files[9].kind {
                    socket.peer = UnixPeer::Open(DescriptionId(9));
                }
            },
            "open file description 8: its other end is not its own",
        ),
        (
            |c| {
                if let FileKind::Unix(socket) = &mut c.files[8].kind {
                    socket.shutdown = 1;
                }
            },
            "open file description 8: its two ends disagree about what was shut down",
        ),
        (
            |c| {
                if let FileKind::Connection(connection) = &mut c.files[10].kind {
                    connection.policy = ConnectionPolicy::Close;
                }
            },
            "open file description 10: a connection that is not to be kept is said to be kept",
        ),
        (
            |c| {
                if let FileKind::Connection(connection) = &mut c.files[10].kind {
                    connection.end = ConnectionEnd::Pipe(PipeId(9));
                }
            },
            "open file description 10: refers to pipe 9, which is not in the image",
        ),
        (
            |c| {
                if let FileKind::Inet(socket) = &mut c.files[11].kind {
                    socket.local = None;
                }
            },
            "open file description 11: it listens without an address",
        ),
        (
            |c| {
                if let FileKind::Inet(socket) = &mut c.files[12].kind {
                    socket.v6 = false;
                }
            },
            "open file description 12: a socket has an address of another family",
        ),
        (
            |c| {
                if let FileKind::Inet(socket) = &mut c.files[11].kind {
                    socket.socket.options[0].value = ByteString(vec![0; 300]);
                }
            },
            "open file description 11: 300 bytes of a socket option, where 0 to 256 are possible",
        ),
        (
            |c| {
                if let FileKind::Unix(socket) = &mut c.files[8].kind {
                    socket.queue[0].rights.push(DescriptionId(999));
                }
            },
            "open file description 8: refers to open file description 999, which is not in the image",
        ),
        (
            |c| {
                if let FileKind::Unix(socket) = &mut c.files[8].kind {
                    socket.urgent = Some(8);
                }
            },
            "open file description 8: an out-of-band byte of no stream",
        ),
        (
            |c| {
                if let FileKind::Unix(socket) = &mut c.files[8].kind {
                    let waiting = vec![DescriptionId(9)];
                    socket.peer = UnixPeer::Listening {
                        backlog: 1,
                        waiting,
                    };
                }
            },
            "open file description 8: who waits for it does not",
        ),
        (
            |c| {
                if let FileKind::Inet(socket) = &mut c.files[13].kind
                    && let InetRole::Connection(tcp) = &mut socket.role
                {
                    tcp.lock = ByteString(b"filter".to_vec());
                }
            },
            "open file description 13: a connection is locked by a table that is none of icecore's",
        ),
        (
            |c| {
                if let FileKind::Inet(socket) = &mut c.files[13].kind
                    && let InetRole::Connection(tcp) = &mut socket.role
                {
                    tcp.other = Some(DescriptionId(12));
                }
            },
            "open file description 13: its other end is not its own",
        ),
        (
            |c| c.pipes[0].capacity = 5000,
            "pipe 0: capacity has the unknown value 0x1388",
        ),
        (
            |c| c.pipes[0].queue[0].bytes = ByteString(vec![1; 65537]),
            "pipe 0: queued bytes 0x0-0x10001 reaches beyond the pipe's capacity",
        ),
        (
            |c| c.fs[0].cwd.mode = 0o100_644,
            "fs struct 0: the working directory is a regular file",
        ),
        (
            |c| c.fs[0].umask = 0o1000,
            "fs struct 0: umask has the unknown value 0x200",
        ),
    ]);
}

#[test]
fn tasks_and_threads() {
    all(&[
        (
            |c| c.tasks.clear(),
            "image: 0 tasks, where 1 to 4194303 are possible",
        ),
        (
            |c| c.tasks[0].pid = 0,
            "task 0: pid 0 is not within 1 to 4194303",
        ),
        (
            |c| c.tasks[0].parent = Some(1234),
            "task 1234: refers to parent 1234, which is not in the image",
        ),
        (
            |c| {
                let mut second = c.tasks[0].clone();
                second.threads.clear();
                c.tasks.push(second);
            },
            "task 1234: task 0x4d2 is out of order, overlaps another or occurs twice",
        ),
        (
            |c| c.tasks[0].threads.clear(),
            "task 1234: 0 threads, where 1 to 4194303 are possible",
        ),
        (
            |c| c.tasks[0].run = RunState::Zombie { status: 0 },
            "task 1234: 2 threads of a zombie, where 0 to 0 are possible",
        ),
        (
            |c| c.tasks[0].threads[1].tid = 1234,
            "task 1234: refers to thread 1235, which is not in the image",
        ),
        (
            |c| c.tasks[0].mm = MmId(3),
            "task 1234: refers to address space 3, which is not in the image",
        ),
        (
            |c| c.tasks[0].rlimits[3].hard = 5,
            "task 1234: a soft limit is above its hard limit",
        ),
        (
            |c| c.tasks[0].posix_timers[0].clock = 4,
            "task 1234: clock of a timer has the unknown value 0x4",
        ),
        (
            |c| c.tasks[0].pending[0].siginfo.0[0] = 65,
            "task 1234: signal 65 is not within 1 to 64",
        ),
        (
            |c| c.tasks[0].threads[0].comm = ByteString(b"sixteen bytes...".to_vec()),
            "thread 1234: name is longer than 15 bytes or has a zero byte in it",
        ),
        (
            |c| c.tasks[0].threads[0].xstate.area.0.truncate(575),
            "thread 1234: 575 bytes of extended state, where 576 to 65536 are possible",
        ),
        (
            |c| c.tasks[0].threads[0].xstate.area.0[527] = 0x80,
            "thread 1234: header of the extended state has the unknown value 0x8000000000000000",
        ),
        (
            |c| c.tasks[0].threads[0].xstate.area.0[513] = 1,
            "thread 1234: XSTATE_BV has the unknown value 0x100",
        ),
        (
            |c| c.tasks[0].threads[0].registers.cs = 0x23,
            "thread 1234: cs has the unknown value 0x23",
        ),
        (
            |c| c.tasks[0].threads[0].seccomp = SeccompState::Filter(vec![SeccompFilterId(1)]),
            "thread 1234: refers to seccomp filter 1, which is not in the image",
        ),
        (
            |c| c.seccomp_filters[0].program.resize(4097, (6, 0, 0, 0)),
            "seccomp filter 0: 4097 instructions, where 1 to 4096 are possible",
        ),
        (
            |c| c.sig_hands[0].actions[0].signal = 0,
            "table of signal actions 0: signal 0 is not within 1 to 64",
        ),
        (
            |c| c.tasks[0].threads[0].sched.nice = 20,
            "thread 1234: nice value 20 is not within -20 to 19",
        ),
    ]);
}

#[test]
fn cgroups() {
    all(&[
        (
            |c| c.cgroups.hierarchies[0].cgroups[0].path = b"/job/../../etc"[..].into(),
            "cgroup hierarchy 0: a cgroup is not an absolute path of at most 4095 bytes",
        ),
        (
            |c| c.cgroups.hierarchies[0].root = b"job"[..].into(),
            "cgroup hierarchy 0: a cgroup is not an absolute path of at most 4095 bytes",
        ),
        (
            |c| c.cgroups.hierarchies[0].cgroups[0].path = b"/other"[..].into(),
            "cgroup hierarchy 0: a cgroup is not below its root",
        ),
        (
            |c| {
                let cgroup = &mut c.cgroups.hierarchies[0].cgroups[0];
                cgroup.properties[0].name = "../../proc/sys/kernel/core_pattern".to_owned();
            },
            "cgroup hierarchy 0: a property is none of its hierarchy's controllers",
        ),
        (
            |c| {
                let cgroup = &mut c.cgroups.hierarchies[0].cgroups[0];
                cgroup.properties[0].name = "release_agent".to_owned();
            },
            "cgroup hierarchy 0: a property is none of its hierarchy's controllers",
        ),
        (
            |c| {
                let cgroup = &mut c.cgroups.hierarchies[0].cgroups[0];
                cgroup.files[0].name = "notes".to_owned();
            },
            "cgroup hierarchy 0: a file of members has another name",
        ),
        (
            |c| {
                let twice = c.cgroups.hierarchies[0].cgroups[0].clone();
                c.cgroups.hierarchies[0].cgroups.push(twice);
            },
            "cgroup hierarchy 0: cgroup 0x1 is out of order, overlaps another or occurs twice",
        ),
        (
            |c| c.cgroups.sets[0].paths.clear(),
            "set of cgroups 0: 0 cgroups of a thread, where 1 to 1 are possible",
        ),
        (
            |c| c.cgroups.sets[0].namespace = Some(0),
            "set of cgroups 0: refers to cgroup namespace 0, which is not in the image",
        ),
        (
            |c| c.tasks[0].threads[0].cgroups = Some(CgroupSetId(9)),
            "thread 1234: refers to set of cgroups 9, which is not in the image",
        ),
    ]);
}
