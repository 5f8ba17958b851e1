//! Scheduling as other tasks may read it: attributes, affinity, I/O priority;
//! and the robust list, which is read the same way.

use std::io;

/// Bytes of the `struct sched_attr` that icecore knows (SCHED_ATTR_SIZE_VER1).
pub(crate) const SCHED_ATTR_LEN: usize = 56;
/// Bytes of an affinity mask: 8192 CPUs, the most an x86_64 kernel can have.
const CPU_MASK_LEN: usize = 1024;
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// `struct sched_attr` as the kernel lays it out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SchedAttr {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
    pub(crate) util_min: u32,
    pub(crate) util_max: u32,
}

impl SchedAttr {
    /// The structure for sched_setattr(2).
    pub(crate) fn to_bytes(self) -> [u8; SCHED_ATTR_LEN] {
        let mut bytes = [0; SCHED_ATTR_LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &(SCHED_ATTR_LEN as u32).to_le_bytes());
        put(4, &self.policy.to_le_bytes());
        put(8, &self.flags.to_le_bytes());
        put(16, &self.nice.to_le_bytes());
        put(20, &self.priority.to_le_bytes());
        put(24, &self.runtime.to_le_bytes());
        put(32, &self.deadline.to_le_bytes());
        put(40, &self.period.to_le_bytes());
        put(48, &self.util_min.to_le_bytes());
        put(52, &self.util_max.to_le_bytes());
        bytes
    }

    /// The structure as sched_getattr(2) fills it.
    pub(crate) fn from_bytes(bytes: &[u8; SCHED_ATTR_LEN]) -> Self {
        let u64_at = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let u32_at = |at: usize| {
            let mut half = [0; 4];
            half.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(half)
        };
        Self {
            policy: u32_at(4),
            flags: u64_at(8),
            nice: u32_at(16) as i32,
            priority: u32_at(20),
            runtime: u64_at(24),
            deadline: u64_at(32),
            period: u64_at(40),
            util_min: u32_at(48),
            util_max: u32_at(52),
        }
    }
}

/// sched_getattr(2) of a thread; 0 is the calling one.
pub(crate) fn attributes(tid: u32) -> io::Result<SchedAttr> {
    let mut bytes = [0; SCHED_ATTR_LEN];
    // SAFETY: the kernel writes at most the given number of bytes.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            tid,
            bytes.as_mut_ptr(),
            SCHED_ATTR_LEN,
            0,
        )
    };
    checked(ret).map(|_| SchedAttr::from_bytes(&bytes))
}

/// The CPUs a thread may run on, as a bit mask of bytes without trailing
/// zeros; 0 is the calling thread.
pub(crate) fn affinity(tid: u32) -> io::Result<Vec<u8>> {
    let mut mask = vec![0; CPU_MASK_LEN];
    // SAFETY: the kernel writes at most the given number of bytes.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            tid,
            CPU_MASK_LEN,
            mask.as_mut_ptr(),
        )
    };
    mask.truncate(checked(ret)? as usize);
    while mask.last() == Some(&0) {
        mask.pop();
    }
    Ok(mask)
}

/// ioprio_get(2) of a thread; 0 is the calling one.
pub(crate) fn io_priority(tid: u32) -> io::Result<u32> {
    // SAFETY: takes numbers only.
    let ret = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) };
    checked(ret).map(|prio| prio as u32)
}

/// The head and length a thread registered with set_robust_list(2).
pub(crate) fn robust_list(tid: u32) -> io::Result<(u64, u64)> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: the kernel writes one word to each of the two.
    let ret = unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) };
    checked(ret).map(|_| (head, len))
}

fn checked(ret: libc::c_long) -> io::Result<libc::c_long> {
    match ret {
        -1 => Err(io::Error::last_os_error()),
        n => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_their_layout() {
        let attr = SchedAttr {
            policy: 6,
            flags: 1 << 40,
            nice: -7,
            priority: 3,
            runtime: 4,
            deadline: 5,
            period: 6,
            util_min: 7,
            util_max: 8,
        };
        assert_eq!(SchedAttr::from_bytes(&attr.to_bytes()), attr);
    }

    #[test]
    fn our_own_thread_can_be_read() -> io::Result<()> {
        assert!(attributes(0)?.nice >= -20);
        assert!(affinity(0)?.iter().any(|b| *b != 0));
        io_priority(0)?;
        assert_eq!(robust_list(0)?.1, 24);
        Ok(())
    }

    #[test]
    fn no_such_thread_is_an_error() {
        assert!(attributes(u32::MAX >> 2).is_err());
    }
}
