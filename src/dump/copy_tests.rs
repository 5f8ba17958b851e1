use super::super::pages::{Contents, Source};
use super::*;
use crate::kernel::maps;
use crate::kernel::process_memory::ProcessMemory;
use crate::options::DumpOptions;

const PAGES: usize = 3000;

fn context(options: &DumpOptions) -> DumpContext<'_> {
    DumpContext::new(options)
}

/// Memory of ours: every page holds its number, every seventh is zero.
fn memory() -> (Vec<u8>, u64) {
    let mut bytes = vec![0; (PAGES + 1) * PAGE];
    let start = (bytes.as_ptr() as u64).next_multiple_of(PAGE_SIZE);
    let skip = (start - bytes.as_ptr() as u64) as usize;
    for (i, page) in bytes[skip..].chunks_exact_mut(PAGE).enumerate() {
        if i % 7 != 0 {
            page.fill(i as u8 | 1);
            page[..8].copy_from_slice(&(i as u64).to_le_bytes());
        }
    }
    (bytes, start)
}

/// All pages but every fiftieth, which is as if it were not there.
fn plan(start: u64, file: File) -> Plan {
    let memory = Contents::Memory {
        memory: ProcessMemory::open(std::process::id()).unwrap(),
        hidden_guards: false,
    };
    let runs = (0..PAGES as u64).step_by(50).map(|first| Piece {
        source: 0,
        start: start + first * PAGE_SIZE,
        end: start + (first + 49) * PAGE_SIZE,
        unpinned: first % 4 == 0,
    });
    let mut pieces: Vec<_> = runs.collect();
    pieces.push(Piece {
        source: 1,
        start: 0,
        end: 2 * PAGE_SIZE,
        unpinned: false,
    });
    let source = |owner, contents| Source { owner, contents };
    let sources = vec![
        source(Owner::Mm(0), memory),
        source(Owner::Shmem(0), Contents::File(file)),
    ];
    Plan::new(sources, pieces)
}

/// Reads page `address` of a source back from the page file.
fn stored(extents: &[PageExtent], address: u64, file: &File) -> Option<Vec<u8>> {
    let at = extents.partition_point(|e| e.start + e.count * PAGE_SIZE <= address);
    let extent = extents.get(at).filter(|e| e.start <= address)?;
    let mut page = vec![0; PAGE];
    if let PageSource::File { offset, .. } = extent.source {
        file.read_exact_at(&mut page, offset + (address - extent.start))
            .unwrap();
    }
    Some(page)
}

#[test]
fn every_page_is_where_its_extent_says_whoever_copied_it() {
    let (bytes, start) = memory();
    let skip = (start - bytes.as_ptr() as u64) as usize;
    for workers in [1, 2, 5] {
        let short = tempfile::tempfile().unwrap();
        short.write_all_at(&[5; PAGE + 1], 0).unwrap();
        let plan = plan(start, short);
        let mut options = DumpOptions::new(1, "/nowhere");
        options.threads = Some(workers);
        let file = tempfile::tempfile().unwrap();
        let copied = run(&mut context(&options), &plan, &file, 0).unwrap();
        for i in 0..PAGES {
            let found = stored(&copied.extents[0], start + (i * PAGE) as u64, &file);
            let expected = (i % 50 != 49).then(|| bytes[skip + i * PAGE..][..PAGE].to_vec());
            assert!(found == expected, "page {i} with {workers} workers");
        }
        let last = stored(&copied.extents[1], PAGE_SIZE, &file).unwrap();
        assert!(last[0] == 5 && last[1..].iter().all(|&b| b == 0));
        check_page_file(&copied, &file);
    }
}

fn check_page_file(copied: &Copied, file: &File) {
    let described = copied.page_file.as_ref().unwrap();
    assert_eq!(file.metadata().unwrap().len(), described.length);
    assert_eq!(described.length, copied.pages_written * PAGE_SIZE);
    let mut bytes = vec![0; described.length as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let checksums: Vec<u32> = bytes.chunks(CHUNK).map(chunk_checksum).collect();
    assert_eq!(checksums, described.chunks);
    let zeros = (0..PAGES).filter(|i| i % 7 == 0 && i % 50 != 49).count();
    assert_eq!(copied.pages_zero, zeros as u64);
}

#[test]
fn a_page_that_is_not_there_is_named() {
    let mut plan = plan(0, tempfile::tempfile().unwrap());
    plan.pieces = vec![Piece {
        source: 0,
        start: PAGE_SIZE,
        end: 2 * PAGE_SIZE,
        unpinned: false,
    }];
    let options = DumpOptions::new(77, "/nowhere");
    let file = tempfile::tempfile().unwrap();
    let error = run(&mut context(&options), &plan, &file, 0).unwrap_err();
    assert_eq!(error.to_string(), "dump pid 77: read the page at 0x1000");
}

#[test]
fn a_cancelled_copy_says_so() {
    let (_bytes, start) = memory();
    let plan = plan(start, tempfile::tempfile().unwrap());
    let options = DumpOptions::new(1, "/nowhere");
    options.cancel.cancel();
    let file = tempfile::tempfile().unwrap();
    let error = run(&mut context(&options), &plan, &file, 0).unwrap_err();
    assert!(matches!(error, DumpError::Cancelled), "{error}");
}

/// On Linux 6.13 and 6.14 page maps show guard pages as swapped ones. To a
/// reader they are like pages that are not there.
#[test]
fn hidden_guard_pages_are_found_by_reading() {
    let (bytes, start) = memory();
    let lowest = maps::read_maps(std::process::id()).unwrap()[0].start;
    let hole = lowest - 4 * PAGE_SIZE;
    let mut plan = plan(start, tempfile::tempfile().unwrap());
    let memory = ProcessMemory::open(std::process::id()).unwrap();
    plan.sources[0].contents = Contents::Memory {
        memory,
        hidden_guards: true,
    };
    let piece = |start, pages| Piece {
        source: 0,
        start,
        end: start + pages * PAGE_SIZE,
        unpinned: false,
    };
    plan.pieces = vec![piece(hole, 2), piece(lowest, 1), piece(start, 3)];
    let options = DumpOptions::new(1, "/nowhere");
    let file = tempfile::tempfile().unwrap();
    let copied = run(&mut context(&options), &plan, &file, 0).unwrap();
    let guards = [hole, hole + PAGE_SIZE].map(|at| (0, at, at + PAGE_SIZE));
    assert_eq!(copied.guards, guards);
    assert_eq!(stored(&copied.extents[0], hole, &file), None);
    let skip = (start - bytes.as_ptr() as u64) as usize;
    let second = stored(&copied.extents[0], start + PAGE_SIZE, &file).unwrap();
    assert!(second == bytes[skip + PAGE..][..PAGE]);
}
