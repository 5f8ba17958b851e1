//! What an address space has besides its areas: fields, program, prctl state.

use icecore_images::mm::{MmFields, MmState};

use super::mapped::MappedFiles;
use crate::tracer::{Arg, Script};

const PR_SET_MM_MAP: u64 = 14;
const PR_SET_MEMORY_MERGE: u64 = 67;

/// `struct prctl_mm_map`: eleven addresses, the pointer to the auxiliary
/// vector, its length, the program's descriptor.
const AUXV_AT: usize = 11 * 8;
const LEN: usize = AUXV_AT + 8 + 4 + 4;

/// Sets where code, data, heap, stack, arguments and environment lie, the
/// auxiliary vector and the program, unless that is the `same` already: it can
/// only be changed where nothing of the old one is mapped.
pub(super) fn set_fields(mm: &MmState, files: &MappedFiles, same: bool, script: &mut Script) {
    const NONE: u32 = u32::MAX;
    let auxv = script.bytes(&mm.fields.auxv.0);
    let exe = if same { None } else { files.exe(mm) };
    let map = script.bytes(&encode(&mm.fields, exe.unwrap_or(NONE)));
    script.pointer(map, AUXV_AT, auxv);
    let args = [
        Arg::from(libc::PR_SET_MM as u64),
        PR_SET_MM_MAP.into(),
        map.into(),
        (LEN as u64).into(),
        0.into(),
    ];
    script.call(
        "set the fields and the program of the address space",
        libc::SYS_prctl as u32,
        args,
    );
}

fn encode(fields: &MmFields, exe: u32) -> Vec<u8> {
    let addresses = [
        fields.start_code,
        fields.end_code,
        fields.start_data,
        fields.end_data,
        fields.start_brk,
        fields.brk,
        fields.start_stack,
        fields.arg_start,
        fields.arg_end,
        fields.env_start,
        fields.env_end,
    ];
    let mut bytes: Vec<u8> = addresses.iter().flat_map(|a| a.to_le_bytes()).collect();
    bytes.resize(AUXV_AT + 8, 0);
    bytes.extend((fields.auxv.0.len() as u32).to_le_bytes());
    bytes.extend(exe.to_le_bytes());
    bytes
}

/// prctl state that does not depend on credentials.
pub(super) fn set_controls(mm: &MmState, script: &mut Script) {
    let mut prctl = |what: &'static str, option: u64, a: u64, b: u64| {
        script.call(what, libc::SYS_prctl as u32, [option, a, b, 0, 0]);
    };
    if mm.controls.memory_merge {
        prctl("merge equal pages", PR_SET_MEMORY_MERGE, 1, 0);
    }
    if mm.controls.thp_disable != 0 {
        // Bit 0 says that it is off, the others are the flags it was given.
        let flags = mm.controls.thp_disable & !1;
        let option = libc::PR_SET_THP_DISABLE as u64;
        prctl("disable huge pages", option, 1, flags);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_has_the_kernels_layout() {
        let fields = MmFields {
            start_code: 1,
            env_end: 11,
            auxv: vec![0; 32].into(),
            ..MmFields::default()
        };
        let bytes = encode(&fields, 7);
        assert_eq!(bytes.len(), LEN);
        assert_eq!((bytes[0], bytes[10 * 8]), (1, 11));
        assert_eq!((bytes[AUXV_AT + 8], bytes[AUXV_AT + 12]), (32, 7));
    }
}
