//! Freezing a forest: a task and everything below it.
//!
//! A task that stands still makes no children, so that what is new can only
//! come from tasks that do not stand yet. They are found in the lists of
//! children of those that do, which are read again and again: first those of
//! the tasks that were frozen last, and when nothing new appears, those of all,
//! until a few passes over all of them have found nothing. (A list
//! may grow when its owner stands: by a child of a task that has just ended,
//! which the kernel gives to the next subreaper above, and by CLONE_PARENT.
//! And the kernel may skip an entry while others vanish.) What escapes upwards,
//! to a process that is not in the forest, does not belong to it any more.
//! [`Frozen::newcomer`] looks once more, later.
//!
//! A parent stands before its children are looked for. So a child that was
//! vforked has its chance to execute its program or to end, before which its
//! parent cannot stop.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::asleep::{self, Asleep};
use super::freeze::{self, FreezeError, FrozenTask, FrozenThread};
use super::ptrace::{Running, TraceError, reap};
use super::refuse;
use crate::kernel::kcmp::{self, Object};
use crate::kernel::proc_text::{self, number, words};
use crate::kernel::stat::Stat;

/// Passes over all tasks that must find nothing new.
const QUIET_PASSES: u32 = 2;

/// The target, frozen. Dropping it lets everything go on unharmed.
#[derive(Debug)]
pub struct Frozen {
    /// Tasks, the root first, parents before children.
    pub tasks: Vec<FrozenTask>,
    /// Children that have ended and were not waited for.
    pub zombies: Vec<Zombie>,
    /// Copies of its tasks that were left behind.
    pub(super) remains: Vec<super::snapshot::Remains>,
    /// When the first thread was seized.
    pub since: Instant,
    /// From then until everything stood still.
    pub freezing: Duration,
}

/// A task of the forest that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zombie {
    /// Its pid.
    pub pid: u32,
    /// Who has not waited for it.
    pub parent: u32,
}

impl Frozen {
    /// Freezes the task `root` and everything below it within `limit`.
    ///
    /// The calling thread is the tracer: everything goes on when it ends.
    pub fn freeze(root: u32, limit: Duration) -> Result<Self, FreezeError> {
        Self::take_over(root, limit, None)
    }

    /// The same for a forest that stands still already, by its cgroup: `thaw`
    /// is called when every thread has been told to stop, before which nobody
    /// can.
    pub fn freeze_thawing(
        root: u32,
        limit: Duration,
        thaw: &mut dyn FnMut() -> std::io::Result<()>,
    ) -> Result<Self, FreezeError> {
        Self::take_over(root, limit, Some(thaw))
    }

    fn take_over(root: u32, limit: Duration, thaw: Thaw<'_>) -> Result<Self, FreezeError> {
        refuse::check(root)?;
        let since = Instant::now();
        let known = match thaw {
            Some(_) => descendants(root)?,
            None => vec![root],
        };
        let mut freezing = Freezing {
            root,
            deadline: since + limit,
            limit,
            tasks: Vec::new(),
            standing: BTreeSet::new(),
            dead: BTreeSet::new(),
            thaw,
        };
        freezing.freeze(known)?;
        freezing.follow()?;
        let (tasks, zombies) = freezing.arrange()?;
        let mut frozen = Self {
            tasks,
            zombies,
            remains: Vec::new(),
            since,
            freezing: Duration::ZERO,
        };
        frozen.find_remains();
        frozen.reserve_shared()?;
        for task in &mut frozen.tasks {
            task.settle(since + limit, limit)?;
        }
        frozen.freezing = since.elapsed();
        Ok(frozen)
    }

    /// A child of one of the tasks that is not in the forest, and its parent.
    /// There is none, unless it slipped through when everything was frozen.
    pub fn newcomer(&self) -> Result<Option<(u32, u32)>, FreezeError> {
        let known: BTreeSet<u32> = (self.tasks.iter().map(|t| t.pid))
            .chain(self.zombies.iter().map(|z| z.pid))
            .collect();
        let threads = self.tasks.iter().map(|t| (t.pid, t.tids()));
        let found = children(&threads.collect::<Vec<_>>())?;
        Ok(found
            .into_iter()
            .map(|(parent, child)| (child, parent))
            .find(|(child, _)| !known.contains(child) && Stat::read(*child).is_ok()))
    }

    /// Lets everything go on.
    pub fn resume(mut self) -> Result<(), TraceError> {
        self.let_go()
    }

    /// Leaves everything stopped as by SIGSTOP.
    pub fn leave_stopped(self) -> Result<(), TraceError> {
        for task in &self.tasks {
            // A task that stands already stays so.
            if task.stopped.is_none() {
                signal_task(task.pid, libc::SIGSTOP)?;
            }
        }
        self.resume()
    }

    /// Ends everything and waits until it has ended.
    pub fn kill(mut self) -> Result<(), TraceError> {
        let tasks = std::mem::take(&mut self.tasks);
        for task in &tasks {
            signal_task(task.pid, libc::SIGKILL)?;
        }
        for mut task in tasks {
            // The leader, which comes first, cannot be waited for before the
            // others are.
            for thread in std::mem::take(&mut task.threads).into_iter().rev() {
                thread.reap();
            }
        }
        Ok(())
    }

    /// Everyone is made ready to leave before the first one leaves.
    fn let_go(&mut self) -> Result<(), TraceError> {
        let astray = self.tasks.iter().any(FrozenTask::is_astray);
        let mut result = Ok(());
        for index in 0..self.tasks.len() {
            self.update_reserved(index);
            let task = &mut self.tasks[index];
            task.keep_stub |= astray;
            result = result.and(task.prepare_to_leave());
        }
        for task in &mut self.tasks {
            result = result.and(task.detach());
        }
        self.tasks.clear();
        result
    }

    /// Tasks that share memory share the place of the stub as well: each leaves
    /// alone what the others have there.
    fn reserve_shared(&mut self) -> Result<(), FreezeError> {
        let tids: Vec<u32> = self.tasks.iter().map(FrozenTask::a_tid).collect();
        let groups =
            kcmp::group(Object::Memory, &tids).map_err(|source| FreezeError::Compare { source })?;
        let mut members = vec![0; groups.len()];
        for group in &groups {
            members[*group as usize] += 1;
        }
        for (task, group) in self.tasks.iter_mut().zip(&groups) {
            task.memory_group = (members[*group as usize] > 1).then_some(*group);
        }
        for index in 0..self.tasks.len() {
            self.update_reserved(index);
        }
        Ok(())
    }

    fn update_reserved(&mut self, index: usize) {
        let group = self.tasks[index].memory_group;
        if group.is_none() {
            return;
        }
        let others = self.tasks.iter().enumerate();
        let others = others.filter(|(i, t)| *i != index && t.memory_group == group);
        let reserved = others.flat_map(|(_, t)| t.addresses_in_use()).collect();
        self.tasks[index].reserved = reserved;
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Whoever cannot be let go so has ended.
        let _ = self.let_go();
    }
}

fn signal_task(pid: u32, signal: i32) -> Result<(), TraceError> {
    // SAFETY: kill touches no memory.
    if unsafe { libc::kill(pid as libc::pid_t, signal) } == 0 {
        return Ok(());
    }
    Err(TraceError::Request {
        request: "kill",
        tid: pid,
        source: std::io::Error::last_os_error(),
    })
}

/// A task in which not everyone may stand yet.
#[derive(Debug)]
struct Growing {
    pid: u32,
    threads: BTreeMap<u32, FrozenThread>,
    stopped: Option<u32>,
}

/// What is frozen so far.
struct Freezing<'a> {
    root: u32,
    deadline: Instant,
    limit: Duration,
    /// Tasks that stand, in the order in which they were found.
    tasks: Vec<Growing>,
    /// Their pids.
    standing: BTreeSet<u32>,
    /// Children of theirs that had ended.
    dead: BTreeSet<u32>,
    /// Called when everyone has been told to stop.
    thaw: Thaw<'a>,
}

type Thaw<'a> = Option<&'a mut dyn FnMut() -> std::io::Result<()>>;

impl Freezing<'_> {
    /// Freezes all that can be found below the tasks that stand.
    fn follow(&mut self) -> Result<(), FreezeError> {
        let (mut from, mut quiet) = (0, 0);
        while quiet < QUIET_PASSES {
            let threads: Vec<_> = self.tasks[from..].iter().map(Growing::tids).collect();
            let new = self.alive_among(children(&threads)?)?;
            match (new.is_empty(), from) {
                (true, 0) => quiet += 1,
                (true, _) => from = 0,
                (false, _) => {
                    quiet = 0;
                    from = self.tasks.len();
                    self.freeze(new)?;
                }
            }
        }
        Ok(())
    }

    /// Those of these children that do not stand yet and have not ended.
    fn alive_among(&mut self, found: Vec<(u32, u32)>) -> Result<Vec<u32>, FreezeError> {
        let mut new = Vec::new();
        for (_, child) in found {
            if self.standing.contains(&child) {
                continue;
            }
            // A pid may be used again.
            match freeze::live_threads(child)?.is_empty() {
                true => drop(self.dead.insert(child)),
                false => new.push(child),
            }
        }
        Ok(new)
    }

    /// Freezes these tasks, those that have not ended.
    fn freeze(&mut self, pids: Vec<u32>) -> Result<(), FreezeError> {
        let mut open: Vec<Growing> = pids.into_iter().map(Growing::new).collect();
        while !open.is_empty() {
            let mut closed = self.seize_new_threads(&mut open)?;
            closed.retain(|task| !task.threads.is_empty());
            self.standing.extend(closed.iter().map(|task| task.pid));
            self.tasks.append(&mut closed);
        }
        match self.tasks.is_empty() {
            true => Err(FreezeError::Ended { pid: self.root }),
            false => Ok(()),
        }
    }

    /// Stops the threads that have appeared since the last time; gives the
    /// tasks that had none.
    fn seize_new_threads(&mut self, open: &mut Vec<Growing>) -> Result<Vec<Growing>, FreezeError> {
        let mut new = Vec::new();
        let mut owners = HashMap::new();
        for (index, task) in open.iter().enumerate() {
            for tid in freeze::live_threads(task.pid)? {
                if !task.threads.contains_key(&tid) {
                    owners.insert(tid, index);
                    new.push(tid);
                }
            }
        }
        let mut seized = freeze::seize_all(asleep::read(&new))?;
        if let Some(thaw) = self.thaw.take() {
            thaw().map_err(|source| FreezeError::Thaw { source })?;
        }
        let mut growing = vec![false; open.len()];
        for (running, _) in &seized {
            growing[owners[&running.tid()]] = true;
        }
        for (index, task) in open.iter_mut().enumerate().filter(|(i, _)| !growing[*i]) {
            for replaced in freeze::take_replaced(&mut task.threads) {
                owners.insert(replaced.0.tid(), index);
                seized.push(replaced);
            }
        }
        growing.fill(false);
        for (running, asleep) in seized {
            let owner = owners[&running.tid()];
            growing[owner] = true;
            open[owner].wait_for(running, asleep, self.deadline, self.limit)?;
        }
        let mut growing = growing.into_iter();
        let is_closed = |_: &mut Growing| !growing.next().unwrap_or(false);
        Ok(open.extract_if(.., is_closed).collect())
    }

    /// The tasks that belong to the forest, parents first, and the zombies.
    fn arrange(mut self) -> Result<(Vec<FrozenTask>, Vec<Zombie>), FreezeError> {
        let mut children: BTreeMap<u32, Vec<Growing>> = BTreeMap::new();
        let mut root = None;
        for task in std::mem::take(&mut self.tasks) {
            match task.pid == self.root {
                true => root = Some(task),
                false => children.entry(task.parent()?).or_default().push(task),
            }
        }
        let root = root.ok_or(FreezeError::Ended { pid: self.root })?;
        let mut tasks = vec![root.finish(None)?];
        let mut next = 0;
        while next < tasks.len() {
            let pid = tasks[next].pid;
            for child in children.remove(&pid).unwrap_or_default() {
                tasks.push(child.finish(Some(pid))?);
            }
            next += 1;
        }
        // Who is left was handed on to a process outside meanwhile: it goes on.
        let pids: BTreeSet<u32> = tasks.iter().map(|t| t.pid).collect();
        let zombies = self.dead.iter().filter_map(|&pid| zombie(pid, &pids));
        Ok((tasks, zombies.collect()))
    }
}

fn zombie(pid: u32, parents: &BTreeSet<u32>) -> Option<Zombie> {
    let stat = Stat::read(pid).ok()?;
    let parent = stat.ppid;
    (stat.state == b'Z' && parents.contains(&parent)).then_some(Zombie { pid, parent })
}

impl Growing {
    fn new(pid: u32) -> Self {
        Self {
            pid,
            threads: BTreeMap::new(),
            stopped: None,
        }
    }

    fn tids(&self) -> (u32, Vec<u32>) {
        (self.pid, self.threads.keys().copied().collect())
    }

    fn wait_for(
        &mut self,
        running: Running,
        asleep: Option<Asleep>,
        deadline: Instant,
        limit: Duration,
    ) -> Result<(), FreezeError> {
        let tid = running.tid();
        match freeze::await_stop(running, asleep, deadline, limit)? {
            Some((thread, stop)) => {
                self.stopped = self.stopped.or(stop);
                self.threads.insert(tid, thread);
            }
            // Its parent has yet to hear of it.
            None => reap(tid),
        }
        Ok(())
    }

    fn parent(&self) -> Result<u32, FreezeError> {
        let tid = self.threads.keys().next().copied().unwrap_or(self.pid);
        let stat = Stat::read(tid).map_err(|_| FreezeError::Ended { pid: self.pid })?;
        Ok(stat.ppid)
    }

    fn finish(self, parent: Option<u32>) -> Result<FrozenTask, FreezeError> {
        let threads = self.threads.into_values().collect();
        let mut task = FrozenTask::new(self.pid, self.stopped, threads)?;
        task.parent = parent;
        Ok(task)
    }
}

/// The children of tasks, given by pid and threads, as pairs of parent and
/// A task and everything below it that has not ended, where nothing moves.
pub(crate) fn descendants(root: u32) -> Result<Vec<u32>, FreezeError> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        let threads = freeze::live_threads(pid)?;
        for (_, child) in children(&[(pid, threads)])? {
            if !all.contains(&child) && !freeze::live_threads(child)?.is_empty() {
                all.push(child);
            }
        }
        next += 1;
    }
    Ok(all)
}

/// child.
fn children(tasks: &[(u32, Vec<u32>)]) -> Result<Vec<(u32, u32)>, FreezeError> {
    let mut found = Vec::new();
    for (pid, tids) in tasks {
        for tid in tids {
            let error = |source| FreezeError::Proc {
                pid: *pid,
                file: "task/TID/children",
                source,
            };
            let path = format!("task/{tid}/children");
            match proc_text::read_if_there(*pid, &path).map_err(error)? {
                Some(list) => found.extend(words(&list).filter_map(number).map(|c| (*pid, c))),
                None if freeze::is_alive(*tid) => return children_by_parent(tasks),
                None => {}
            }
        }
    }
    Ok(found)
}

/// The same on a kernel without CONFIG_PROC_CHILDREN: everybody's parent is
/// looked at.
fn children_by_parent(tasks: &[(u32, Vec<u32>)]) -> Result<Vec<(u32, u32)>, FreezeError> {
    let parents: BTreeSet<u32> = tasks.iter().map(|(pid, _)| *pid).collect();
    let processes = crate::kernel::proc_text::processes().map_err(|source| FreezeError::Proc {
        pid: 0,
        file: "..",
        source,
    })?;
    let parent = |pid: u32| Some((Stat::read(pid).ok()?.ppid, pid));
    let pairs = processes.into_iter().filter_map(parent);
    Ok(pairs.filter(|(ppid, _)| parents.contains(ppid)).collect())
}
