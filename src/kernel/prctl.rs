//! Numbers of prctl(2), arch_prctl(2), membarrier(2) and keyctl(2) that no
//! crate in use has.

/// arch_prctl: may the CPUID instruction run (1) or does it fault (0)?
pub(crate) const ARCH_GET_CPUID: u64 = 0x1011;
/// arch_prctl: let CPUID run or fault.
pub(crate) const ARCH_SET_CPUID: u64 = 0x1012;
/// arch_prctl: extended-state components the task may use.
pub(crate) const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
/// arch_prctl: ask for a component that needs permission.
pub(crate) const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
/// arch_prctl: which address bits count (LAM).
pub(crate) const ARCH_GET_UNTAG_MASK: u64 = 0x4001;

/// prctl: PR_MCE_KILL's "set", before the policy.
pub(crate) const PR_MCE_KILL_SET: u64 = 1;
/// prctl: how machine checks are announced.
pub(crate) const PR_MCE_KILL: u64 = 33;
/// prctl: read it.
pub(crate) const PR_MCE_KILL_GET: u64 = 34;
/// prctl: the ambient capability set.
pub(crate) const PR_CAP_AMBIENT: u64 = 47;
/// See [`PR_CAP_AMBIENT`].
pub(crate) const PR_CAP_AMBIENT_RAISE: u64 = 2;
/// See [`PR_CAP_AMBIENT`].
pub(crate) const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;
/// prctl: drop a capability from the bounding set.
pub(crate) const PR_CAPBSET_DROP: u64 = 24;

/// membarrier: registrations of the address space (6.3).
pub(crate) const MEMBARRIER_GET_REGISTRATIONS: u64 = 1 << 9;
/// membarrier: succeeds only for who registered for it.
pub(crate) const MEMBARRIER_PRIVATE_EXPEDITED: u64 = 1 << 3;
/// membarrier: register for [`MEMBARRIER_PRIVATE_EXPEDITED`].
pub(crate) const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED: u32 = 1 << 4;

/// keyctl: the id of a keyring.
pub(crate) const KEYCTL_GET_KEYRING_ID: u64 = 0;
/// keyctl: the thread's keyring.
pub(crate) const KEY_SPEC_THREAD_KEYRING: i32 = -1;
/// keyctl: the task's keyring.
pub(crate) const KEY_SPEC_PROCESS_KEYRING: i32 = -2;

/// A prctl of the calling thread that returns its answer; `None` where the
/// kernel does not know it.
pub(crate) fn get(option: u32, arg: u64) -> Option<u32> {
    // SAFETY: the options asked for here take numbers and touch no memory.
    let ret = unsafe { libc::prctl(option as libc::c_int, arg, 0u64, 0u64, 0u64) };
    u32::try_from(ret).ok()
}

/// Whether timers can be created with ids of one's choice (6.15).
pub(crate) fn timer_restore_ids() -> bool {
    use linux_raw_sys::prctl as pr;
    get(
        pr::PR_TIMER_CREATE_RESTORE_IDS,
        pr::PR_TIMER_CREATE_RESTORE_IDS_GET.into(),
    )
    .is_some()
}
