//! When pages are copied: all of them while the target stands still, or, where
//! it goes on afterwards (`-R`), as few as can be.
//!
//! - Ordinarily, everything is written before the target is released.
//! - With `-R` and little to copy, pages are read into memory; they are written
//!   when the target goes on.
//! - With `--live` they are read from copies that its tasks make of themselves.

use icecore_images::ImageWriter;

use super::capture::{self, Room};
use super::live::{self, Copies};
use super::pages::{self, Part, Plan};
use super::stopwatch::Stopwatch;
use super::{DumpContext, copy};
use crate::error::DumpError;
use crate::options::After;
use crate::tracer::Frozen;

/// What is to be copied still.
#[derive(Debug)]
pub(super) enum Rest {
    /// Nothing.
    Nothing,
    /// What has been read, and is to be written.
    Captured(Plan),
    /// What the copies hold.
    Copies(Copies),
}

impl Rest {
    /// Whether the target may go on before it is copied.
    pub(super) fn is_some(&self) -> bool {
        !matches!(self, Rest::Nothing)
    }
}

/// Memory for pages, where they may be held in memory; to be made before the
/// target is frozen.
pub(super) fn room(ctx: &DumpContext<'_>) -> Option<Room> {
    let options = ctx.options;
    let wanted =
        options.after == After::Run && !options.live && !options.observer.needs_it_frozen();
    wanted.then(|| Room::for_process(options.pid))
}

/// Copies what has to be copied while the target stands still.
pub(super) fn begin(
    ctx: &mut DumpContext<'_>,
    frozen: &mut Frozen,
    room: Option<Room>,
    writer: &mut ImageWriter,
) -> Result<Rest, DumpError> {
    let watch = Stopwatch::start();
    let rest = match (ctx.options.live, room) {
        (true, _) => begin_live(ctx, frozen, writer)?,
        (false, Some(room)) => begin_small(ctx, room, writer)?,
        (false, None) => {
            let plan = pages::plan(ctx, Part::Everything)?;
            write_all(ctx, plan, writer)?
        }
    };
    ctx.stats.memdump_us = watch.micros();
    Ok(rest)
}

fn begin_small(
    ctx: &mut DumpContext<'_>,
    room: Room,
    writer: &mut ImageWriter,
) -> Result<Rest, DumpError> {
    let mut plan = pages::plan(ctx, Part::Everything)?;
    if !capture::fits(&plan) {
        return write_all(ctx, plan, writer);
    }
    copy::capture(ctx, &mut plan, room)?;
    ctx.stats.pages_in_pause = plan.pages();
    Ok(Rest::Captured(plan))
}

fn begin_live(
    ctx: &mut DumpContext<'_>,
    frozen: &mut Frozen,
    writer: &mut ImageWriter,
) -> Result<Rest, DumpError> {
    let Some(copies) = live::copy_all(ctx, frozen) else {
        let plan = pages::plan(ctx, Part::Everything)?;
        return write_all(ctx, plan, writer);
    };
    match write_what_copies_lack(ctx, writer) {
        Ok(()) => Ok(Rest::Copies(copies)),
        Err(e) => {
            copies.take_back(frozen);
            Err(e)
        }
    }
}

fn write_what_copies_lack(
    ctx: &mut DumpContext<'_>,
    writer: &mut ImageWriter,
) -> Result<(), DumpError> {
    let plan = pages::plan(ctx, Part::NotInCopies)?;
    ctx.stats.pages_in_pause = plan.pages();
    match plan.pieces.is_empty() {
        // Guard pages, maybe.
        true => pages::record(ctx, plan, pages::Copied::default()),
        false => write(ctx, plan, writer)?,
    }
    Ok(())
}

fn write_all(
    ctx: &mut DumpContext<'_>,
    plan: Plan,
    writer: &mut ImageWriter,
) -> Result<Rest, DumpError> {
    ctx.stats.pages_in_pause = plan.pages();
    write(ctx, plan, writer)?;
    Ok(Rest::Nothing)
}

/// Copies the rest; the target goes on.
pub(super) fn finish(
    ctx: &mut DumpContext<'_>,
    rest: Rest,
    writer: &mut ImageWriter,
) -> Result<(), DumpError> {
    let watch = Stopwatch::start();
    match rest {
        Rest::Nothing => {}
        Rest::Captured(plan) => write(ctx, plan, writer)?,
        Rest::Copies(copies) => finish_live(ctx, copies, writer)?,
    }
    ctx.stats.memdump_us += watch.micros();
    Ok(())
}

fn finish_live(
    ctx: &mut DumpContext<'_>,
    copies: Copies,
    writer: &mut ImageWriter,
) -> Result<(), DumpError> {
    let plan = pages::plan(ctx, Part::InCopies(&copies.pids()));
    let written = plan.and_then(|plan| write(ctx, plan, writer));
    let remains = copies.end();
    live::leave_no_trace(ctx, &remains);
    written
}

/// Writes a plan's pages into a page file of their own.
fn write(ctx: &mut DumpContext<'_>, plan: Plan, writer: &mut ImageWriter) -> Result<(), DumpError> {
    pages::check_space(&ctx.options.images_dir, &plan)?;
    let number = ctx.tables.page_files.len() as u32;
    let file = writer.page_file(number).map_err(DumpError::Image)?;
    let copied = copy::run(ctx, &plan, &file, number)?;
    pages::record(ctx, plan, copied);
    Ok(())
}
