//! A synthetic image for tests: small, but with something in every table.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::os::unix::fs::FileExt;
use std::path::Path;

use icecore_images::Checkpoint;
use icecore_images::ImageWriter;
use icecore_images::bytes::ByteString;
use icecore_images::cgroup::*;
use icecore_images::connection::*;
use icecore_images::creds::CredsState;
use icecore_images::epoll::{EpollState, EpollTarget};
use icecore_images::eventfd::EventFdState;
use icecore_images::files::{FdEntry, FdTable, FileKind, FileOwner, FsState, OpenFile};
use icecore_images::ids::*;
use icecore_images::inet::*;
use icecore_images::limits::Rlimit;
use icecore_images::lock::{FileLock, LockKind};
use icecore_images::machine::MachineState;
use icecore_images::mm::*;
use icecore_images::pages::*;
use icecore_images::pipe::{PipeChunk, PipeEnd, PipeState};
use icecore_images::prctl::*;
use icecore_images::regular::{FileRef, GhostFile};
use icecore_images::sched::*;
use icecore_images::seccomp::{SeccompFilter, SeccompState};
use icecore_images::shmem::{ShmemKind, ShmemState};
use icecore_images::signals::*;
use icecore_images::socket::{SocketOption, SocketState};
use icecore_images::task::*;
use icecore_images::tcp::*;
use icecore_images::thread::*;
use icecore_images::timerfd::TimerFdState;
use icecore_images::timers::*;
use icecore_images::unix::{
    UnixCredentials, UnixFile, UnixName, UnixPeer, UnixRecord, UnixSocketKind, UnixSocketState,
};

/// Pages stored for the sample: two for the heap, one for the ghost, one for
/// the memfd.
pub const STORED: u64 = 4;

/// Contents of the sample's page file: every page is filled with its number.
pub fn page_bytes() -> Vec<u8> {
    (0..STORED)
        .flat_map(|n| vec![n as u8 + 1; PAGE_SIZE as usize])
        .collect()
}

/// Writes the sample into `dir`.
pub fn write(dir: &Path) -> Checkpoint {
    let checkpoint = checkpoint();
    write_as(dir, &checkpoint, &page_bytes());
    checkpoint
}

/// Writes any checkpoint with one page file.
pub fn write_as(dir: &Path, checkpoint: &Checkpoint, pages: &[u8]) {
    let mut writer = ImageWriter::create(dir).unwrap();
    let file = writer.page_file(0).unwrap();
    file.write_all_at(pages, 0).unwrap();
    writer.commit(checkpoint).unwrap();
}

/// Describes a page file with these contents.
pub fn page_file(bytes: &[u8]) -> PageFile {
    PageFile {
        length: bytes.len() as u64,
        codec: PageCodec::Raw,
        chunks: bytes
            .chunks(CHUNK_SIZE as usize)
            .map(chunk_checksum)
            .collect(),
    }
}

fn text(s: &str) -> ByteString {
    s.as_bytes().into()
}

fn file(path: &str, mode: u32) -> FileRef {
    FileRef {
        path: text(path),
        mode,
        size: 4096,
        mtime_ns: 1_700_000_000_000_000_000,
        device: 0x801,
        inode: 4711,
        build_id: None,
        ghost: None,
    }
}

fn stored(start: u64, count: u64, page: u64) -> PageExtent {
    let source = PageSource::File {
        file: 0,
        offset: page * PAGE_SIZE,
    };
    PageExtent {
        start,
        count,
        source,
    }
}

fn lock(kind: LockKind, write: bool, start: u64, end: u64) -> FileLock {
    FileLock {
        kind,
        write,
        start,
        end,
        table: (kind == LockKind::Posix).then_some(FdTableId(0)),
    }
}

fn open_file(id: u32, flags: u32, kind: FileKind) -> OpenFile {
    OpenFile {
        id: DescriptionId(id),
        flags,
        position: 0,
        owner: None,
        locks: Vec::new(),
        kind,
    }
}

/// The sample.
pub fn checkpoint() -> Checkpoint {
    Checkpoint {
        machine: machine(),
        clocks: ClockState {
            realtime_ns: 1_760_000_000_000_000_000,
            monotonic_ns: 5_000_000_000,
            boottime_ns: 6_000_000_000,
        },
        tasks: vec![task()],
        mms: vec![mm()],
        fd_tables: vec![FdTable {
            id: FdTableId(0),
            entries: (0..8)
                .map(|fd| FdEntry {
                    fd,
                    cloexec: fd == 3,
                    description: DescriptionId(fd.min(6)),
                })
                .collect(),
        }],
        fs: vec![FsState {
            id: FsId(0),
            cwd: file("/home/user", 0o040_755),
            root: file("/", 0o040_755),
            umask: 0o022,
        }],
        sig_hands: vec![SigHandState {
            id: SigHandId(0),
            actions: vec![SigAction {
                signal: 14,
                handler: 0x40_1000,
                flags: 0x0400_0000,
                restorer: 0x40_1100,
                mask: 0,
            }],
        }],
        files: files(),
        pipes: vec![PipeState {
            id: PipeId(0),
            inode: 99,
            fifo: None,
            capacity: 65536,
            queue: vec![PipeChunk {
                bytes: text("queued"),
                packet: false,
            }],
            uid: 1000,
            gid: 1000,
        }],
        ghosts: vec![ghost()],
        shmems: vec![ShmemState {
            id: ShmemId(0),
            inode: 12,
            size: 8192,
            kind: ShmemKind::MemFd {
                name: text("buffer"),
                seals: 0,
                huge_page_size: 0,
                mode: 0o777,
                uid: 1000,
                gid: 1000,
            },
            pages: vec![stored(0, 1, 3)],
        }],
        seccomp_filters: vec![SeccompFilter {
            id: SeccompFilterId(0),
            flags: 0,
            program: vec![(0x06, 0, 0, 0x7fff_0000)],
        }],
        page_files: vec![page_file(&page_bytes())],
        cgroups: cgroups(),
    }
}

fn machine() -> MachineState {
    MachineState {
        icecore: "0.1.0".into(),
        kernel: text("6.18.0"),
        host: text("polar"),
        boot_id: text("6b0f2a34-0000-4000-8000-000000000000"),
        cpu: text("a processor"),
        xcr0: 0x7,
        cpu_features: vec![1, 2, 3],
        created: 1_760_000_000,
        command: vec![text("icecore"), text("dump"), text("-t"), text("1234")],
    }
}

fn files() -> Vec<OpenFile> {
    let mut appended = open_file(
        2,
        0o102_001,
        FileKind::Regular(file("/var/log/app.txt", 0o100_644)),
    );
    appended.position = 17;
    appended.owner = Some(FileOwner {
        kind: 1,
        id: 1234,
        signal: 29,
        uids: (1000, 1000),
    });
    appended.locks = vec![
        lock(LockKind::Flock, true, 0, i64::MAX as u64),
        lock(LockKind::Posix, false, 10, 14),
        lock(LockKind::Ofd, true, 100, i64::MAX as u64),
    ];
    let mut deleted = file("/tmp/gone", 0o100_600);
    deleted.ghost = Some(GhostId(0));
    let epoll = EpollState {
        targets: vec![EpollTarget {
            fd: 0,
            description: DescriptionId(0),
            events: 1,
            data: 77,
        }],
    };
    let timer = TimerFdState {
        clock: 1,
        settime_flags: 0,
        ticks: 2,
        expires_ns: 500,
        interval_ns: 1000,
    };
    let end = PipeEnd { pipe: PipeId(0) };
    let counter = EventFdState {
        count: 3,
        semaphore: false,
    };
    vec![
        open_file(0, 0o0, FileKind::Pipe(end)),
        open_file(1, 0o1, FileKind::Pipe(end)),
        appended,
        open_file(3, 0o100_002, FileKind::Regular(deleted)),
        open_file(4, 0o2, FileKind::EventFd(counter)),
        open_file(5, 0o2, FileKind::Epoll(epoll)),
        open_file(6, 0o2, FileKind::TimerFd(timer)),
        open_file(7, 0o100_002, FileKind::MemFd(ShmemId(0))),
        open_file(8, 0o2, FileKind::Unix(socket(9, "half way"))),
        open_file(9, 0o2, FileKind::Unix(socket(8, "there"))),
        open_file(10, 0o2, FileKind::Connection(connection())),
        open_file(11, 0o2, FileKind::Inet(listening())),
        open_file(12, 0o2, FileKind::Inet(datagrams())),
        open_file(13, 0o2, FileKind::Inet(tcp())),
    ]
}

fn connection() -> ConnectionState {
    ConnectionState {
        policy: ConnectionPolicy::Auto,
        kept: true,
        end: ConnectionEnd::Unix(UnixConnection {
            inode: 110,
            kind: UnixSocketKind::Stream,
            peer: ByteString::from(&b"/run/bus"[..]),
            closed: Some(UnixSocketState {
                peer: UnixPeer::Closed { name: None },
                shutdown: 3,
                ..socket(10, "left")
            }),
        }),
    }
}

fn socket(peer: u32, queued: &str) -> UnixSocketState {
    UnixSocketState {
        inode: 100 + u64::from(peer),
        kind: UnixSocketKind::Stream,
        name: Some(UnixName {
            name: text("socket"),
            file: Some(UnixFile {
                path: text("/run/socket"),
                mode: 0o140_755,
                uid: 1000,
                gid: 1000,
            }),
        }),
        peer: UnixPeer::Open(DescriptionId(peer)),
        peer_credentials: Some(UnixCredentials {
            pid: 77,
            uid: 1000,
            gid: 1000,
            groups: vec![4, 20],
        }),
        shutdown: 0,
        reset: false,
        queue: vec![UnixRecord {
            bytes: text(queued),
            rights: vec![DescriptionId(4)],
            credentials: None,
            sender: None,
        }],
        urgent: Some(2),
        options: vec![(16, 1)],
        send_buffer: 212_992,
        receive_buffer: 212_992,
        send_timeout_us: 0,
        receive_timeout_us: 1_500_000,
        uid: 1000,
        gid: 1000,
    }
}

fn plain(inode: u64) -> SocketState {
    SocketState {
        inode,
        uid: 0,
        gid: 0,
        options: vec![SocketOption {
            level: 1,
            number: 9,
            value: ByteString(vec![1, 0, 0, 0]),
        }],
        filter: vec![(6, 0, 0, 7)],
    }
}

fn listening() -> InetSocketState {
    let (ip, port) = ([127, 0, 0, 1], 80);
    InetSocketState {
        socket: plain(110),
        v6: false,
        protocol: InetProtocol::Tcp,
        local: Some(InetAddress::V4 { ip, port }),
        role: InetRole::Listening { backlog: 128 },
    }
}

fn tcp() -> InetSocketState {
    let address = |port| InetAddress::V4 {
        ip: [127, 0, 0, 1],
        port,
    };
    let queue = |sequence, data| TcpQueue {
        sequence,
        data: text(data),
    };
    InetSocketState {
        socket: plain(112),
        v6: false,
        protocol: InetProtocol::Tcp,
        local: Some(address(40_000)),
        role: InetRole::Connection(Box::new(TcpConnection {
            peer: address(80),
            other: None,
            lock: text("icecore-tcp-1-2"),
            sending: queue(1, "asked"),
            receiving: queue(u32::MAX, "told"),
            shutdown: 0,
            other_is_done: false,
            agreed: TcpAgreement {
                segment: 1460,
                scale: Some((7, 7)),
                selective: true,
                timestamp: Some(5),
            },
            window: TcpWindow::default(),
        })),
    }
}

fn datagrams() -> InetSocketState {
    let mut ip = [0; 16];
    ip[15] = 1;
    let address = |port| InetAddress::V6 {
        ip,
        port,
        flow: 0,
        scope: 0,
    };
    let datagram = Datagram {
        from: address(1000),
        data: text("hello"),
    };
    InetSocketState {
        socket: plain(111),
        v6: true,
        protocol: InetProtocol::Udp,
        local: Some(address(53)),
        role: InetRole::Datagrams(Datagrams {
            peer: Some(address(1000)),
            shutdown: 0,
            queue: vec![datagram],
            groups: vec![MulticastGroup {
                interface: text("lo"),
                group: address(0),
            }],
        }),
    }
}

fn ghost() -> GhostFile {
    GhostFile {
        id: GhostId(0),
        path: text("/tmp/gone"),
        mode: 0o100_600,
        uid: 1000,
        gid: 1000,
        size: 4096,
        atime_ns: 0,
        mtime_ns: 0,
        xattrs: vec![(text("user.note"), text("hello"))],
        pages: vec![stored(0, 1, 2)],
    }
}

fn vma(start: u64, pages: u64, prot: u32, backing: Backing) -> Vma {
    Vma {
        start,
        end: start + pages * PAGE_SIZE,
        prot,
        shared: matches!(backing, Backing::Shmem { .. }),
        backing,
        flags: VmaFlags::default(),
        pkey: 0,
        numa: None,
        anon_name: None,
        guards: Vec::new(),
    }
}

fn mm() -> MmState {
    let program = file("/usr/bin/app", 0o100_755);
    let text_backing = Backing::File {
        file: program.clone(),
        offset: 0,
        writable: false,
    };
    let shared = Backing::Shmem {
        id: ShmemId(0),
        offset: 0,
        writable: true,
        sealed: false,
    };
    let mut heap = vma(0x60_0000, 16, 3, Backing::Anonymous);
    heap.guards = vec![(0x60_f000, 0x61_0000)];
    let mut stack = vma(0x7fff_f000_0000, 33, 3, Backing::Anonymous);
    stack.flags.grows_down = true;
    MmState {
        id: MmId(0),
        fields: MmFields {
            start_code: 0x40_0000,
            end_code: 0x40_1800,
            start_data: 0x60_0000,
            end_data: 0x60_0100,
            start_brk: 0x60_1000,
            brk: 0x60_2000,
            start_stack: 0x7fff_f002_0000,
            arg_start: 0x7fff_f002_0010,
            arg_end: 0x7fff_f002_0020,
            env_start: 0x7fff_f002_0020,
            env_end: 0x7fff_f002_0040,
            auxv: ByteString(vec![0; 16]),
        },
        exe: program,
        controls: MmControls {
            dumpable: 1,
            coredump_filter: 0x33,
            ..MmControls::default()
        },
        vmas: vec![
            vma(0x40_0000, 2, 5, text_backing.clone()),
            vma(0x5f_f000, 1, 3, text_backing),
            heap,
            vma(0x70_0000, 2, 3, shared),
            stack,
            vma(0x7fff_f100_0000, 4, 1, Backing::Vvar),
            vma(0x7fff_f100_4000, 2, 5, Backing::Vdso),
        ],
        vdso: Some(VdsoState {
            checksum: 0x1234,
            image: ByteString(vec![0x7f; 64]),
            symbols: vec![(text("__vdso_clock_gettime"), 0x900)],
        }),
        pages: vec![
            stored(0x5f_f000, 2, 0),
            PageExtent {
                start: 0x60_3000,
                count: 1,
                source: PageSource::Zero,
            },
        ],
    }
}

fn task() -> TaskState {
    TaskState {
        pid: 1234,
        parent: None,
        pgid: 1234,
        sid: 1200,
        ns_pids: vec![1234],
        run: RunState::Running,
        exit_signal: 17,
        mm: MmId(0),
        fd_table: FdTableId(0),
        fs: FsId(0),
        sig_hand: SigHandId(0),
        pending: vec![siginfo(10)],
        interval_timers: [IntervalTimer::default(); 3],
        posix_timers: vec![PosixTimer {
            id: 0,
            clock: 1,
            notify: TimerNotify::Thread { tid: 1235 },
            signal: 34,
            value: 9,
            remaining_ns: 1000,
            interval_ns: 0,
            overrun: 0,
            fired: false,
        }],
        rlimits: vec![
            Rlimit {
                soft: 1024,
                hard: u64::MAX
            };
            16
        ],
        oom_score_adj: 0,
        login_uid: u32::MAX,
        autogroup: None,
        controls: TaskControls::default(),
        cpu_time: CpuTime {
            user: 10,
            ..CpuTime::default()
        },
        threads: vec![thread(1234), thread(1235)],
    }
}

fn siginfo(signal: u8) -> PendingSignal {
    let mut bytes = vec![0; 128];
    bytes[0] = signal;
    PendingSignal {
        siginfo: ByteString(bytes),
    }
}

/// A standard-format XSAVE area with x87 and SSE components.
fn xstate() -> XState {
    let mut area = vec![0; 832];
    area[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    area[464] = 7;
    area[512] = 3;
    XState {
        xcr0: 7,
        layout: vec![XComponent {
            number: 2,
            offset: 576,
            size: 256,
        }],
        area: ByteString(area),
    }
}

fn thread(tid: u32) -> ThreadState {
    ThreadState {
        tid,
        ns_tids: vec![tid],
        comm: text("app"),
        registers: Registers {
            rip: 0x40_1234,
            rsp: 0x7fff_f001_0000,
            cs: 0x33,
            ss: 0x2b,
            eflags: 0x246,
            orig_rax: 230,
            rax: (-516_i64).cast_unsigned(),
            ..Registers::default()
        },
        xstate: xstate(),
        interrupted: Interrupted::Timed {
            remaining_ns: Some(1_000_000),
        },
        signal_mask: 0,
        pending: Vec::new(),
        alt_stack: SigAltStack::default(),
        clear_child_tid: 0x60_0010,
        robust_list: RobustList {
            head: 0x60_0020,
            len: 24,
        },
        rseq: Some(Rseq {
            address: 0x60_0100,
            len: 32,
            signature: 0x5305_3053,
            flags: 0,
        }),
        syscall_user_dispatch: None,
        creds: CredsState {
            uids: [1000; 4],
            gids: [1000; 4],
            groups: vec![1000, 27],
            ..CredsState::default()
        },
        seccomp: SeccompState::Filter(vec![SeccompFilterId(0)]),
        sched: SchedState {
            affinity: vec![3],
            timer_slack_ns: 50_000,
            ..SchedState::default()
        },
        controls: ThreadControls {
            tsc: 1,
            ..ThreadControls::default()
        },
        cgroups: Some(CgroupSetId(0)),
    }
}

fn cgroups() -> CgroupsState {
    let attributes = CgroupAttributes {
        uid: 0,
        gid: 0,
        mode: 0o644,
    };
    CgroupsState {
        mode: CgroupMode::Soft,
        records: CgroupRecords::All,
        hierarchies: vec![CgroupHierarchy {
            version: CgroupVersion::V2,
            controllers: vec!["pids".to_owned()],
            root: text("/job"),
            cgroups: vec![Cgroup {
                path: text("/job"),
                attributes,
                kind: Some(CgroupKind::Domain),
                frozen: false,
                properties: vec![CgroupProperty {
                    name: "pids.max".to_owned(),
                    value: text("64"),
                    attributes,
                }],
                files: vec![CgroupFile {
                    name: "cgroup.procs".to_owned(),
                    attributes,
                }],
            }],
        }],
        sets: vec![CgroupSet {
            paths: vec![text("/job")],
            namespace: None,
        }],
        namespaces: Vec::new(),
    }
}
