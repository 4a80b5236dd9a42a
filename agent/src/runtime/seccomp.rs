//! Docker's default seccomp policy, as an OCI policy that depends on the capabilities granted.
//!
//! Allowed is what ordinary programs need; the rest fails with EPERM, and `clone3` with ENOSYS, because its flags cannot be looked at
//! and C libraries then fall back to `clone`. The policy is for x86_64 alone: unlike under Docker, i386 programs end with SIGSYS and
//! x32 calls fail with ENOSYS. Both are doors that images of today do not need.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSeccompOperator,
    LinuxSyscall, LinuxSyscallBuilder,
};

/// Allowed to everybody.
const ALWAYS: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown clock_adjtime clock_getres \
clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl \
epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 \
fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork \
fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat getcpu getcwd \
getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid \
getresuid getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getxattr \
getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents \
ioprio_get ioprio_set io_setup io_submit kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link \
linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier \
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open \
mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at \
nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll \
prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv \
recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq \
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo \
sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler \
sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield select semctl semget semop \
semtimedop sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid \
setresuid setreuid setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setxattr setxattrat shmat \
shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statmount statx symlink symlinkat sync \
sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timerfd_create timerfd_gettime timerfd_settime \
timer_getoverrun timer_gettime timer_settime times tkill truncate umask uname unlink unlinkat uretprobe utime utimensat utimes vfork \
vmsplice wait4 waitid write writev arch_prctl modify_ldt process_vm_readv process_vm_writev ptrace";

/// Allowed with a capability only.
const WITH: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr \
         mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday clock_settime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Personalities that change nothing of weight: Linux, its two layout switches, and asking (personality(2)).
const PERSONALITIES: &[u64] = &[0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// `AF_VSOCK`: reaches past every network namespace to the hypervisor.
const AF_VSOCK: u64 = 40;
/// `CLONE_NEW*` for cgroup, UTS, IPC, user, PID, network and mount namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// `ENOSYS`.
const ENOSYS: u32 = 38;
/// `EPERM`.
const EPERM: u32 = 1;

fn allow(names: &str, args: Option<LinuxSeccompArg>) -> Option<LinuxSyscall> {
    let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    let builder = LinuxSyscallBuilder::default().names(names).action(LinuxSeccompAction::ScmpActAllow);
    match args {
        Some(arg) => builder.args(vec![arg]).build().ok(),
        None => builder.build().ok(),
    }
}

fn argument(op: LinuxSeccompOperator, value: u64, second: Option<u64>) -> Option<LinuxSeccompArg> {
    let builder = LinuxSeccompArgBuilder::default().index(0_usize).op(op).value(value);
    let builder = match second {
        Some(second) => builder.value_two(second),
        None => builder,
    };
    builder.build().ok()
}

/// Docker's default policy for a process that holds these capabilities.
pub fn default_profile(capabilities: &[Capability]) -> LinuxSeccomp {
    let admin = capabilities.contains(&Capability::SysAdmin);
    let mut calls = vec![allow(ALWAYS, None)];
    calls.extend(PERSONALITIES.iter().map(|value| allow("personality", argument(LinuxSeccompOperator::ScmpCmpEq, *value, None))));
    calls.push(allow("socket", argument(LinuxSeccompOperator::ScmpCmpNe, AF_VSOCK, None)));
    calls.extend(WITH.iter().filter(|(capability, _)| capabilities.contains(capability)).map(|(_, names)| allow(names, None)));
    if !admin {
        calls.push(allow("clone", argument(LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NAMESPACES, Some(0))));
        let refused = LinuxSyscallBuilder::default().names(vec!["clone3".to_owned()]);
        calls.push(refused.action(LinuxSeccompAction::ScmpActErrno).errno_ret(ENOSYS).build().ok());
    }
    let calls: Vec<LinuxSyscall> = calls.into_iter().flatten().collect();
    let policy = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(vec![Arch::ScmpArchX86_64])
        .syscalls(calls);
    // Every part is set above; without a policy nothing may run.
    policy.build().expect("all parts of the policy are set")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(policy: &LinuxSeccomp, name: &str) -> Vec<(LinuxSeccompAction, bool)> {
        let calls = policy.syscalls().iter().flatten().filter(|call| call.names().iter().any(|known| known == name));
        calls.map(|call| (call.action(), call.args().is_some())).collect()
    }

    #[test]
    fn namespaces_and_mounts_need_the_capability() {
        let plain = default_profile(&[]);
        let admin = default_profile(&[Capability::SysAdmin]);
        for name in ["mount", "unshare", "setns", "bpf", "open_tree", "keyctl", "add_key", "io_uring_setup", "userfaultfd", "kexec_load"] {
            assert_eq!(actions(&plain, name), [], "{name}");
        }
        assert_eq!(actions(&plain, "clone"), [(LinuxSeccompAction::ScmpActAllow, true)]);
        assert_eq!(actions(&plain, "clone3"), [(LinuxSeccompAction::ScmpActErrno, false)]);
        assert_eq!(actions(&admin, "clone3"), [(LinuxSeccompAction::ScmpActAllow, false)]);
        assert_eq!(actions(&admin, "clone"), [(LinuxSeccompAction::ScmpActAllow, false)]);
        assert_eq!(actions(&admin, "keyctl"), []);
    }

    #[test]
    fn every_name_is_a_system_call() {
        let names = WITH.iter().flat_map(|(_, names)| names.split_whitespace()).chain(ALWAYS.split_whitespace());
        let unknown: Vec<&str> = names.filter(|name| gantry_sys::syscalls::number(name).is_none()).collect();
        assert_eq!(unknown, Vec::<&str>::new());
    }
}
