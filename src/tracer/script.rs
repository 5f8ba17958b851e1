//! Scripts: batches of system calls that a blob runs inside another process.
//!
//! A script is built without knowing where it will lie; loading it at an
//! address turns [`Arg`]s into numbers. After the run an [`Outcome`] holds what
//! each call returned and what the buffers contain.

use std::borrow::Cow;

use icecore_parasite::{OP_FORKS, OP_MUST_SUCCEED, Op};
use rustix::io::Errno;

/// A batch of system calls under construction.
#[derive(Debug, Default, Clone)]
pub struct Script {
    calls: Vec<PlannedCall>,
    data: Vec<u8>,
    pointers: Vec<Pointer>,
}

/// A word of the data that is to hold an address.
#[derive(Debug, Clone, Copy)]
struct Pointer {
    at: usize,
    to: Arg,
}

#[derive(Debug, Clone)]
struct PlannedCall {
    what: Cow<'static, str>,
    nr: u64,
    args: [Arg; 6],
    flags: u64,
}

/// An argument of a call in a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// A number, or an address that means something in the target already.
    Value(u64),
    /// The address of a buffer of this script.
    Buffer(Buffer),
    /// The address `.1` bytes into a buffer.
    Inside(Buffer, usize),
}

impl Arg {
    /// The number it stands for when the script's data lies at `data`.
    fn address(self, data: u64) -> u64 {
        match self {
            Arg::Value(v) => v,
            Arg::Buffer(b) => data + b.offset as u64,
            Arg::Inside(b, at) => data + (b.offset + at) as u64,
        }
    }
}

impl From<u64> for Arg {
    fn from(v: u64) -> Self {
        Arg::Value(v)
    }
}

/// Sign-extended, as C does.
impl From<i32> for Arg {
    fn from(v: i32) -> Self {
        Arg::Value(i64::from(v) as u64)
    }
}

impl From<u32> for Arg {
    fn from(v: u32) -> Self {
        Arg::Value(v.into())
    }
}

impl From<usize> for Arg {
    fn from(v: usize) -> Self {
        Arg::Value(v as u64)
    }
}

/// The arguments of a call, each whatever an [`Arg`] can be made of.
macro_rules! args {
    ($($arg:expr),* $(,)?) => {
        [$($crate::tracer::Arg::from($arg)),*]
    };
}
pub(crate) use args;

impl From<Buffer> for Arg {
    fn from(b: Buffer) -> Self {
        Arg::Buffer(b)
    }
}

/// A piece of a script's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    offset: usize,
    len: usize,
}

/// A call of a script, to ask its outcome for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call(usize);

/// A call of a script failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ScriptError {
    /// What the call was for.
    pub what: String,
    /// Its error.
    #[source]
    pub errno: Errno,
}

impl Script {
    /// An empty script.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Reserves `len` zeroed bytes, aligned to 64.
    pub fn buffer(&mut self, len: usize) -> Buffer {
        let offset = self.data.len().next_multiple_of(64);
        self.data.resize(offset + len, 0);
        Buffer { offset, len }
    }

    /// Puts `bytes` into the script's data, aligned to 64.
    pub fn bytes(&mut self, bytes: &[u8]) -> Buffer {
        let buffer = self.buffer(bytes.len());
        self.data[buffer.offset..][..bytes.len()].copy_from_slice(bytes);
        buffer
    }

    /// Puts `path` and a terminating NUL into the script's data.
    pub fn c_string(&mut self, path: &[u8]) -> Buffer {
        let mut bytes = path.to_vec();
        bytes.push(0);
        self.bytes(&bytes)
    }

    /// Makes the word `at` bytes into `holder` a pointer to `to`, for
    /// structures that hold addresses (iovec, sock_fprog, sigevent …).
    pub fn pointer(&mut self, holder: Buffer, at: usize, to: impl Into<Arg>) {
        debug_assert!(at + 8 <= holder.len);
        self.pointers.push(Pointer {
            at: holder.offset + at,
            to: to.into(),
        });
    }

    /// Appends a call that must succeed; the script ends where it fails, with
    /// `what` in the error.
    pub fn call(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        nr: u32,
        args: impl IntoIterator<Item = impl Into<Arg>>,
    ) -> Call {
        self.push(what.into(), nr, args, OP_MUST_SUCCEED)
    }

    /// Appends a call that may fail; the caller looks at its outcome.
    pub fn try_call(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        nr: u32,
        args: impl IntoIterator<Item = impl Into<Arg>>,
    ) -> Call {
        self.push(what.into(), nr, args, 0)
    }

    /// Appends a clone(2) that makes a copy of the process. The copy never
    /// leaves the script: unless it is traced and led elsewhere, it ends.
    pub(super) fn fork(&mut self, what: &'static str, flags: u64) -> Call {
        let flags_of_op = OP_MUST_SUCCEED | OP_FORKS;
        self.push(what.into(), libc::SYS_clone as u32, [flags], flags_of_op)
    }

    /// Whether it makes a copy of the process.
    pub(super) fn forks(&self) -> bool {
        self.calls.iter().any(|call| call.flags & OP_FORKS != 0)
    }

    fn push(
        &mut self,
        what: Cow<'static, str>,
        nr: u32,
        args: impl IntoIterator<Item = impl Into<Arg>>,
        flags: u64,
    ) -> Call {
        let mut six = [Arg::Value(0); 6];
        for (slot, arg) in six.iter_mut().zip(args) {
            *slot = arg.into();
        }
        self.calls.push(PlannedCall {
            what,
            nr: u64::from(nr),
            args: six,
            flags,
        });
        Call(self.calls.len() - 1)
    }

    /// Bytes the script takes when loaded: its calls, then its data.
    pub fn loaded_len(&self) -> usize {
        self.data_offset() + self.data.len()
    }

    /// Number of calls.
    pub fn call_count(&self) -> usize {
        self.calls.len()
    }

    /// What each call is for, its number and arguments, as they would be with
    /// the script at `base`.
    pub(super) fn calls(&self, base: u64) -> impl Iterator<Item = (&str, u32, [u64; 6])> {
        let data_base = base + self.data_offset() as u64;
        self.calls.iter().map(move |call| {
            let args = call.args.map(|arg| arg.address(data_base));
            (call.what.as_ref(), call.nr as u32, args)
        })
    }

    fn data_offset(&self) -> usize {
        (self.calls.len() * size_of::<Op>()).next_multiple_of(64)
    }

    /// The script as it lies at address `base` (64-byte aligned).
    pub fn load(&self, base: u64) -> Vec<u8> {
        let data_base = base + self.data_offset() as u64;
        let mut image = Vec::with_capacity(self.loaded_len());
        for call in &self.calls {
            image.extend(call.nr.to_le_bytes());
            for arg in &call.args {
                image.extend(arg.address(data_base).to_le_bytes());
            }
            image.extend(NOT_RUN.to_le_bytes());
            image.extend(call.flags.to_le_bytes());
        }
        image.resize(self.data_offset(), 0);
        image.extend(&self.data);
        for pointer in &self.pointers {
            let at = self.data_offset() + pointer.at;
            image[at..at + 8].copy_from_slice(&pointer.to.address(data_base).to_le_bytes());
        }
        image
    }

    /// Reads the outcome from the script's memory after the run.
    pub fn outcome(&self, memory: Vec<u8>) -> Result<Outcome, ScriptError> {
        let mut results = Vec::with_capacity(self.calls.len());
        for (i, call) in self.calls.iter().enumerate() {
            let at = i * size_of::<Op>() + RET_OFFSET;
            let mut word = [0; 8];
            word.copy_from_slice(&memory[at..at + 8]);
            let ret = i64::from_le_bytes(word);
            if ret < 0 && ret > -4096 && call.flags & OP_MUST_SUCCEED != 0 {
                return Err(ScriptError {
                    what: call.what.to_string(),
                    errno: Errno::from_raw_os_error(-ret as i32),
                });
            }
            results.push(ret);
        }
        Ok(Outcome {
            results,
            data: memory[self.data_offset()..].to_vec(),
        })
    }
}

/// `ret` of a call that the script never came to.
const NOT_RUN: i64 = -(libc::ECANCELED as i64);
const RET_OFFSET: usize = core::mem::offset_of!(Op, ret);

/// What came of a script.
#[derive(Debug, Clone)]
pub struct Outcome {
    results: Vec<i64>,
    data: Vec<u8>,
}

impl Outcome {
    /// What a call returned.
    pub fn result(&self, call: Call) -> Result<u64, Errno> {
        let ret = self.results[call.0];
        if ret < 0 && ret > -4096 {
            Err(Errno::from_raw_os_error(-ret as i32))
        } else {
            Ok(ret as u64)
        }
    }

    /// Contents of a buffer.
    pub fn buffer(&self, buffer: Buffer) -> &[u8] {
        &self.data[buffer.offset..][..buffer.len]
    }

    /// The little-endian word `at` bytes into a buffer.
    pub fn u64_at(&self, buffer: Buffer, at: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.buffer(buffer)[at..at + 8]);
        u64::from_le_bytes(word)
    }

    /// The little-endian 32-bit word `at` bytes into a buffer.
    pub fn u32_at(&self, buffer: Buffer, at: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.buffer(buffer)[at..at + 4]);
        u32::from_le_bytes(word)
    }
}
