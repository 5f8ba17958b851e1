//! Extended state: the vector registers and what else XSAVE knows, brought into
//! the layout of this CPU.

use icecore_images::thread::{XComponent, XState};

use super::RestoreContext;
use crate::blocker::Place;
use crate::kernel::cpu;

/// Legacy area of x87 and SSE; behind it the XSAVE header.
const LEGACY: usize = 512;
const HEADER: usize = LEGACY + 64;
/// Where the kernel notes XCR0 in the legacy area.
const XCR0_AT: usize = 464;

/// Notes every thread that uses registers this CPU does not have.
pub(crate) fn plan(ctx: &mut RestoreContext<'_>) {
    let here = cpu::xcr0_possible();
    let image = ctx.image;
    for task in &image.tasks {
        for thread in &task.threads {
            let missing = in_use(&thread.xstate) & !here;
            if missing != 0 {
                let place = Place::Thread {
                    pid: task.pid,
                    tid: thread.tid,
                };
                let problem = format!("uses {}, which this CPU does not have", names(missing));
                ctx.obstacle(
                    place,
                    problem,
                    Some("restore on a CPU like the one of the dump"),
                );
            }
        }
    }
}

/// The area as this CPU has it. `here` is any area of this CPU, for its length
/// and XCR0. The error names what it lacks.
pub(crate) fn convert(state: &XState, here: &[u8]) -> Result<Vec<u8>, String> {
    let from = &state.area.0;
    if from.len() < HEADER || here.len() < HEADER {
        return Err(format!("an extended state of {} bytes", from.len()));
    }
    let enabled = word(here, XCR0_AT);
    let used = in_use(state);
    if used & !enabled != 0 {
        return Err(format!(
            "the kernel has not enabled {}",
            names(used & !enabled)
        ));
    }
    let mut area = vec![0; here.len()];
    area[..LEGACY].copy_from_slice(&from[..LEGACY]);
    area[XCR0_AT..LEGACY].copy_from_slice(&here[XCR0_AT..LEGACY]);
    area[LEGACY..LEGACY + 8].copy_from_slice(&used.to_le_bytes());
    let ours = cpu::xsave_layout(enabled);
    for theirs in state.layout.iter().filter(|c| used & bit(c.number) != 0) {
        let place = ours.iter().find(|c| c.number == theirs.number);
        let source = slice(from, theirs);
        match (source, place) {
            (Some(source), Some(place)) if source.len() <= place.size as usize => {
                let at = place.offset as usize;
                let to = area.get_mut(at..at + source.len());
                to.ok_or("a layout beyond its area")?
                    .copy_from_slice(source);
            }
            _ => return Err(format!("{} of another size", names(bit(theirs.number)))),
        }
    }
    Ok(area)
}

fn slice<'a>(area: &'a [u8], component: &XComponent) -> Option<&'a [u8]> {
    let at = component.offset as usize;
    area.get(at..at.checked_add(component.size as usize)?)
}

/// Components that are not in their initial state.
fn in_use(state: &XState) -> u64 {
    match state.area.0.len() {
        HEADER.. => word(&state.area.0, LEGACY),
        _ => 0,
    }
}

fn bit(number: u32) -> u64 {
    1_u64.checked_shl(number).unwrap_or(0)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn names(components: u64) -> String {
    let name = |number| match number {
        0 => "x87".to_owned(),
        1 => "SSE".to_owned(),
        2 => "AVX".to_owned(),
        3 | 4 => "MPX".to_owned(),
        5..=7 => "AVX-512".to_owned(),
        9 => "protection keys".to_owned(),
        17 | 18 => "AMX".to_owned(),
        19 => "APX".to_owned(),
        n => format!("extended state component {n}"),
    };
    let mut names: Vec<String> = (0..64)
        .filter(|&n| components & bit(n) != 0)
        .map(name)
        .collect();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use icecore_images::bytes::ByteString;

    /// An area of 1024 bytes on a CPU with AVX (0b111) enabled.
    fn here() -> Vec<u8> {
        let mut area = vec![0; 1024];
        area[XCR0_AT] = 0b111;
        area
    }

    fn image(used: u64, offset: u32) -> XState {
        let mut area = vec![0; 2048];
        area[..8].fill(7);
        area[LEGACY..LEGACY + 8].copy_from_slice(&used.to_le_bytes());
        area[offset as usize..][..256].fill(9);
        XState {
            xcr0: 0b111,
            layout: vec![XComponent {
                number: 2,
                offset,
                size: 256,
            }],
            area: ByteString(area),
        }
    }

    #[test]
    fn components_move_to_where_this_cpu_has_them() {
        let area = convert(&image(0b111, 1000), &here()).unwrap();
        assert_eq!(area.len(), 1024);
        assert_eq!(area[..8], [7; 8]);
        assert_eq!(area[576..832], [9; 256]);
        assert_eq!(area[832..], [0; 192]);
    }

    #[test]
    fn what_the_cpu_lacks_is_named() {
        let error = convert(&image(0b1110_0011, 1000), &here()).unwrap_err();
        assert_eq!(error, "the kernel has not enabled AVX-512");
    }

    #[test]
    fn a_layout_outside_the_area_is_an_error() {
        let mut state = image(0b111, 1000);
        state.layout[0].offset = u32::MAX;
        assert!(convert(&state, &here()).is_err());
    }
}
