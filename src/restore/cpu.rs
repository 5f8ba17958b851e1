//! CPU features that a task may have chosen its code by.

use super::RestoreContext;
use crate::blocker::Place;
use crate::kernel::cpu;

/// Notes the features that the CPU of the dump had and this one lacks.
pub(super) fn plan(ctx: &mut RestoreContext<'_>) {
    let machine = &ctx.image.machine;
    let missing = cpu::missing(&machine.cpu_features, &cpu::features());
    if missing.is_empty() {
        return;
    }
    let problem = format!(
        "this CPU lacks what the one of the dump had: {} (there: {}; here: {})",
        missing.join(" "),
        machine.cpu,
        cpu::model(),
    );
    let help = "restore on a machine whose CPU has these features";
    ctx.obstacle(Place::Machine, problem, Some(help));
}
