//! System calls for victims that the crates in use have no wrapper for.

use std::io;

/// A raw system call. Arguments that are addresses must be those of live memory
/// as large as the call wants it: this is for victims, which pass their own.
pub(crate) fn call(what: &str, nr: i64, args: &[u64]) -> Result<u64, String> {
    let arg = |n: usize| args.get(n).copied().unwrap_or(0);
    // SAFETY: the caller answers for addresses, see above; everything else
    // that a call can do to a process is what victims are for.
    let ret = unsafe { libc::syscall(nr, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    match ret {
        -1 => Err(format!("{what}: {}", io::Error::last_os_error())),
        n => Ok(n as u64),
    }
}

/// prctl(2) with numbers.
pub(crate) fn prctl(what: &str, args: &[u64]) -> Result<u64, String> {
    call(what, libc::SYS_prctl, args)
}

/// A prctl that writes its answer, a word, where it is told.
pub(crate) fn prctl_into(what: &str, option: u64) -> Result<u64, String> {
    let mut word = 0_u64;
    prctl(what, &[option, std::ptr::from_mut(&mut word) as u64])?;
    Ok(word)
}

/// The address of something, for [`call`].
pub(crate) fn at<T: ?Sized>(of: &T) -> u64 {
    std::ptr::from_ref(of).cast::<u8>() as u64
}

/// The address of something that is written to.
pub(crate) fn to<T: ?Sized>(of: &mut T) -> u64 {
    std::ptr::from_mut(of).cast::<u8>() as u64
}

/// The calling thread.
pub(crate) fn tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// An error unless the two are equal.
pub(crate) fn same<T: PartialEq + std::fmt::Debug + ?Sized>(
    what: &str,
    is: &T,
    was: &T,
) -> Result<(), String> {
    match is == was {
        true => Ok(()),
        false => Err(format!("{what}: was {was:?}, is {is:?}")),
    }
}

/// Runs `body` in its own thread for each round: sets up with `set_up`, then
/// checks with `check` whenever asked. See [`Threads`].
type Job = Box<dyn FnMut() -> Result<(), String> + Send>;

/// Threads that check themselves, each in itself.
pub(crate) struct Threads {
    ask: Vec<std::sync::mpsc::Sender<()>>,
    answers: std::sync::mpsc::Receiver<Result<(), String>>,
    tell: std::sync::mpsc::Sender<Result<(), String>>,
}

impl Threads {
    /// None yet.
    pub(crate) fn new() -> Self {
        let (tell, answers) = std::sync::mpsc::channel();
        Self {
            ask: Vec::new(),
            answers,
            tell,
        }
    }

    /// A thread that runs `set_up` and then, whenever asked, what that gave.
    pub(crate) fn spawn(
        &mut self,
        set_up: impl FnOnce() -> Result<Job, String> + Send + 'static,
    ) -> Result<(), String> {
        let (ask, asked) = std::sync::mpsc::channel();
        let tell = self.tell.clone();
        std::thread::spawn(move || {
            let mut check = match set_up() {
                Ok(check) => check,
                Err(e) => return drop(tell.send(Err(e))),
            };
            drop(tell.send(Ok(())));
            while asked.recv().is_ok() {
                drop(tell.send(check()));
            }
        });
        self.ask.push(ask);
        self.answers.recv().map_err(|e| e.to_string())?
    }

    /// Lets every thread check itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        for ask in &self.ask {
            ask.send(()).map_err(|e| e.to_string())?;
            self.answers.recv().map_err(|e| e.to_string())??;
        }
        Ok(())
    }
}
