//! What is written comes back, whatever it is.
#![allow(clippy::unwrap_used)]

mod sample;

use icecore_images::Image;
use icecore_images::bytes::ByteString;
use icecore_images::pages::{PAGE_SIZE, PageExtent, PageSource};
use icecore_images::pipe::PipeChunk;
use icecore_images::thread::{Interrupted, Registers};
use proptest::prelude::*;

/// Bytes without a zero, as the kernel's strings are.
fn text(max: usize) -> impl Strategy<Value = ByteString> {
    prop::collection::vec(1_u8.., 0..=max).prop_map(ByteString)
}

fn path() -> impl Strategy<Value = ByteString> {
    text(300).prop_map(|tail| ByteString([b"/".as_slice(), &tail.0].concat()))
}

fn registers() -> impl Strategy<Value = Registers> {
    (any::<[u64; 8]>(), 0_u64..1 << 56).prop_map(|(r, rip)| Registers {
        rax: r[0],
        rbx: r[1],
        rcx: r[2],
        rdx: r[3],
        rsp: r[4],
        rbp: r[5],
        eflags: r[6],
        orig_rax: r[7],
        rip,
        cs: 0x33,
        ss: 0x2b,
        ..Registers::default()
    })
}

fn interrupted() -> impl Strategy<Value = Interrupted> {
    prop_oneof![
        Just(Interrupted::No),
        Just(Interrupted::Reissue),
        any::<Option<u64>>().prop_map(|remaining_ns| Interrupted::Timed { remaining_ns }),
    ]
}

/// Extents of the heap's first pages: kept or not, stored or zero.
fn extents() -> impl Strategy<Value = Vec<PageExtent>> {
    prop::collection::vec(any::<Option<bool>>(), 0..15).prop_map(|pages| {
        let extent = |(n, stored): (usize, bool)| PageExtent {
            start: 0x60_0000 + n as u64 * PAGE_SIZE,
            count: 1,
            source: match stored {
                true => PageSource::File {
                    file: 0,
                    offset: n as u64 % sample::STORED * PAGE_SIZE,
                },
                false => PageSource::Zero,
            },
        };
        let kept = pages.into_iter().enumerate();
        kept.filter_map(|(n, page)| page.map(|stored| extent((n, stored))))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn metadata(
        comm in text(15),
        cwd in path(),
        host in text(256),
        queue in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 1..2000), any::<bool>()), 0..16),
        registers in registers(),
        interrupted in interrupted(),
        extents in extents(),
        mtime in any::<i64>(),
    ) {
        let mut checkpoint = sample::checkpoint();
        checkpoint.machine.host = host;
        checkpoint.fs[0].cwd.path = cwd;
        checkpoint.fs[0].cwd.mtime_ns = mtime;
        checkpoint.pipes[0].queue = queue
            .into_iter()
            .map(|(bytes, packet)| PipeChunk { bytes: ByteString(bytes), packet })
            .collect();
        checkpoint.mms[0].pages = extents;
        let thread = &mut checkpoint.tasks[0].threads[1];
        thread.comm = comm;
        thread.registers = registers;
        thread.interrupted = interrupted;

        let base = tempfile::tempdir().unwrap();
        sample::write_as(base.path(), &checkpoint, &sample::page_bytes());
        prop_assert_eq!(Image::open(base.path()).unwrap().checkpoint, checkpoint);
    }

    #[test]
    fn pages(
        pages in 1..700_u64,
        seed in any::<u8>(),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
    ) {
        let length = (pages * PAGE_SIZE) as usize;
        let bytes: Vec<u8> = (0..length).map(|n| (n / 7) as u8 ^ seed).collect();
        let mut checkpoint = sample::checkpoint();
        checkpoint.mms[0].pages.clear();
        checkpoint.ghosts[0].pages.clear();
        checkpoint.shmems[0].pages.clear();
        checkpoint.page_files = vec![sample::page_file(&bytes)];
        let base = tempfile::tempdir().unwrap();
        sample::write_as(base.path(), &checkpoint, &bytes);

        let image = Image::open(base.path()).unwrap();
        let (a, b) = (from.index(length), to.index(length));
        let (from, to) = (a.min(b), a.max(b));
        let mut out = vec![0; to - from];
        image.pages.read_at(0, from as u64, &mut out).unwrap();
        prop_assert_eq!(&out, &bytes[from..to]);
    }
}
